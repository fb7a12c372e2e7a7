"""From logits on a window's grid to a mask on the volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gstk.core.prompts import ObjectPrompts
from gstk.core.regions import Region
from gstk.core.window import Window

__all__ = ["MaskProjector"]


class MaskProjector:
    """Logits on a window's grid, on their way to the volume.

    Attributes:
        region: voxels of the volume that hold all of the mask and every foreground click.
    """

    def __init__(
        self, window: Window, logits: NDArray[np.float32], prompts: ObjectPrompts, volume_shape: Sequence[int]
    ) -> None:
        # A click on the object is part of the mask, be the network's answer there or not.
        self._part, self._logits = window.above_zero(logits, prompts.clicked(foreground_only=True))
        self._volume_shape = volume_shape
        self.region: Region = self._part.inside(volume_shape)

    def project(self) -> NDArray[np.float32]:
        """Logits interpolated at the region's voxels, float32 (z,y,x)."""
        return self._part.back(self._logits, self._volume_shape)

    def project_nearest(self) -> NDArray[np.float32]:
        """As `project` without interpolation: borders are as coarse as the window, and it takes a tenth of the time."""
        return self._part.nearest(self._logits, self._volume_shape)

"""Projects logits from a window's grid to the volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gstk.core.network_image import NetworkImage
from gstk.core.prompts import ObjectPrompts
from gstk.core.regions import Region, union
from gstk.core.training_grid import TrainingGrid
from gstk.core.window import Window
from gstk.session.click_update import clicked_components, spread

__all__ = ["GridProjector", "MaskProjector", "project_on"]


class MaskProjector:
    """Projects logits on a window's grid to the volume, by interpolation.

    Attributes:
        region: voxels of the volume that hold all of the mask and every foreground click.
        is_filtered: whether components without a click are gone already.
    """

    is_filtered = False

    def __init__(
        self, window: Window, logits: NDArray[np.float32], prompts: ObjectPrompts, volume_shape: Sequence[int]
    ) -> None:
        # A foreground click is part of the mask, whatever the network's answer is there.
        self._part, self._logits = window.above_zero(logits, prompts.clicked(foreground_only=True))
        self._volume_shape = volume_shape
        self.region: Region = self._part.inside(volume_shape)

    def project(self) -> NDArray[np.float32]:
        """Logits interpolated at the region's voxels, float32 (z,y,x)."""
        return self._part.back(self._logits, self._volume_shape)

    def project_nearest(self) -> NDArray[np.float32]:
        """As `project` without interpolation: borders are as coarse as the window, and it takes a tenth of the time."""
        return self._part.nearest(self._logits, self._volume_shape)


class GridProjector:
    """Projects logits on the training grid to the volume by nearest voxels, as NVIDIA's pipeline does.

    Components that no click lies in go first, on the grid.

    Attributes:
        region: voxels of the volume that hold all of the mask and every foreground click.
        is_filtered: whether components without a click are gone already.
    """

    is_filtered = True

    def __init__(self, grid: TrainingGrid, window: Window, logits: NDArray[np.float32], prompts: ObjectPrompts) -> None:
        mask = logits > 0
        clicks = prompts.clicked(foreground_only=True)
        kept = clicked_components(mask, window.to_window(clicks))
        part, values = window.above_zero(np.where(mask & ~kept, np.float32(-1), logits))
        self.region, self._values = grid.nearest(part, values)
        for z, y, x in clicks.astype(int):
            self._include((slice(z, z + 1), slice(y, y + 1), slice(x, x + 1)))

    def project(self) -> NDArray[np.float32]:
        """Logits of the nearest voxels at the region's voxels, float32 (z,y,x)."""
        return self._values

    def project_nearest(self) -> NDArray[np.float32]:
        """The same."""
        return self._values

    def _include(self, voxel: Region) -> None:
        wider = union(self.region, voxel)
        if wider != self.region:
            self.region, self._values = wider, spread(self.region, self._values, wider)


def project_on(
    image: NetworkImage, window: Window, logits: NDArray[np.float32], prompts: ObjectPrompts
) -> GridProjector | MaskProjector:
    """The projector of a window's logits: by nearest voxels where the profile says so and the window is on its grid."""
    if image.profile.projection == "nearest" and image.grid is not None and image.grid.holds(window):
        return GridProjector(image.grid, window, logits, prompts)
    return MaskProjector(window, logits, prompts, image.geometry.shape)

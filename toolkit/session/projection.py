"""Projects logits from a window's grid to the volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gstk.core.network_image import NetworkImage
from gstk.core.regions import Region, union
from gstk.core.training_grid import TrainingGrid
from gstk.core.window import Window
from gstk.session.click_update import spread
from gstk.session.window_answer import WindowAnswer

__all__ = ["GridProjector", "MaskProjector", "project_on"]


class MaskProjector:
    """Projects logits on a window's grid to the volume, by interpolation.

    Attributes:
        region: voxels of the volume that hold all of the mask and every foreground click.
        is_filtered: whether components without a click are gone already.
    """

    def __init__(self, answer: WindowAnswer, volume_shape: Sequence[int]) -> None:
        # A foreground click is part of the mask, whatever the network's answer is there.
        clicks = answer.prompts.clicked(foreground_only=True)
        self._part, self._logits = answer.window.above_zero(answer.logits, clicks)
        self._answer, self._volume_shape = answer, volume_shape
        self.region: Region = self._part.inside(volume_shape)
        # The components of the volume's own voxels are those of the window, which are known already.
        self.is_filtered = _is_part_of(answer.window, volume_shape)

    def project(self) -> NDArray[np.float32]:
        """Logits interpolated at the region's voxels, float32 (z,y,x), a fresh array."""
        values = self._part.back(self._logits, self._volume_shape)
        if not self.is_filtered:
            return values
        first = [int(a - b) for a, b in zip(self._part.start, self._answer.window.start, strict=True)]
        inner = tuple(slice(i, i + n) for i, n in zip(first, self._part.shape, strict=True))
        return np.where(self._answer.mask[inner] & ~self._answer.clicked[inner], np.float32(-1), values)

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

    def __init__(self, grid: TrainingGrid, answer: WindowAnswer) -> None:
        kept = np.where(answer.mask & ~answer.clicked, np.float32(-1), answer.logits)
        self.region, self._values = grid.nearest(*answer.window.above_zero(kept))
        for z, y, x in answer.prompts.clicked(foreground_only=True).astype(int):
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


def project_on(image: NetworkImage, answer: WindowAnswer) -> GridProjector | MaskProjector:
    """The projector of a window's logits: by nearest voxels where the profile says so and the window is on its grid."""
    if image.profile.projection == "nearest" and image.grid is not None and image.grid.holds(answer.window):
        return GridProjector(image.grid, answer)
    return MaskProjector(answer, image.geometry.shape)


def _is_part_of(window: Window, volume_shape: Sequence[int]) -> bool:
    """Whether a window's voxels are voxels of the volume."""
    on_voxels = window.step == (1.0, 1.0, 1.0) and all(float(start).is_integer() for start in window.start)
    return on_voxels and all(a >= 0 and b <= n for a, b, n in zip(window.start, window.stop, volume_shape, strict=True))

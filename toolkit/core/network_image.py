"""A volume prepared for a network by its profile: intensities, axes, and the training grid if the profile has one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.intensities import IntensityWindow, prepare_intensities
from gstk.core.orientation import AxisMap, contiguous
from gstk.core.profile import InputProfile
from gstk.core.training_grid import TrainingGrid
from gstk.core.volume import Volume, VolumeWarning
from gstk.core.window import Window

__all__ = ["NetworkImage"]


@dataclass(frozen=True, eq=False)
class NetworkImage:
    """A prepared volume; windows are of the volume, in its own axes (z,y,x).

    Attributes:
        volume: (z,y,x), any real dtype.
        geometry: of the volume.
        low, high: the values of the volume that become the network's 0 and 1.
        axes: from the volume's axes to the network's.
        grid: the training grid; None where the profile has no resolution.
        patch_zyx: sides of the training window, as (z,y,x) of the volume.
        profile: the input profile that the volume was prepared by.
        words: how intensities and axes were prepared, as a text for the user.
    """

    volume: NDArray[Any]
    geometry: Geometry
    low: float
    high: float
    axes: AxisMap
    grid: TrainingGrid | None
    patch_zyx: tuple[int, int, int]
    profile: InputProfile
    words: str

    @classmethod
    def prepare(
        cls,
        volume: Volume,
        profile: InputProfile,
        intensity_window: IntensityWindow = None,
        assume_window: IntensityWindow = None,
    ) -> NetworkImage:
        """Prepares a volume.

        Args:
            volume: in its file's units and axes.
            profile: of the network.
            intensity_window, assume_window: see `gstk.core.intensities.prepare_intensities`.

        Raises:
            ProfileError: the volume does not fit the profile.
            CaseError: a window is unknown.

        Warns:
            VolumeWarning: the volume is probably not what the network was trained on.
        """
        image, low, high, words = prepare_intensities(volume, profile, intensity_window, assume_window)
        if profile.orientation == "RAS" and not volume.has_orientation:
            said = f"{volume.name} does not say how the patient lies: its axes count as right, front and head (RAS)"
            warnings.warn(said, VolumeWarning, stacklevel=3)
        axes = AxisMap.of(profile, volume.geometry, volume.has_orientation)
        grid = TrainingGrid.of(profile, image, volume.geometry)
        if low is None or high is None:
            assert grid is not None  # a profile with a foreground has a grid
            low, high = grid.percentiles(image, profile.intensities.percentiles)
        patch = axes.sides_to_volume(profile.patch)
        return cls(image, volume.geometry, low, high, axes, grid, patch, profile, words)

    def sample(self, window: Window, padding: str = "zero") -> NDArray[np.float32]:
        """A window as the network takes it, float32 [1,1,H,W,D] in its axes, 0 to 1; see `patch`."""
        return self.to_network(self.patch(window, padding))

    def patch(self, window: Window, padding: str = "zero") -> NDArray[np.float32]:
        """The image on a window's grid, float32 (z,y,x), 0 to 1.

        Args:
            window: of the volume.
            padding: see `TrainingGrid.sample`; for windows of the training grid.
        """
        if self.grid is not None and self.grid.holds(window):
            return self.grid.sample(self.volume, self.low, self.high, window, padding)
        return window.sample(self.volume, self.low, self.high)

    def to_network(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """A patch (z,y,x) as the network takes it, float32 [1,1,H,W,D] in its axes."""
        return contiguous(self.axes.to_network(patch))[None, None].astype(np.float32, copy=False)

    def points(self, window: Window, points_zyx: NDArray[np.float64]) -> NDArray[np.float32]:
        """Voxels (K,3) of the volume as voxels of the network's image of a window, float32 (K,3), put inside it."""
        # On the training grid a click at the volume's end may lie beyond the last voxel's middle, and MONAI leaves it.
        rim = 0.5 if self.grid is not None and self.grid.holds(window) else 0.0
        inside = np.clip(window.to_window(points_zyx), -rim, np.array(window.shape, np.float32) - 1 + rim)
        return np.asarray(self.axes.points_to_network(inside, window.shape), np.float32)

    def to_window(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's answer [H,W,D] in a window's axes (z,y,x)."""
        return contiguous(self.axes.to_volume(values)).astype(np.float32, copy=False)

    def training_window(self, point_zyx: Sequence[float] | NDArray[np.float64]) -> Window | None:
        """The window of the training around a click; None where the network has no resolution."""
        return None if self.grid is None else self.grid.window_around(tuple(point_zyx), self.patch_zyx, self.axes)

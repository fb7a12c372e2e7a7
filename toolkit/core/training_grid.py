"""The grid that a network was trained on, laid over a volume: windows on it hold what the training saw.

As MONAI's `Spacing` lays it: its axes are the volume's; its first voxel is the volume's or, on oblique axes with
rounded numbers, as far from it as MONAI shifts it; values between voxels are linear, without a filter. The part around
the foreground is what counts (`CropForeground`); beyond it there is padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.grid_places import GridPlaces
from gstk.core.orientation import AxisMap
from gstk.core.profile import InputProfile
from gstk.core.regions import Region
from gstk.core.resampling import intensity_range
from gstk.core.window import Window
from gstk.errors import ProfileError

__all__ = ["TrainingGrid"]

_RIGHT_ANGLE = 1e-3
"""Largest scalar product of two axes that count as at right angles."""


@dataclass(frozen=True)
class TrainingGrid:
    """Voxels of the training's size over a volume (z,y,x).

    Attributes:
        low, high: first and last voxel of the grid, the last outside, that count.
        places: where the volume's voxels lie on the grid, to the last millionth; for the way back.
        origin: voxel of the volume where the grid's first voxel lies.
    """

    low: tuple[int, int, int]
    high: tuple[int, int, int]
    places: GridPlaces
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, profile: InputProfile, volume: NDArray[Any], geometry: Geometry) -> TrainingGrid | None:
        """The grid of a profile over a volume (z,y,x), cropped as the profile says; None where it has no resolution.

        Raises:
            ProfileError: the volume's axes are not at right angles.
        """
        if profile.spacing_mm == "session":
            return None
        step = (1.0, 1.0, 1.0)
        if not isinstance(profile.spacing_mm, str):
            axes = np.reshape(geometry.direction, (3, 3))
            products = np.abs(axes.T @ axes - np.diag(np.sum(axes**2, axis=0)))
            if products.max() > _RIGHT_ANGLE:
                raise ProfileError(
                    f"got a volume whose axes are not at right angles for the profile {profile.name}, which resamples "
                    f"to {profile.spacing_mm:g} mm; resample it to a grid of right angles first"
                )
            z, y, x = (profile.spacing_mm / side for side in geometry.spacing_mm)
            step = (z, y, x)
        places = GridPlaces.of(geometry, step)
        grid = cls((0, 0, 0), places.sides, places)
        if places.is_centred:
            z, y, x = ((n - m * t) / 2 for n, m, t in zip(volume.shape, places.sides, step, strict=True))
            grid = replace(grid, origin=(z, y, x))
        return grid if profile.crop_margin is None else grid._cropped(volume, profile.crop_margin)

    @property
    def step(self) -> tuple[float, float, float]:
        """Voxels of the volume per voxel of the grid."""
        return self.places.step

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Voxels of the volume."""
        return self.places.shape

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z,y,x) that count."""
        z, y, x = (b - a for a, b in zip(self.low, self.high, strict=True))
        return (z, y, x)

    def window(self, first: Sequence[int], shape: Sequence[int]) -> Window:
        """The window of the grid's voxels from `first` on, which may lie outside of what counts."""
        start = tuple(o + (a - 0.5) * t + 0.5 for a, t, o in zip(first, self.step, self.origin, strict=True))
        return Window(start, self.step, tuple(int(n) for n in shape))  # type: ignore[arg-type]

    def holds(self, window: Window) -> bool:
        """Whether a window's voxels are the grid's."""
        if not np.allclose(window.step, self.step, rtol=1e-9, atol=0):
            return False
        first = (np.array(window.start) - self.origin - 0.5) / self.step + 0.5
        return bool(np.allclose(first, np.rint(first), atol=1e-6))

    def first_of(self, window: Window) -> tuple[int, int, int]:
        """The first voxel of a window that the grid holds."""
        z, y, x = (round((s - o - 0.5) / t + 0.5) for s, t, o in zip(window.start, self.step, self.origin, strict=True))
        return (z, y, x)

    def window_around(self, point_zyx: Sequence[float], sides: Sequence[int], axes: AxisMap) -> Window:
        """The window around a click, where MONAI's `point_based_window_inferer` places it.

        Args:
            point_zyx: voxel of the volume.
            sides: voxels of the window (z,y,x).
            axes: the network's, along which it is placed: the middle of an even side is not symmetric.
        """
        first = [0, 0, 0]
        for along, axis in enumerate(axes.order):
            count, side = self.shape[axis], int(sides[axis])
            place = (point_zyx[axis] - self.origin[axis]) / self.step[axis] - self.low[axis]
            point = round(place, 6)  # to be truncated: without noise
            flipped = axes.flipped[along]
            if flipped:
                point = count - 1 - point
            before = max(side - count, 0) // 2
            padded = max(side, count)
            point += before
            if point - side // 2 < 0:
                start = 0
            elif point + side // 2 > padded:
                start = padded - side
            else:
                start = int(point) - side // 2
            start -= before
            first[axis] = self.high[axis] - start - side if flipped else self.low[axis] + start
        return self.window(first, sides)

    def sample(
        self, volume: NDArray[Any], low: float, high: float, window: Window, padding: str = "zero"
    ) -> NDArray[np.float32]:
        """A window of the grid, float32 (z,y,x), [low, high] of the volume's values as 0 to 1, clipped.

        Args:
            volume: of the grid's shape, any real dtype.
            low, high: what becomes 0 and 1.
            window: one that the grid holds.
            padding: what lies beyond what counts: `zero`, or `replicate`, the nearest voxel.
        """
        first = self.first_of(window)
        index = [
            np.clip(np.arange(a, a + n), lo, hi - 1)
            for a, n, lo, hi in zip(first, window.shape, self.low, self.high, strict=True)
        ]
        inside = [
            (np.arange(a, a + n) >= lo) & (np.arange(a, a + n) < hi)
            for a, n, lo, hi in zip(first, window.shape, self.low, self.high, strict=True)
        ]
        values = self._interpolate(volume, index)
        if high > low:
            values -= np.float32(low)
            values *= np.float32(1 / (high - low))
            np.clip(values, 0, 1, out=values)
        else:
            values[:] = 0
        if padding == "zero":
            for axis, within in enumerate(inside):
                values[tuple(~within if a == axis else slice(None) for a in range(3))] = 0
        return values

    def percentiles(self, volume: NDArray[Any], percentiles: tuple[float, float]) -> tuple[float, float]:
        """Percentiles of all voxels that count, in the volume's units; the whole grid is in memory for it."""
        index = [np.arange(a, b) for a, b in zip(self.low, self.high, strict=True)]
        return intensity_range(self._interpolate(volume, index), percentiles)

    def nearest(self, window: Window, values: NDArray[Any]) -> tuple[Region, NDArray[Any]]:
        """Values of a window on the volume's voxels, each from the nearest voxel of the grid (MONAI's `Invertd`).

        Returns:
            A box of the volume around all voxels whose nearest voxel counts and lies in the window; and their values,
            (z,y,x). Where axes are not quite at right angles, the box's sides may hold other voxels; these get 0.
        """
        first, region = self.first_of(window), []
        least = [max(a, b) for a, b in zip(self.low, first, strict=True)]
        most = [min(b, a + n) for b, a, n in zip(self.high, first, window.shape, strict=True)]
        ends = [self.places.nearest_ends(axis) for axis in range(3)]
        for (low, high), a, b in zip(ends, least, most, strict=True):
            start, stop = int(np.searchsorted(high, a)), int(np.searchsorted(low, b))
            region.append(slice(start, max(start, stop)))
        box, index = (region[0], region[1], region[2]), [np.arange(axis.start, axis.stop) for axis in region]
        if all(np.array_equal(low, high) for low, high in ends):
            return box, values[np.ix_(*(low[i] - a for (low, _), i, a in zip(ends, index, first, strict=True)))]
        found = np.zeros([len(i) for i in index], values.dtype)
        for plane, z in zip(found, index[0], strict=True):
            from_plane = values[self.places.nearest(0, z) - first[0]]
            y = self.places.nearest(1, z, index[1])[:, None]
            x = self.places.nearest(2, z, index[1][:, None], index[2])
            inside = (y >= least[1]) & (y < most[1]) & (x >= least[2]) & (x < most[2])
            y, x = np.broadcast_to(y, x.shape)[inside], x[inside]
            plane[inside] = from_plane[y - first[1], x - first[2]]
        return box, found

    def _cropped(self, volume: NDArray[Any], margin: int) -> TrainingGrid:
        """The part of the grid around its values above 0; all of it where there are none."""
        low, high = list(self.low), list(self.high)
        for axis in range(3):
            first = next((i for i in range(high[axis]) if self._has_foreground(volume, axis, i)), None)
            if first is None:
                return self
            last = next(i for i in range(high[axis] - 1, -1, -1) if self._has_foreground(volume, axis, i))
            low[axis], high[axis] = max(0, first - margin), min(high[axis], last + 1 + margin)
        return replace(self, low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2]))

    def _has_foreground(self, volume: NDArray[Any], axis: int, index: int) -> bool:
        """Whether a plane of the grid, counted on all of it, has a value above 0."""
        at = min(max(self.origin[axis] + index * self.step[axis], 0), volume.shape[axis] - 1)
        planes = slice(math.floor(at), math.floor(at) + 2)
        part = volume[tuple(planes if a == axis else slice(None) for a in range(3))]
        if not (part > 0).any():  # interpolation makes nothing larger than what it is between
            return False
        others = [np.arange(b) for b in self.high]
        others[axis] = np.array([index])
        return bool((self._interpolate(volume, others) > 0).any())

    def _interpolate(self, volume: NDArray[Any], index: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Values at voxels of the grid, float32, linear between those of the volume."""
        where, weights = [], []
        for indices, step, count, origin in zip(index, self.step, volume.shape, self.origin, strict=True):
            at = np.clip(origin + indices * step, 0, count - 1.0)
            below = np.minimum(np.floor(at + 1e-9).astype(np.int64), count - 1)
            where.append(below)
            weights.append(np.clip(at - below, 0, 1))
        support = [slice(int(b.min()), min(int(b.max()) + 2, n)) for b, n in zip(where, volume.shape, strict=True)]
        values = volume[tuple(support)].astype(np.float32)
        for axis in sorted(range(3), key=lambda a: len(index[a]) / values.shape[a]):
            below, weight = where[axis] - support[axis].start, weights[axis]
            lower = np.take(values, below, axis=axis)
            if weight.max() > 1e-7:
                upper = np.take(values, np.minimum(below + 1, values.shape[axis] - 1), axis=axis)
                upper -= lower
                upper *= weight.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
                lower += upper
            values = lower
        return values

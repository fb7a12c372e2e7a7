"""Where the voxels of a volume lie on a training grid whose axes are not quite the volume's.

Axes in files are rounded, NIfTI's to float32, so that they are at right angles but for a millionth. MONAI's `Spacing`
brings the grid's axes to right angles. Where steps are such that many voxels of the volume lie halfway between two of
the grid, as those of 3 mm do between those of 1.5 mm, that millionth decides which one is the nearest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry

__all__ = ["GridPlaces"]

_CORNER = 1e-8
"""How far before the volume's first voxel, in voxels of the grid, MONAI lets others lie to begin the grid there."""
_ROUNDING = 1e-10
"""How far voxels are off, in voxels of the volume, where axes are at right angles but for the arithmetic."""
_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class GridPlaces:
    """Places of a volume's voxels along the axes of a grid, in voxels of the grid; everything is (z,y,x).

    Attributes:
        shape: voxels of the volume.
        sides: voxels of the grid.
        step: voxels of the volume per voxel of the grid.
        upright: what a voxel along each of the volume's axes (columns) is along the grid's (rows), in voxels of the
            volume; near the identity, and 0 above the diagonal.
        first: place of the volume's first voxel.
        is_centred: whether the grid lies around the volume's middle; else it begins at the volume's first voxel.
    """

    shape: tuple[int, int, int]
    sides: tuple[int, int, int]
    step: _Triple
    upright: tuple[_Triple, _Triple, _Triple]
    first: _Triple = (0.0, 0.0, 0.0)
    is_centred: bool = False

    @classmethod
    def of(cls, geometry: Geometry, step: _Triple) -> GridPlaces:
        """The grid that MONAI's `zoom_affine` and `compute_shape_offset` lay over a volume.

        Args:
            geometry: of the volume.
            step: voxels of the volume per voxel of the grid.
        """
        shape, upright = geometry.shape, _upright(geometry)
        reach = [_reach(row, shape, axis) for axis, row in enumerate(upright)]
        along = [row[axis] * (shape[axis] - 1) for axis, row in enumerate(upright)]
        z, y, x = (round((own + high - low) / t + 1) for own, (low, high), t in zip(along, reach, step, strict=True))
        sides = (z, y, x)
        places = cls(shape, sides, step, upright)
        if all(low / t >= -_CORNER for (low, _), t in zip(reach, step, strict=True)):
            return places
        middle = [sum(v * n / 2 for v, n in zip(row, shape, strict=True)) for row in upright]
        first = [m / 2 - middle[axis] / step[axis] for axis, m in enumerate(sides)]
        return replace(places, first=(first[0], first[1], first[2]), is_centred=True)

    def coarser(self, factor: float) -> GridPlaces:
        """Places on a grid with the same first voxel whose voxels are longer by a factor, over all of this one."""
        z, y, x = (t * factor for t in self.step)
        c, b, a = (math.ceil((n - 1) / factor - 1e-9) + 1 for n in self.sides)
        k, j, i = (place / factor for place in self.first)
        return replace(self, step=(z, y, x), sides=(c, b, a), first=(k, j, i))

    def nearest(self, axis: int, *index_zyx: NDArray[np.integer] | np.integer) -> NDArray[np.int64]:
        """The nearest voxels of the grid along one of its axes.

        Args:
            axis: of the grid.
            index_zyx: voxels of the volume, as many axes as `axis` depends on: z; z and y; or all.
        """
        of_volume: NDArray[np.float64] | np.float64 = np.float64(0)
        for value, index in zip(self.upright[axis], index_zyx, strict=False):
            of_volume = of_volume + value * np.asarray(index, np.float64)
        return self._rounded(axis, of_volume)

    def nearest_ends(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The least and the largest of the nearest voxels of the planes along an axis of the volume."""
        along = self.upright[axis][axis] * np.arange(self.shape[axis], dtype=np.float64)
        low, high = (self._rounded(axis, end + along) for end in _reach(self.upright[axis], self.shape, axis))
        return low, high

    def _rounded(self, axis: int, of_volume: NDArray[np.float64] | np.float64) -> NDArray[np.int64]:
        """The nearest voxels of the grid to places in voxels of the volume."""
        place = of_volume / self.step[axis] + self.first[axis]
        return np.clip(np.rint(place), 0, self.sides[axis] - 1).astype(np.int64)


def _reach(row: _Triple, shape: Sequence[int], axis: int) -> tuple[float, float]:
    """The least and the largest that the volume's other axes add to a place along one, in voxels of the volume."""
    ends = [value * (n - 1) for value, n in zip(row[:axis], shape, strict=False)]
    return sum(min(0.0, end) for end in ends), sum(max(0.0, end) for end in ends)


def _upright(geometry: Geometry) -> tuple[_Triple, _Triple, _Triple]:
    """What a voxel along each axis of the volume (columns) is along axes at right angles (rows), in voxels; (z,y,x).

    MONAI's `zoom_affine` takes the Cholesky factor of the products of the axes. In plain numbers, so that C++ does
    the same to the bit.
    """
    direction, spacing = geometry.direction, geometry.spacing_mm
    own = [[direction[3 * row + axis] * spacing[2 - axis] for row in range(3)] for axis in range(3)]  # x, y, z
    factor = [[0.0] * 3 for _ in range(3)]
    for i in range(3):
        for j in range(i + 1):
            value = own[i][0] * own[j][0] + own[i][1] * own[j][1] + own[i][2] * own[j][2]
            for k in range(j):
                value -= factor[i][k] * factor[j][k]
            factor[i][j] = math.sqrt(value) if i == j else value / factor[j][j]
    z, y, x = (
        (factor[2][i] / spacing[a], factor[1][i] / spacing[a], factor[0][i] / spacing[a])
        for a, i in enumerate((2, 1, 0))
    )
    off = max(
        abs(v - (a == b)) * n
        for a, row in enumerate((z, y, x))
        for b, (v, n) in enumerate(zip(row, geometry.shape, strict=True))
    )
    return (z, y, x) if off > _ROUNDING else ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

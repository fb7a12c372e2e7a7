"""Slices on no regular grid (a gantry tilt, uneven distances), and the regular grid that they are resampled to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point, Voxel
from gstk.errors import PromptError

__all__ = ["SliceGrid"]


@dataclass(frozen=True, eq=False)
class SliceGrid:
    """The positions of slices that were resampled to a regular grid, and the mapping in both directions.

    Attributes:
        geometry: of the slices as they were read, the best that one affine can say: exact for a steady tilt, whose
            axes are not at right angles; for uneven slices their mean spacing.
        regular: of the grid that they were resampled to; its axes are at right angles.
        plane: float64 (n,), the regular grid's plane of each slice, ascending.
        offset_yx: float64 (n, 2), the regular grid's row and column of each slice's pixel (0, 0); not below 0.
    """

    geometry: Geometry
    regular: Geometry
    plane: npt.NDArray[np.float64]
    offset_yx: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        positions: npt.NDArray[np.float64],
        axes_xyz: npt.NDArray[np.float64],
        spacing_mm: Sequence[float],
    ) -> SliceGrid:
        """The grid of slices that share their x and y axes.

        Args:
            shape: (n, rows, columns) of the slices, n of at least 2.
            positions: (n, 3), LPS mm (x, y, z) of each slice's pixel (0, 0), ascending along the z axis.
            axes_xyz: (3, 3), the unit vectors x, y and z in LPS, one a row, at right angles.
            spacing_mm: of the regular grid (z, y, x).
        """
        x, y, z = axes_xyz
        heights_mm = (positions - positions[0]) @ z
        offset_yx = (positions - positions[0]) @ np.column_stack([y, x]) / np.asarray(spacing_mm[1:])
        lowest_yx = offset_yx.min(axis=0)
        reach_yx = np.ceil(offset_yx.max(axis=0) - lowest_yx - 1e-6).astype(int)
        regular_shape = (round(heights_mm[-1] / spacing_mm[0]) + 1, shape[1] + reach_yx[0], shape[2] + reach_yx[1])
        corner = positions[0] + lowest_yx[0] * spacing_mm[1] * y + lowest_yx[1] * spacing_mm[2] * x
        step, first = np.polyfit(np.arange(len(positions)), positions, 1)
        length_mm = float(np.linalg.norm(step))
        read = _geometry(shape, (length_mm, *spacing_mm[1:]), first, np.column_stack([x, y, step / length_mm]))
        regular = _geometry(regular_shape, spacing_mm, corner, np.column_stack([x, y, z]))
        return cls(read, regular, heights_mm / spacing_mm[0], offset_yx - lowest_yx)

    def resample(self, slices: npt.NDArray[Any], nearest: bool = False) -> npt.NDArray[Any]:
        """Interpolate slices to the regular grid, linearly; what no slice covers becomes the minimum.

        Args:
            slices: (n, rows, columns), any integer or float dtype.
            nearest: take the nearest pixel instead, for label maps.

        Returns:
            (z, y, x) of `regular`, in the same dtype.
        """
        if nearest:
            return self._nearest_pixels(slices)
        fill = float(slices.min())
        result = np.empty(self.regular.shape, slices.dtype)
        placed: dict[int, npt.NDArray[np.float32]] = {}
        last = len(self.plane) - 1
        for z in range(len(result)):
            below = int(np.clip(np.searchsorted(self.plane, z, "right") - 1, 0, max(0, last - 1)))
            above = min(below + 1, last)
            gap = float(self.plane[above] - self.plane[below])
            weight = float(np.clip((z - self.plane[below]) / gap, 0, 1)) if gap > 0 else 0.0
            placed = {i: placed[i] if i in placed else self._place(slices[i], i, fill) for i in (below, above)}
            plane = placed[below] * (1 - weight) + placed[above] * weight
            result[z] = np.rint(plane) if result.dtype.kind in "iu" else plane
        return result

    def restore(self, mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A mask of the regular grid, (z, y, x), on the slices as they were read, (n, rows, columns)."""
        _, rows, columns = self.geometry.shape
        restored = np.empty(self.geometry.shape, mask.dtype)
        for k in range(len(restored)):
            z = self._plane_of(k)
            y, x = (_nearest(np.arange(n) + self.offset_yx[k, a]) for a, n in enumerate((rows, columns)))
            restored[k] = mask[z][np.ix_(np.clip(y, 0, mask.shape[1] - 1), np.clip(x, 0, mask.shape[2] - 1))]
        return restored

    def to_regular(self, prompts: Mapping[int, ObjectPrompts]) -> dict[int, ObjectPrompts]:
        """Prompts in voxels of the slices as they were read, in voxels of the regular grid.

        Raises:
            PromptError: one lies outside the slices.
        """
        return {
            object_id: ObjectPrompts(
                tuple(Point(self._voxel(point.zyx), point.foreground) for point in given.points),
                None if given.box is None else self._box(given.box),
            )
            for object_id, given in prompts.items()
        }

    def _nearest_pixels(self, slices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        result = np.full(self.regular.shape, slices.min(), slices.dtype)
        for z in range(len(result)):
            k = int(np.abs(self.plane - z).argmin())
            y, x = (_nearest(np.arange(n) - self.offset_yx[k, a]) for a, n in enumerate(self.regular.shape[1:]))
            rows, columns = ((i >= 0) & (i < n) for i, n in zip((y, x), slices.shape[1:], strict=True))
            result[z][np.ix_(rows, columns)] = slices[k][np.ix_(y[rows], x[columns])]
        return result

    def _plane_of(self, k: int) -> int:
        return int(np.clip(_nearest(self.plane[k]), 0, self.regular.shape[0] - 1))

    def _voxel(self, zyx: Voxel) -> Voxel:
        if not self.geometry.contains(zyx):
            raise PromptError(f"got (z, y, x) {zyx}, expected it inside the slices read, {self.geometry.shape}")
        k = zyx[0]
        y, x = (int(_nearest(zyx[1 + a] + self.offset_yx[k, a])) for a in (0, 1))
        return self._plane_of(k), min(y, self.regular.shape[1] - 1), min(x, self.regular.shape[2] - 1)

    def _box(self, box: Box) -> Box:
        low = self._voxel((box.z_mid, box.z_mid_y_min, box.z_mid_x_min))  # a box has its extent on its middle slice
        high = self._voxel((box.z_mid, box.z_mid_y_max, box.z_mid_x_max))
        first, last = (self._voxel((z, 0, 0))[0] for z in (box.z_min, box.z_max))
        return Box(first, last, low[0], low[2], low[1], high[2], high[1])

    def _place(self, image: npt.NDArray[Any], k: int, fill: float) -> npt.NDArray[np.float32]:
        """One slice at its place in a plane of the regular grid."""
        placed = np.asarray(image, np.float32)
        for axis in (0, 1):
            whole = int(np.floor(self.offset_yx[k, axis]))
            part = float(self.offset_yx[k, axis]) - whole
            count = self.regular.shape[1 + axis]
            line = [(0, 0), (0, 0)]
            line[axis] = (whole + 1, max(0, count - whole - placed.shape[axis]))
            padded = np.moveaxis(np.pad(placed, line, constant_values=fill), axis, 0)
            # Voxel i of the grid shows pixel i - whole - part, between two pixels.
            moved = padded[1 : count + 1] * (1 - part) + padded[:count] * part
            placed = np.moveaxis(moved, 0, axis)
        return placed


def _geometry(
    shape: Sequence[int], spacing_mm: Sequence[float], origin_mm: npt.ArrayLike, columns: npt.NDArray[np.float64]
) -> Geometry:
    origin = tuple(np.asarray(origin_mm, np.float64).tolist())
    return Geometry(tuple(shape), tuple(spacing_mm), origin, tuple((columns + 0.0).ravel().tolist()))  # type: ignore[arg-type]


def _nearest(values: Any) -> Any:
    return np.floor(np.asarray(values) + 0.5).astype(np.int64)

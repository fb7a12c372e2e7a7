"""Windows: the parts of a volume that the network sees, sampled at a resolution, and projected back.

Voxel coordinates have their integers at voxel centres; a *face* coordinate is half a voxel further, so that a volume of
n voxels lies between the faces 0 and n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.regions import bounds
from gstk.core.resampling import resample, sample

__all__ = ["Faces", "Window", "WindowPolicy", "bounding_faces", "frame"]

Triple = tuple[float, float, float]
Faces = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Window:
    """An axis-aligned region of a volume, sampled on the network's grid.

    Attributes:
        start: its first face along (z,y,x), in voxels of the volume; negative where it reaches outside.
        step: voxels of the volume per voxel of the window; below 1 is finer than the volume.
        shape: its voxels (z,y,x), each a multiple of the network's.
    """

    start: Triple
    step: Triple
    shape: tuple[int, int, int]

    @property
    def stop(self) -> Triple:
        """Its last face along (z,y,x), in voxels of the volume."""
        z, y, x = (s + t * n for s, t, n in zip(self.start, self.step, self.shape, strict=True))
        return (z, y, x)

    def side_mm(self, geometry: Geometry) -> float:
        """Side of a voxel of the window in a volume of that geometry, the mean of its axes."""
        return float(np.cbrt(np.prod(np.array(self.step) * geometry.spacing_mm)))

    def to_window(self, points_zyx: NDArray[np.float64]) -> NDArray[np.float32]:
        """Voxel coordinates of the volume, (..., 3), as voxel coordinates of the window; float32, may lie outside."""
        shifted = (np.asarray(points_zyx, np.float64) + 0.5 - np.array(self.start)) / np.array(self.step) - 0.5
        return np.asarray(shifted, np.float32)

    def holds(self, points_zyx: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the voxel coordinates (..., 3) lie inside."""
        faces = np.asarray(points_zyx, np.float64) + 0.5
        return np.asarray(np.all((faces >= self.start) & (faces <= self.stop), axis=-1))

    def sample(self, volume: NDArray[np.generic], low: float, high: float) -> NDArray[np.float32]:
        """A volume (z,y,x) of any real dtype on the window's grid, [low, high] normalised to 0–1; 0 outside of it."""
        # Only the voxels that the window's kernels reach are converted: a volume may be far larger than a window.
        support = [
            slice(min(n, max(0, int(s - t) - 1)), max(0, min(n, int(e + t) + 2)))
            for s, e, t, n in zip(self.start, self.stop, np.maximum(self.step, 1), volume.shape, strict=True)
        ]
        if any(axis.stop <= axis.start for axis in support):
            return np.zeros(self.shape, np.float32)
        start = [s - axis.start for s, axis in zip(self.start, support, strict=True)]
        return sample(volume[tuple(support)], low, high, start, self.step, self.shape)

    def inside(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """The voxels of a volume of `shape` whose centres lie in the window."""
        low = [max(0, int(np.ceil(s - 0.5))) for s in self.start]
        high = [min(n, int(np.ceil(s - 0.5))) for n, s in zip(shape, self.stop, strict=True)]
        z, y, x = (slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
        return (z, y, x)

    def back(self, values: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
        """Values on the window's grid, float32 (z,y,x), at the volume's voxels `inside(shape)`."""
        where = self.inside(shape)
        if any(s.start == s.stop for s in where):
            return np.zeros([s.stop - s.start for s in where], np.float32)
        start = [(s.start - a) / t for s, a, t in zip(where, self.start, self.step, strict=True)]
        step = [1 / t for t in self.step]
        return resample(values, start, step, [s.stop - s.start for s in where], outside="edge")

    def nearest(self, values: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
        """As `back`, but each voxel takes the nearest value: coarse, and ten times as fast."""
        where = self.inside(shape)
        index = [
            np.clip(((np.arange(s.start, s.stop) + 0.5 - a) / t).astype(np.intp), 0, n - 1)
            for s, a, t, n in zip(where, self.start, self.step, self.shape, strict=True)
        ]
        return values[np.ix_(*index)]

    def part(self, low: Sequence[int], high: Sequence[int], finer: int = 1) -> Window:
        """The window of its voxels from `low` up to, without, `high`; each divided into `finer` along each axis."""
        start = tuple(s + t * n for s, t, n in zip(self.start, self.step, low, strict=True))
        shape = tuple(finer * (b - a) for a, b in zip(low, high, strict=True))
        return Window(start, tuple(t / finer for t in self.step), shape)  # type: ignore[arg-type]

    def above_zero(
        self, values: NDArray[np.float32], points_zyx: NDArray[np.float64] | None = None
    ) -> tuple[Window, NDArray[np.float32]]:
        """The part of the window around all values above 0, with a few voxels more on each side, and its values.

        It contains `points_zyx`, (K,3) voxels of the volume inside the window, too. Above 0, `back` gives the same for
        the part as for the whole; an object is often far smaller than its window.
        """
        low, high = [], []
        box = bounds(values > 0)
        for axis, step in enumerate(self.step):
            rim = 1 + 2 * math.ceil(max(1.0, 1 / step))  # a voxel that they reach, and what else that is a mean of
            occupied = [] if box is None else [box[axis].start, box[axis].stop - 1]
            if points_zyx is not None and len(points_zyx):
                near = np.rint(self.to_window(points_zyx)[:, axis]).astype(int)
                occupied += np.clip([near.min(), near.max()], 0, self.shape[axis] - 1).tolist()
            low.append(max(0, min(occupied, default=0) - rim))
            high.append(min(self.shape[axis], max(occupied, default=0) + rim + 1))
        return self.part(low, high), values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]


@dataclass(frozen=True)
class WindowPolicy:
    """How windows are made.

    Attributes:
        max_voxels: most voxels of a window.
        multiple, min_side: what sides are multiples of, and their least, from the bundle.
        margin: context on each side of the object, over its longest side.
        min_step: least step, voxels of the volume (of its finest axis) per voxel of the window.
        min_mm: least side of a window's voxel.
        training_window: the window of the network's training around a voxel of the volume; None where it has none.
        adapts: whether wider and narrower windows follow the first where the mask asks for them.
        is_draft: whether finer windows will be answered in anyway, so that what is beside the network can wait.
    """

    max_voxels: int
    multiple: int
    min_side: int
    margin: float = 0.4
    min_step: float = 0.5
    min_mm: float = 0.0
    training_window: Callable[[Sequence[float]], Window | None] | None = None
    adapts: bool = True
    is_draft: bool = False


def bounding_faces(points_zyx: NDArray[np.float64]) -> Faces:
    """First and last faces of the voxels (K, 3)."""
    points = np.asarray(points_zyx, np.float64).reshape(-1, 3)
    return points.min(axis=0), points.max(axis=0) + 1.0


def frame(geometry: Geometry, low: NDArray[np.float64], high: NDArray[np.float64], policy: WindowPolicy) -> Window:
    """The window around an object between two faces: isotropic in millimetres, inside the volume where it fits.

    Args:
        geometry: the volume's.
        low, high: faces of the object, (3,) voxels of the volume.

    Returns:
        A window of at most `policy.max_voxels` voxels, unless the least sides need more.
    """
    spacing = np.array(geometry.spacing_mm)
    shape = np.array(geometry.shape, float)
    extent_mm = (high - low) * spacing
    field_mm = np.minimum(extent_mm + 2 * policy.margin * extent_mm.max(), shape * spacing)
    finest_mm = max(policy.min_step * float(spacing.min()), policy.min_mm)
    voxel_mm = max(finest_mm, float(np.prod(field_mm) / policy.max_voxels) ** (1 / 3))
    while True:
        sides = np.maximum(np.ceil(field_mm / voxel_mm / policy.multiple) * policy.multiple, policy.min_side)
        if np.prod(sides) <= policy.max_voxels or (sides <= policy.min_side).all():
            break
        voxel_mm *= 1.02
    step = voxel_mm / spacing
    step = np.where((np.abs(step - 1) < 0.03) & (sides >= high - low), 1.0, step)
    size = sides * step
    centre = np.clip((low + high) / 2, np.minimum(size / 2, shape / 2), np.maximum(shape - size / 2, shape / 2))
    # On whole voxels: where the steps are 1 the window then holds the volume's own values.
    start = np.rint(centre - size / 2)
    return Window(tuple(start.tolist()), tuple(step.tolist()), tuple(int(n) for n in sides))  # type: ignore[arg-type]

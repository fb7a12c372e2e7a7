"""What is done to voxels on their way into the network and back: the same numbers in training, here and in C++.

A leaf module (NumPy alone, imports nothing of gstk) that every room may import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["axis_weights", "bring_within_reach", "intensity_range", "normalise", "resample", "sample", "value_counts"]

PERCENTILES = (1.0, 99.0)
"""Percentiles of the whole volume that become 0 and 1 (the paper, section 3.2)."""
_EXACT = 2**53
"""Integers up to it are float64 numbers."""
_LARGE = 2.0**512
_SLAB_VOXELS = 2**22
"""Of a large volume, so many are looked at at a time."""
_COUNTED_VOXELS = 2**18
"""As `_SLAB_VOXELS`, where they become indices of 8 bytes: these stay in the processor's cache."""


def bring_within_reach(volume: NDArray[Any]) -> NDArray[Any]:
    """A volume whose differences float64 can hold, for percentiles and what else is linear in its values.

    Args:
        volume: any real dtype, finite.

    Returns:
        The volume itself, but for integers beyond 2**53 and floats whose range is beyond what can be divided by: those
        as float64, less their minimum or times a power of two, with the contrast that they had.
    """
    if volume.dtype.kind in "iu" and volume.dtype.itemsize == 8:
        first, last = int(volume.min()), int(volume.max())
        if max(abs(first), abs(last)) <= _EXACT:
            return volume
        return (volume.astype(np.uint64) - np.uint64(first % 2**64)).astype(np.float64)  # modulo 2**64, so exact
    if volume.dtype != np.float64:
        return volume
    low, high = float(volume.min()), float(volume.max())
    largest = max(abs(low), abs(high))
    if largest > _LARGE:
        return volume / np.float64(_LARGE)
    if 0 < high - low < 1 / _LARGE and largest < 1:
        return volume * np.float64(_LARGE)
    return volume


def intensity_range(volume: NDArray[np.generic], percentiles: tuple[float, float] = PERCENTILES) -> tuple[float, float]:
    """Two percentiles of a whole volume, linearly interpolated.

    Args:
        volume: any real dtype, any shape.
        percentiles: 0 to 100, rising.

    Returns:
        (low, high) in the volume's units. Equal percentiles (nearly all voxels the same) fall back to the minimum
        and maximum, so that a small bright object on nothing still has contrast.
    """
    # Not np.percentile: it subtracts neighbours in rank in the volume's own dtype, where that may overflow.
    position = np.array(percentiles) / 100 * (volume.size - 1)
    below = position.astype(np.int64)
    above = np.minimum(below + 1, volume.size - 1)
    if volume.dtype.kind in "iu" and volume.dtype.itemsize <= 2:
        first, second = _ranked(volume, np.stack([below, above]))
    else:
        ranked = volume.flatten()
        ranked.partition(np.unique([below, above]))
        first, second = ranked[below].astype(np.float64), ranked[above].astype(np.float64)
    low, high = (float(v) for v in first + (position - below) * (second - first))
    if not high > low:
        low, high = float(volume.min()), float(volume.max())
    return low, high


def _ranked(volume: NDArray[np.generic], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """The values at some ranks of small integers."""
    low = float(np.iinfo(volume.dtype).min)  # type: ignore[type-var]
    return np.searchsorted(np.cumsum(value_counts(volume)), ranks, side="right").astype(np.float64) + low


def value_counts(volume: NDArray[np.generic]) -> NDArray[np.int64]:
    """How often each value of an integer dtype of 8 or 16 bits occurs, from its least on; no copy of the volume."""
    dtype = volume.dtype
    counts = np.zeros(2 ** (8 * dtype.itemsize), np.int64)
    flat = volume.reshape(-1, order="A") if volume.flags.forc else volume.reshape(-1)
    for first in range(0, flat.size, _COUNTED_VOXELS):
        slab = np.ascontiguousarray(flat[first : first + _COUNTED_VOXELS], dtype.newbyteorder("="))
        if dtype.itemsize == 1 and slab.size % 2 == 0:  # two voxels at a time take half as long
            pairs = np.bincount(slab.view(np.uint16), minlength=2**16).reshape(2**8, 2**8)
            counts += pairs.sum(axis=0) + pairs.sum(axis=1)
        else:
            counts += np.bincount(slab.view(f"u{dtype.itemsize}"), minlength=counts.size)
    return np.roll(counts, counts.size // 2) if dtype.kind == "i" else counts  # negative ones first


def sample(
    volume: NDArray[np.generic],
    low: float,
    high: float,
    start: Sequence[float],
    step: Sequence[float],
    shape: Sequence[int],
) -> NDArray[np.float32]:
    """`resample` of the volume, `normalise`d, 0 outside of it; a large one is never there as float32 as a whole.

    Args:
        volume: any real dtype (z,y,x).
        low, high: what becomes 0 and 1.
        start, step, shape: see `resample`.
    """
    first = min(range(3), key=lambda a: shape[a] / volume.shape[a])
    slabs = -(-volume.size // _SLAB_VOXELS)
    if slabs == 1 or shape[first] >= volume.shape[first]:
        return resample(normalise(volume, low, high), start, step, shape)

    def only(values: Sequence[float], neutral: Sequence[float], of_first: bool) -> list[float]:
        return [v if (a == first) == of_first else n for a, (v, n) in enumerate(zip(values, neutral, strict=True))]

    # The axis that shrinks most goes first; slabs lie across another.
    along = 1 if first == 0 else 0
    still, same = (0, 0, 0), (1, 1, 1)
    reduced = np.empty([int(n) for n in only(shape, volume.shape, True)], np.float32)
    for part in np.array_split(np.arange(volume.shape[along]), min(slabs, volume.shape[along])):
        where = tuple(slice(int(part[0]), int(part[-1]) + 1) if a == along else slice(None) for a in range(3))
        slab = normalise(volume[where], low, high)
        reduced[where] = resample(slab, only(start, still, True), only(step, same, True), reduced[where].shape)
    return resample(reduced, only(start, still, False), only(step, same, False), shape)


def normalise(voxels: NDArray[np.generic], low: float, high: float) -> NDArray[np.float32]:
    """Maps [low, high] to [0, 1] and clips.

    Returns:
        float32 of the same shape; all 0 where low equals high.
    """
    if not high > low:
        return np.zeros(voxels.shape, np.float32)
    scale = min(1.0 / (high - low), float(np.finfo(np.float32).max))
    if voxels.dtype == np.float64 or (voxels.dtype.kind in "iu" and voxels.dtype.itemsize > 2):
        wide = (voxels.astype(np.float64) - low) / (high - low)  # in float32 they could all be the same number
        return np.clip(wide, 0.0, 1.0, out=wide).astype(np.float32)
    scaled = (voxels.astype(np.float32) - np.float32(low)) * np.float32(scale)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def axis_weights(
    n_in: int, n_out: int, start: float, step: float, outside: Literal["zero", "edge"] = "zero"
) -> NDArray[np.float32]:
    """Interpolation along one axis as a matrix.

    Output voxel i has its centre at input coordinate `start + (i + 0.5)·step - 0.5` (voxel centres are integers). The
    kernel is a triangle of half-width max(step, 1): linear interpolation, widened to an antialiasing filter where
    the output is coarser.

    Args:
        n_in, n_out: voxels along the axis.
        start: coordinate of the window's first face, in input voxels plus one half: 0 is the volume's own face.
        step: input voxels per output voxel, > 0.
        outside: what lies beyond the input: 0, or the nearest voxel's value.

    Returns:
        float32 (n_out, n_in). Rows sum to 1, less what "zero" leaves outside.
    """
    centre = start + (np.arange(n_out) + 0.5) * step - 0.5
    half = max(step, 1.0)
    first = np.floor(centre - half).astype(np.int64) + 1
    index = first[:, None] + np.arange(int(np.ceil(2 * half)) + 1)[None]
    weight = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / half)
    weight /= weight.sum(axis=1, keepdims=True)
    inside = (index >= 0) & (index < n_in)
    if outside == "zero":
        weight = np.where(inside, weight, 0.0)
    matrix = np.zeros((n_out, n_in))
    np.add.at(matrix, (np.arange(n_out)[:, None], np.clip(index, 0, n_in - 1)), weight)
    return matrix.astype(np.float32)


def resample(
    volume: NDArray[np.float32],
    start: Sequence[float],
    step: Sequence[float],
    shape: Sequence[int],
    outside: Literal["zero", "edge"] = "zero",
) -> NDArray[np.float32]:
    """Samples an axis-aligned window of a volume, separably, axis by axis.

    Args:
        volume: float32 (z,y,x).
        start, step, shape: per axis, as in `axis_weights`; shape is the output's.

    Returns:
        float32 of `shape`, contiguous.
    """
    result = volume
    # Axes that shrink most go first, so that the others have less to do.
    for axis in sorted(range(3), key=lambda a: shape[a] / volume.shape[a]):
        if start[axis] == 0 and step[axis] == 1 and shape[axis] == volume.shape[axis]:
            continue
        matrix = axis_weights(volume.shape[axis], shape[axis], start[axis], step[axis], outside)
        used = np.flatnonzero(matrix.any(axis=0))
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
        part = result[tuple(slice(low, high) if a == axis else slice(None) for a in range(3))]
        result = np.moveaxis(np.tensordot(matrix[:, low:high], part, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(result, dtype=np.float32)

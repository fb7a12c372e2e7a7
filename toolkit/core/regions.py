"""Regions of a volume, and the connected components of masks.

SciPy's image module takes 0.2 s to import, as long as a backend takes to load a small network: it is imported when the
first mask is there.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Region", "bounds", "components_with", "connected_components", "intersects", "union", "voxel_count"]

Region = tuple[slice, slice, slice]
"""Part of a volume: voxels along z, y and x."""

_MOST_PASSES = 4
"""How often components are sought across edges and corners; a mask that needs more is labelled voxel by voxel."""
_FEW = 1 / 64
"""Share of a mask's pairs of voxels up to which those that are left are looked at one by one."""


def connected_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """The 26-connected components of a mask (z,y,x): int32 numbers from 1, 0 elsewhere; and how many there are.

    They are numbered in the order of their first voxels.
    """
    from scipy import ndimage

    box = bounds(mask)
    if box is None:
        return np.zeros(mask.shape, np.int32), 0
    components, count = ndimage.label(mask[box], structure=np.ones((3, 3, 3), bool))
    if components.shape != mask.shape:
        whole = np.zeros(mask.shape, np.int32)
        whole[box] = components
        components = whole
    return components, count


def components_with(mask: NDArray[np.bool_], voxels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """The 26-connected components of a mask that contain at least one of some voxels.

    Takes a quarter to a half of the time of `connected_components`: the voxels of two neighbouring slices that lie
    behind each other are connected, so the slices are labelled in pairs.

    Args:
        mask: bool (z,y,x).
        voxels: (K,3), inside the mask's array.

    Returns:
        bool (z,y,x), which may be `mask` itself; all False where the mask holds none of the voxels.
    """
    voxels = voxels[mask[tuple(voxels.T)]]
    box = bounds(mask) if len(voxels) else None
    if box is None:
        return np.zeros_like(mask)
    inner = _components_with(mask[box], voxels - [axis.start for axis in box])
    if inner is None:
        return mask
    kept = np.zeros_like(mask)
    kept[box] = inner
    return kept


def _components_with(mask: NDArray[np.bool_], voxels: NDArray[np.integer]) -> NDArray[np.bool_] | None:
    """The components of a mask that hold one of some voxels of it; None where these are all components."""
    from scipy import ndimage

    slices = len(mask)
    either = mask[::2].copy()  # in the first or the second slice of a pair
    either[: slices // 2] |= mask[1::2]
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = True
    labels, count = ndimage.label(either, structure=in_plane)
    # Second slices of pairs, and the first ones of the pairs behind them, where two pairs meet.
    first, second = mask[1 : slices - 1 : 2], mask[2::2]
    first_labels, second_labels = labels[: len(first)], labels[1 : 1 + len(first)]
    meets = first & second
    meets[:, :, 1:] &= ~meets[:, :, :-1]  # along a line, all have the labels of the first
    where = np.flatnonzero(meets)
    root = _joined(count + 1, first_labels.reshape(-1)[where], second_labels.reshape(-1)[where])
    is_kept = np.zeros(count + 1, bool)
    z, y, x = voxels.T
    is_kept[root[labels[z // 2, y, x]]] = True
    for _ in range(_MOST_PASSES):
        is_kept = is_kept[root]
        if is_kept[1:].all():
            return None
        inside = is_kept[labels]
        first_inside, second_inside = inside[: len(first)], inside[1 : 1 + len(first)]
        first_left, second_left = first & ~first_inside, second & ~second_inside
        if np.count_nonzero(first_left) + np.count_nonzero(second_left) < _FEW * labels.size:
            ends = _meeting(first_left, first_labels, second, second_labels)
            more = _meeting(second_left, second_labels, first, first_labels)
            root = _joined(count + 1, *(root[np.concatenate(both)] for both in zip(ends, more, strict=True)))[root]
            kept_roots = np.zeros(count + 1, bool)
            kept_roots[root[is_kept]] = True
            is_kept = kept_roots[root]
            return None if is_kept[1:].all() else np.repeat(is_kept[labels], 2, axis=0)[:slices] & mask
        to_second = _widen(first & first_inside) & second_left
        to_first = _widen(second & second_inside) & first_left
        added = np.concatenate([second_labels[to_second], first_labels[to_first]])
        if not len(added):
            return np.repeat(inside, 2, axis=0)[:slices] & mask
        is_kept[root[added]] = True
    labels, count = connected_components(mask)
    is_kept = np.zeros(count + 1, bool)
    is_kept[labels[z, y, x]] = True
    return is_kept[labels]


def _meeting(
    few: NDArray[np.bool_],
    few_labels: NDArray[np.int32],
    others: NDArray[np.bool_],
    other_labels: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The labels of a few voxels, and those of other slices' voxels beside or behind each of them, in pairs.

    Args:
        few, others: bool (z,y,x), slices and those behind or before each of them.
        few_labels, other_labels: of the voxels.
    """
    z, y, x = np.unravel_index(np.flatnonzero(few), few.shape)
    own = few_labels[z, y, x]
    pairs = []
    for dy, dx in itertools.product((-1, 0, 1), repeat=2):
        # At the rim the voxel beside it counts twice.
        beside = z, np.clip(y + dy, 0, few.shape[1] - 1), np.clip(x + dx, 0, few.shape[2] - 1)
        meets = others[beside]
        pairs.append((own[meets], other_labels[beside][meets]))
    first, second = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    return first, second


def _joined(count: int, first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.intp]:
    """The least label that each label from 0 up to, without, `count` is connected to by pairs of labels."""
    root = np.arange(count)
    while True:
        first, second = root[first], root[second]
        differ = first != second
        if not differ.any():
            return root
        first, second = first[differ], second[differ]
        root[np.maximum(first, second)] = np.minimum(first, second)
        while (root != (above := root[root])).any():
            root = above


def _widen(slices: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of slices (z,y,x) and their eight neighbours within the slice."""
    along_y = slices.copy()
    along_y[:, 1:] |= slices[:, :-1]
    along_y[:, :-1] |= slices[:, 1:]
    wide = along_y.copy()
    wide[:, :, 1:] |= along_y[:, :, :-1]
    wide[:, :, :-1] |= along_y[:, :, 1:]
    return wide


def bounds(mask: NDArray[np.generic]) -> Region | None:
    """The smallest region around what is not 0 in a mask (z,y,x); None where nothing is."""
    occupied = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(occupied):
        return None
    z = slice(int(occupied[0]), int(occupied[-1]) + 1)
    plane = np.asarray(mask[z].any(axis=0))
    rows, columns = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    return (z, slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))


def intersects(first: Region, second: Region) -> bool:
    """Whether two regions share a voxel."""
    return all(max(a.start, b.start) < min(a.stop, b.stop) for a, b in zip(first, second, strict=True))


def voxel_count(region: Region) -> int:
    """How many voxels a region has."""
    return math.prod(axis.stop - axis.start for axis in region)


def union(first: Region | None, second: Region | None) -> Region:
    """The smallest region around both; empty where there is neither."""
    regions = [region for region in (first, second) if region is not None and voxel_count(region)]
    if not regions:
        return (slice(0, 0), slice(0, 0), slice(0, 0))
    z, y, x = (slice(min(r[axis].start for r in regions), max(r[axis].stop for r in regions)) for axis in range(3))
    return (z, y, x)

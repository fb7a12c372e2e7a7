"""Regions of a volume, and the connected components of masks.

SciPy's image module takes 0.2 s to import, as long as a backend takes to load a small network: it is imported when the
first mask is there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Region", "bounds", "connected_components", "intersects", "union", "voxel_count"]

Region = tuple[slice, slice, slice]
"""Part of a volume: voxels along z, y and x."""


def connected_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """The 26-connected components of a mask (z,y,x): int32 numbers from 1, 0 elsewhere; and how many there are."""
    from scipy import ndimage

    components, count = ndimage.label(mask, structure=np.ones((3, 3, 3), bool))
    return components, count


def bounds(mask: NDArray[np.generic]) -> Region | None:
    """The smallest region around what is not 0 in a mask (z,y,x); None where nothing is."""
    slices = []
    for others in ((1, 2), (0, 2), (0, 1)):
        occupied = np.flatnonzero(mask.any(axis=others))
        if not len(occupied):
            return None
        slices.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    z, y, x = slices
    return (z, y, x)


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

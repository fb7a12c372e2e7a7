"""Connected parts of masks, and the boxes around them.

SciPy's image module takes 0.2 s to import, as long as a backend takes to load a small network: it is imported when the
first mask is there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Region", "bounds", "connected_components", "union"]

Region = tuple[slice, slice, slice]
"""Part of a volume: voxels along z, y and x."""


def connected_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """The 26-connected parts of a mask (z,y,x): their numbers from 1, int32, 0 elsewhere; and how many there are."""
    from scipy import ndimage

    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3), bool))
    return parts, count


def bounds(mask: NDArray[np.bool_]) -> Region | None:
    """The smallest box around a mask (z,y,x); None where it is empty."""
    found = []
    for others in ((1, 2), (0, 2), (0, 1)):
        held = np.flatnonzero(mask.any(axis=others))
        if not len(held):
            return None
        found.append(slice(int(held[0]), int(held[-1]) + 1))
    z, y, x = found
    return (z, y, x)


def union(first: Region | None, second: Region | None) -> Region:
    """The smallest box around both; empty where there is neither."""
    regions = [region for region in (first, second) if region is not None]
    if not regions:
        return (slice(0, 0), slice(0, 0), slice(0, 0))
    z, y, x = (slice(min(r[axis].start for r in regions), max(r[axis].stop for r in regions)) for axis in range(3))
    return (z, y, x)

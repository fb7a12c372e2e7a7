"""Points of a mask that stand for clicks, for the network to be asked again.

A box is one click in its middle to the network, which knows no boxes, and its first answer is poor. The image and the
box correct that answer (`image_refiner`); told where the corrected mask is deepest, and what lies deep beside it, the
network answers better. With clicks there is less to add: they know what a mask can only guess.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gstk.session.extras.image_refiner import SURROUNDINGS, LocalPrompts, squared_radii

__all__ = ["is_wanted", "points_from_mask"]

ON, OFF, FEWER = 4, 2, 2
"""Points on the object and beside it, and how many fewer there are after each click."""
_DEPTH, _AWAY, _LEAST = 10, 7, 15
"""A point is as good as it is deep, or as 7/10 of its way to others of its kind; below 1.5 voxels it is none."""


def is_wanted(clicks: int, boxed: bool) -> bool:
    """Whether an object with so many clicks is asked about again."""
    return boxed and clicks * FEWER < max(ON, OFF)


def points_from_mask(
    mask: NDArray[np.bool_], local: LocalPrompts, said: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What to tell the network, so that it finds a mask like this one.

    Args:
        mask: bool (z,y,x), the object on a window's grid.
        local: what was said, with a box, on the same grid.
        said: float64 (K,3), points in voxel coordinates of the window (z,y,x), that the network was told before.
        labels: int64 (K,), 1 on the object, 0 beside it.

    Returns:
        `said` and its labels, with points of the mask behind them, in the order in which they were found.
    """
    if local.box is None or mask.all() or not mask.any():
        return said, labels
    from scipy import ndimage  # see `gstk.core.regions`

    fewer = FEWER * len(local.points)
    near = squared_radii(mask.shape, *local.box)[1] < SURROUNDINGS * SURROUNDINGS
    found, kinds = [said], [labels]
    for label, count, place, where in ((1, ON, mask, mask), (0, OFF, ~mask, ~mask & near)):
        if count <= fewer:
            continue
        depth = np.where(where, ndimage.distance_transform_cdt(place, "taxicab"), 0)
        points = _scattered(depth, said[labels == label], count - fewer)
        found.append(points)
        kinds.append(np.full(len(points), label, np.int64))
    return np.concatenate(found), np.concatenate(kinds)


def _scattered(depth: NDArray[np.integer], taken: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Voxels (K,3), `count` at most, that are deep and far from the points taken and from each other."""
    score = _DEPTH * depth.astype(np.int32)
    axes = np.ogrid[tuple(slice(n) for n in depth.shape)]

    def keep_away(point: NDArray[np.int64]) -> None:
        away = sum(np.abs(axis.astype(np.int32) - np.int32(i)) for axis, i in zip(axes, point, strict=True))
        np.minimum(score, _AWAY * away, out=score)

    for point in np.rint(taken).astype(np.int64):
        keep_away(point)
    found: list[NDArray[np.int64]] = []
    while len(found) < count:
        voxel = np.array(np.unravel_index(int(score.argmax()), score.shape))
        if score[tuple(voxel)] < _LEAST:
            break
        found.append(voxel)
        keep_away(voxel)
    return np.array(found, np.float64).reshape(-1, 3)

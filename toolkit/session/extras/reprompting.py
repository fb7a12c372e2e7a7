"""Chooses points of a mask that prompt the network once more, as if they were clicks.

The network knows no boxes: a box becomes one click at its centre, and the first answer is poor. The image and the box
correct that answer (`image_refiner`). Points deep inside the corrected mask and in the background beside it then give a
better answer. After clicks there is less to gain, since a user's click is certain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gstk.session.extras.image_refiner import SURROUNDINGS, LocalPrompts, squared_radii

__all__ = ["is_wanted", "points_from_mask"]

ON, OFF, FEWER = 4, 2, 2
"""Most points on the object and beside it, and how many fewer there are after each click."""
_DEPTH, _AWAY, _LEAST = 10, 7, 15
"""A point's score: ten times its depth, or seven times its distance to others of its label if that is less; the least
score that is taken."""


def is_wanted(clicks: int, boxed: bool) -> bool:
    """Whether the network is prompted once more for an object with so many clicks."""
    return boxed and clicks * FEWER < max(ON, OFF)


def points_from_mask(
    mask: NDArray[np.bool_], local: LocalPrompts, points: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points that describe a mask, added to those that prompted the network before.

    Args:
        mask: bool (z,y,x), the object on a window's grid.
        local: the prompts, with a box, on the same grid.
        points: float64 (K,3), voxel coordinates of the window (z,y,x), of the first decode.
        labels: int64 (K,), 1 on the object, 0 beside it.

    Returns:
        `points` and `labels`, followed by those of the mask, the deepest first.
    """
    if local.box is None or mask.all() or not mask.any():
        return points, labels
    from scipy import ndimage  # see `gstk.core.regions`

    fewer = FEWER * len(local.points)
    near = squared_radii(mask.shape, *local.box)[1] < SURROUNDINGS * SURROUNDINGS
    all_points, all_labels = [points], [labels]
    for label, count, place, where in ((1, ON, mask, mask), (0, OFF, ~mask, ~mask & near)):
        if count <= fewer:
            continue
        depth = np.where(where, ndimage.distance_transform_cdt(place, "taxicab"), 0)
        scattered = _scattered(depth, points[labels == label], count - fewer)
        all_points.append(scattered)
        all_labels.append(np.full(len(scattered), label, np.int64))
    return np.concatenate(all_points), np.concatenate(all_labels)


def _scattered(depth: NDArray[np.integer], taken: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Voxels (K,3), `count` at most, that are deep and far from the points taken and from each other."""
    score = _DEPTH * depth.astype(np.int32)
    axes = np.ogrid[tuple(slice(n) for n in depth.shape)]

    def keep_away(point: NDArray[np.int64]) -> None:
        away = sum(np.abs(axis.astype(np.int32) - np.int32(i)) for axis, i in zip(axes, point, strict=True))
        np.minimum(score, _AWAY * away, out=score)

    for point in np.rint(taken).astype(np.int64):
        keep_away(point)
    chosen: list[NDArray[np.int64]] = []
    while len(chosen) < count:
        voxel = np.array(np.unravel_index(int(score.argmax()), score.shape))
        if score[tuple(voxel)] < _LEAST:
            break
        chosen.append(voxel)
        keep_away(voxel)
    return np.array(chosen, np.float64).reshape(-1, 3)

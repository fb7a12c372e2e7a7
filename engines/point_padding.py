"""Padding with ignored points, so that a backend sees only a few different numbers of points.

A backend that prepares itself for each number of points (kernels of OpenVINO, CUDA graphs of TensorRT) would do so at
each click on an object. MONAI's own padding (label -1) cannot fill the gap: it is a token that the other tokens attend
to, so it changes the logits. No token attends to a point with the label `IGNORED`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["IGNORED", "pad_points", "padded_count"]

IGNORED = -2
"""Label of a point that a decoder ignores, where the manifest says `ignored_points` or a backend's rewrite adds it."""


def padded_count(points: int) -> int:
    """Number of points that `points` are padded to: 4, 6, 8, 12, 16, 24, ...

    Up to 16 points cost as much as one; beyond that at most a third of the points is padding.
    """
    power = 4
    while True:
        for count in (power, power + power // 2):
            if points <= count:
                return count
        power *= 2


def pad_points(
    coords: NDArray[np.float32], labels: NDArray[np.int64], most: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pads points [B,N,3] and labels [B,N] with ignored points at the end, to `padded_count` of each.

    Args:
        coords, labels: the points.
        most: largest number of points that the backend takes; None for no limit.
    """
    count = padded_count(labels.shape[1])
    if most is not None:
        count = min(count, most)
    more = ((0, 0), (0, count - labels.shape[1]))
    return np.pad(coords, (*more, (0, 0))), np.pad(labels, more, constant_values=IGNORED)

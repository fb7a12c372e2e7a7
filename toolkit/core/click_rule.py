"""The next click of the official protocol: the centre of the largest error.

Evaluation clicks by this rule, and training can. SciPy's image module is imported with the first click, for that takes
0.3 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gstk.core.prompts import Point

__all__ = ["OFFICIAL_SEED", "component_centre", "next_click", "seeded_choice"]

MAX_EDT_VOXELS = 60_000_000
"""A padded component above this size is measured on a copy max-pooled by 2 (CVPR25 challenge, official evaluator)."""

OFFICIAL_SEED = 42
"""Of the choice among voxels that are equally central (as above)."""

_THIN = 24
"""Largest distance to the border, voxels, up to which offsets are compared one by one."""
_CONNECTIVITY_26 = np.ones((3, 3, 3), bool)


def seeded_choice(count: int, seed: int = OFFICIAL_SEED) -> int:
    """The official tie-break: `np.random.seed(42)`, then `np.random.choice`, without touching the global state."""
    return int(np.random.RandomState(seed).choice(count))


def next_click(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    choose: Callable[[int], int] = seeded_choice,
    max_edt_voxels: int = MAX_EDT_VOXELS,
) -> Point | None:
    """The click that the official protocol would make on one class.

    Args:
        prediction, truth: bool (z,y,x), the class's mask and its ground truth.
        choose: picks among that many equally central voxels.
        max_edt_voxels: above this many padded voxels the centre is sought at half the resolution.

    Returns:
        The most central voxel of the largest 26-connected component of the error, foreground where the object was
        missed, background where it was invented; None where there is no error.
    """
    error = prediction != truth
    if not error.any():
        return None
    # Components are searched in the error's bounding box: most errors are small beside the volume.
    from scipy import ndimage

    box = ndimage.find_objects(error.astype(np.uint8))[0]
    components, _ = ndimage.label(error[box], structure=_CONNECTIVITY_26)
    largest = int(np.bincount(components.ravel())[1:].argmax()) + 1
    local = component_centre(components == largest, choose, max_edt_voxels)
    z, y, x = (int(i + axis.start) for i, axis in zip(local, box, strict=True))
    return Point((z, y, x), bool(truth[z, y, x]))


def component_centre(
    component: NDArray[np.bool_],
    choose: Callable[[int], int] = seeded_choice,
    max_edt_voxels: int = MAX_EDT_VOXELS,
) -> tuple[int, int, int]:
    """The voxel of a component that is farthest from its border (Euclidean, voxel units).

    Args:
        component: bool (z,y,x), at least one voxel set.
        choose, max_edt_voxels: as in `next_click`.
    """
    from scipy import ndimage

    box = ndimage.find_objects(component.astype(np.uint8))[0]
    crop = component[box]
    pad = [max(1, int(0.25 * n)) for n in crop.shape]
    factor = 2 if np.prod([n + 2 * p for n, p in zip(crop.shape, pad, strict=True)]) > max_edt_voxels else 1
    if factor == 1:
        pad = [1, 1, 1]  # exact: beyond the crop, nothing is nearer to a voxel inside than the layer around it
    padded = np.pad(crop, [(p, p) for p in pad])
    if factor == 2:
        padded = np.pad(padded, [(0, n % 2) for n in padded.shape])
        z, y, x = (n // 2 for n in padded.shape)
        padded = padded.reshape(z, 2, y, 2, x, 2).max(axis=(1, 3, 5))
    depth = _depths(padded)
    deepest = depth == depth.max()
    if factor == 2:
        deepest = deepest.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    inner = tuple(slice(p, p + n) for p, n in zip(pad, crop.shape, strict=True))
    centres = np.argwhere(deepest[inner] & crop)  # voxels: a pooled one may reach out of the component
    centre = centres[choose(len(centres))]
    z, y, x = (int(i + axis.start) for i, axis in zip(centre, box, strict=True))
    return z, y, x


def _depths(component: NDArray[np.bool_]) -> NDArray[np.number]:
    """What rises with the Euclidean distance to the nearest voxel outside; exact, equal where distances are equal.

    Errors are mostly thin. Where none is far from its border, squared distances are found axis by axis among offsets up
    to the largest there can be, two to three times as fast as by SciPy's transform.
    """
    from scipy import ndimage

    thickness = int(ndimage.distance_transform_cdt(component, "chessboard").max())
    reach = math.isqrt(3 * thickness**2)
    if thickness < 0 or reach > _THIN:  # -1: there is nothing outside
        return np.asarray(ndimage.distance_transform_edt(component))
    squared = np.where(component, np.int16((reach + 1) ** 2), np.int16(0))
    for axis in range(3):
        given = np.moveaxis(squared, axis, 0)
        least = given.copy()
        for offset in range(1, min(reach, len(given) - 1) + 1):
            cost = np.int16(offset**2)
            np.minimum(least[offset:], given[:-offset] + cost, out=least[offset:])
            np.minimum(least[:-offset], given[offset:] + cost, out=least[:-offset])
        squared = np.moveaxis(least, 0, axis)
    return squared

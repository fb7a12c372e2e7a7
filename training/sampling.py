"""Which points a training step clicks on an object: the paper's edge-center sampling, and the centre click.

A point's label is 1 on the object and 0 outside, as in MONAI. NumPy and SciPy alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gstk.clicks import Click, component_centre, next_click

__all__ = ["centre_point", "edge_center_points", "error_point", "gaussian_count", "random_choice"]

CENTER_FRACTION = 0.5
"""Deeper than this share of the greatest depth is the centre (τ_c of the paper's equation 2)."""
EDGE_FRACTION = 0.1
"""From this share to `CENTER_FRACTION` is the edge (τ_e of the paper's equation 2)."""


MAX_EDT_VOXELS = 20_000
"""Training looks for the centre of anything larger at half the resolution: the click moves by a voxel at most."""


def gaussian_count(rng: np.random.Generator, maximum: int, minimum: int = 0) -> int:
    """A number of points, normal around half the maximum (the paper, section 2.2), within [minimum, maximum]."""
    return int(np.clip(np.rint(rng.normal(maximum / 2, maximum / 4)), minimum, maximum))


def edge_center_points(
    mask: NDArray[np.bool_], rng: np.random.Generator, foreground: int, background: int
) -> list[Click]:
    """Points by the paper's equations 1 and 2: the first from the centre, the rest from the edge, the others outside.

    Args:
        mask: bool (z,y,x), one object; the distance transform runs on its bounding box alone.
        foreground, background: how many points; where a region has too few voxels, any of the object's serve.

    Returns:
        The points, foreground first; empty for an empty mask.
    """
    if not mask.any():
        return []
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    crop = np.pad(mask[box], 1)
    # The volume's own face is no border of the object: it goes on there unseen.
    for axis, extent in enumerate(box):
        edge = [slice(None)] * 3
        inner = [slice(None)] * 3
        for face, touches in ((0, extent.start == 0), (-1, extent.stop == mask.shape[axis])):
            if touches:
                edge[axis], inner[axis] = face, 1 if face == 0 else -2  # type: ignore[call-overload]
                crop[tuple(edge)] = crop[tuple(inner)]
    depth = np.ones(crop.shape) if crop.all() else ndimage.distance_transform_edt(crop)
    depth = depth[1:-1, 1:-1, 1:-1] * mask[box]
    deepest = depth.max()
    origin = np.array([axis.start for axis in box])
    anywhere = np.argwhere(mask[box]) + origin
    center = np.argwhere(depth > CENTER_FRACTION * deepest) + origin
    edge_region = np.argwhere((depth > EDGE_FRACTION * deepest) & (depth <= CENTER_FRACTION * deepest)) + origin
    points: list[Click] = []
    for index in range(foreground):
        region = center if index == 0 else edge_region
        region = region if len(region) else anywhere
        points.append(_click(region[rng.integers(len(region))], True))
    outside = np.flatnonzero(~mask)
    for _ in range(background if len(outside) else 0):
        voxel = np.unravel_index(outside[rng.integers(len(outside))], mask.shape)
        points.append(_click(np.array(voxel), False))
    return points


def centre_point(mask: NDArray[np.bool_], rng: np.random.Generator) -> Click:
    """The official first click: the object's most central voxel."""
    return Click(component_centre(mask, random_choice(rng), MAX_EDT_VOXELS), True)


def error_point(prediction: NDArray[np.bool_], mask: NDArray[np.bool_], rng: np.random.Generator) -> Click | None:
    """The official next click: the centre of the largest error; None where the prediction is the mask."""
    return next_click(prediction, mask, random_choice(rng), MAX_EDT_VOXELS)


def random_choice(rng: np.random.Generator) -> Callable[[int], int]:
    """A tie-break for `gstk.clicks` that draws from `rng`."""
    return lambda count: int(rng.integers(count))


def _click(voxel: NDArray[np.int64], foreground: bool) -> Click:
    z, y, x = (int(v) for v in voxel)
    return Click((z, y, x), foreground)

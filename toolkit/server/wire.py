"""What viewers send, as voxels, boxes and volumes: what a user can draw is brought inside the image, not refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import Voxel
from gstk.core.volume import Volume
from gstk.server.service import BadRequest

__all__ = ["box_of", "clipped_box", "clipped_voxel", "numbers", "volume_of"]


def numbers(values: object, what: str, count: int) -> tuple[float, ...]:
    """A list of that many finite numbers; raises `BadRequest` for anything else, with `what` it was to be."""
    if (
        not isinstance(values, list)
        or len(values) != count
        or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values)
        or any(abs(v) > 1e9 for v in values)
    ):
        raise BadRequest(f"got {values!r:.80} as {what}, expected {count} finite numbers")
    return tuple(float(v) for v in values)


def box_of(values: object) -> list[list[float]]:
    """Low and high end along z, y and x; raises `BadRequest` for anything else."""
    if not isinstance(values, list) or len(values) != 3:
        raise BadRequest(f"got {values!r:.80} as a box, expected a low and a high end for each of 3 axes")
    return [sorted(numbers(axis, "ends of a box", 2)) for axis in values]


def clipped_voxel(place: Sequence[float], geometry: Geometry) -> Voxel:
    """The voxel (z,y,x) of the image that is nearest to a place, halves up."""
    z, y, x = (min(max(0, math.floor(v + 0.5)), n - 1) for v, n in zip(place, geometry.shape, strict=True))
    return z, y, x


def clipped_box(box: list[list[float]], geometry: Geometry) -> tuple[Voxel, Voxel]:
    """First and last voxel (z,y,x) of a half-open box, inside the image; at least one voxel wide."""
    low, high = [], []
    for (start, stop), n in zip(box, geometry.shape, strict=True):
        first = min(max(0, round(start)), n - 1)
        low.append(first)
        high.append(max(first, min(round(stop), n) - 1))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def volume_of(image: NDArray[np.generic], spacing_mm: tuple[float, float, float]) -> Volume:
    """The image with its geometry; what is not finite becomes the least finite value, for viewers send such volumes."""
    if image.size == 0:
        raise BadRequest(f"got an image of shape {image.shape}, expected one voxel or more")
    if image.dtype.kind == "f" and not (finite := np.isfinite(image)).all():
        if not finite.any():
            raise BadRequest("got an image without a finite voxel, expected intensities")
        image = np.where(finite, image, image[finite].min())
    if image.dtype.kind == "b":
        image = image.astype(np.uint8)
    z, y, x = image.shape
    # As in a challenge case, 8 bits have no room for HU.
    units = "0-255" if image.dtype == np.uint8 else None
    return Volume(image, Geometry((z, y, x), spacing_mm), units=units, has_orientation=False)

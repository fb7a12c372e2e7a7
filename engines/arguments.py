"""Checks of the arrays that an engine is given, before a backend sees them.

Axis letters: B objects, N points, H W D voxels of the region, in the order (z,y,x).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gstk.engines.point_padding import IGNORED
from gstk.errors import EngineError

__all__ = [
    "LABELS",
    "NOVEL_LABELS",
    "PADDING_LABEL",
    "Shape",
    "check_finite",
    "check_region",
    "checked_points",
    "image_array",
    "image_shape",
]

Shape = tuple[int, int, int]

PADDING_LABEL = -1
LABELS = range(IGNORED, 6)
NOVEL_LABELS = range(4, 6)
"""Of points beside and on an object that is of no class which the network was trained on: it gets another token."""


def image_shape(shape: tuple[int, ...]) -> Shape:
    """The (H, W, D) of an image's shape.

    Raises:
        EngineError: it is not (1, 1, H, W, D).
    """
    if len(shape) != 5 or shape[:2] != (1, 1):
        raise EngineError(f"got an image {shape}, expected (1, 1, H, W, D); add or drop axes")
    return shape[2], shape[3], shape[4]


def check_region(shape: Shape, multiple: int, minimum: int, max_voxels: int) -> None:
    """Refuses a region that the network does not take.

    Args:
        shape: (H, W, D).
        multiple, minimum: every side of a region is a multiple of the first and at least the second, in voxels.
        max_voxels: of a region.

    Raises:
        EngineError: the region does not fit these rules.
    """
    if any(side % multiple or side < minimum for side in shape):
        raise EngineError(
            f"got a region of {shape}, expected sides that are multiples of {multiple} and at least {minimum}; pad or "
            "crop it"
        )
    if math.prod(shape) > max_voxels:
        raise EngineError(
            f"got a region of {shape}, expected at most {max_voxels} voxels; crop it or sample it coarser"
        )


def image_array(image: ArrayLike) -> NDArray[np.float32]:
    """An image of any real dtype as float32, contiguous.

    Raises:
        EngineError: it has no real dtype.
    """
    return _as_dtype("image", image, np.float32)


def check_finite(image: NDArray[np.float32]) -> None:
    """Refuses an image with NaN or infinity.

    Raises:
        EngineError: it has one.
    """
    if not np.isfinite(image).all():
        raise EngineError("got an image with NaN or infinity, expected finite values in 0..1; replace them first")


def checked_points(
    coords: ArrayLike, labels: ArrayLike, roi_shape: Shape
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The prompts of B objects as the backends take them; see `Engine.decode`.

    Raises:
        EngineError: a shape, dtype, label or coordinate is not as `Engine.decode` expects.
    """
    coords, labels = _as_dtype("coords", coords, np.float32), _as_dtype("labels", labels, np.int64)
    if coords.ndim != 3 or coords.shape[2] != 3 or 0 in coords.shape:
        raise EngineError(f"got coords {coords.shape}, expected (B, N, 3) with one object and one point or more")
    if labels.shape != coords.shape[:2]:
        raise EngineError(f"got labels {labels.shape}, expected {coords.shape[:2]} as coords {coords.shape} have it")
    if labels.min() < LABELS[0] or labels.max() > LABELS[-1]:
        raise EngineError(f"got labels {np.unique(labels).tolist()}, expected values in {LABELS[0]}..{LABELS[-1]}")
    real = labels > PADDING_LABEL
    if not real.any(axis=1).all():
        empty = np.flatnonzero(~real.any(axis=1)).tolist()
        raise EngineError(f"got objects {empty} with padding points only, expected a prompt for each; leave them out")
    if not np.isfinite(coords).all():
        raise EngineError("got coords with NaN or infinity, expected voxel indices; padding points may be 0")
    outside = real & ((coords < -0.5) | (coords > np.array(roi_shape) - 0.5)).any(axis=2)
    if outside.any():
        raise EngineError(
            f"got a point at {coords[outside][0].tolist()}, expected (z, y, x) inside the region of {roi_shape}; "
            "give voxel indices of the region, not of the volume"
        )
    return coords, labels


def _as_dtype(name: str, values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    """The values as a contiguous array: integers must keep their value, reals may be rounded to float32."""
    array = np.asarray(values)
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "biuf":
        raise EngineError(f"got {name} of dtype {array.dtype}, expected {np.dtype(dtype)}; convert it first")
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a value beyond float32 becomes infinity, which the caller refuses
        converted = np.ascontiguousarray(array, dtype=dtype)
    if np.issubdtype(dtype, np.integer) and not np.array_equal(converted, array):
        raise EngineError(f"got {name} of dtype {array.dtype} with values that no {np.dtype(dtype)} holds")
    return converted

"""The challenge's metrics of a mask: Dice similarity coefficient (DSC) and surface Dice at a tolerance (NSD).

The official evaluator measures surfaces with DeepMind's package `surface-distance`: surface points lie on the corners
between voxels, and each has the area that marching cubes gives it. The functions here return the same numbers
(`tests/test_metrics.py` compares them). The package itself is older than NumPy 2, fails on an empty mask, and is slow
because it sorts in Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gstk.core.regions import Region, union
from gstk.errors import BackendMissing

__all__ = ["MIN_DSC_FOR_NSD", "TOLERANCE_MM", "Scores", "dice", "label_boxes", "score_labels", "surface_dice"]

TOLERANCE_MM = 2.0
"""Distance up to which two surfaces agree (CVPR25 challenge, official evaluator)."""
MIN_DSC_FOR_NSD = 0.2
"""At a mean DSC up to this the NSD is not computed and counts 0 (as above)."""

_CORNER_BITS = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]], np.uint8)
_MOST_OFFSETS = 1000
"""Where the tolerance spans more voxels than this, a distance transform is the faster way."""


class Scores(NamedTuple):
    """DSC and NSD (0 to 1) of one label map, one value for each class in the order of the given classes."""

    dsc: tuple[float, ...]
    nsd: tuple[float, ...]


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice similarity coefficient of two masks; 1 if both are empty."""
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total if total else 1.0


def surface_dice(
    truth: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> float:
    """Surface Dice: the share of both surfaces' area that lies within a tolerance of the other surface.

    Args:
        truth, prediction: bool (z,y,x), the two masks.
        spacing_mm: voxel spacing (z,y,x).
        tolerance_mm: largest distance at which the surfaces still agree.

    Returns:
        A value from 0 to 1; 1 if both masks are empty, 0 if only one of them is.

    Raises:
        BackendMissing: scikit-image is not installed.
    """
    box = ndimage.find_objects((truth | prediction).astype(np.uint8))
    if not box:
        return 1.0
    areas = _areas_mm2(tuple(float(s) for s in spacing_mm))
    codes = [_corner_codes(mask[box[0]]) for mask in (truth, prediction)]
    surfaces = [(code != 0) & (code != 255) for code in codes]
    if not surfaces[0].any() or not surfaces[1].any():
        return 0.0
    agreed = total = 0.0
    for code, own, other in zip(codes, surfaces, surfaces[::-1], strict=True):
        points = np.argwhere(own)
        area_mm2 = areas[code[own]]
        agreed += float(area_mm2[_near(points, other, spacing_mm, tolerance_mm)].sum())
        total += float(area_mm2.sum())
    return agreed / total


def label_boxes(labels: NDArray[np.integer]) -> dict[int, Region]:
    """Bounding box (z,y,x) of each label id in a label map."""
    return {k: box for k, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None}


def score_labels(
    truth: NDArray[np.integer],
    labels: NDArray[np.integer],
    classes: Sequence[int],
    spacing_mm: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> Scores:
    """Scores a label map as the official evaluator does.

    Args:
        truth, labels: integer (z,y,x), the reference and the label map to score.
        classes: label ids to score; each must occur in `truth`.
        spacing_mm: voxel spacing (z,y,x).
        tolerance_mm: tolerance of the NSD.

    Returns:
        DSC and NSD of each class; every NSD is 0 if the mean DSC is at most `MIN_DSC_FOR_NSD`.
    """
    # Each class is scored inside the joint bounding box of its two masks; outside it both masks are background.
    truth_boxes, boxes = label_boxes(truth), label_boxes(labels)
    pairs = []
    for k in classes:
        box = union(truth_boxes.get(k), boxes.get(k))
        pairs.append((truth[box] == k, labels[box] == k))
    dsc = tuple(dice(*pair) for pair in pairs)
    if not dsc or np.mean(dsc) <= MIN_DSC_FOR_NSD:
        return Scores(dsc, (0.0,) * len(dsc))
    return Scores(dsc, tuple(surface_dice(*pair, spacing_mm, tolerance_mm) for pair in pairs))


def _corner_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """uint8, one larger than the mask along each axis: bits of the eight voxels around each corner that are set."""
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for index, bit in np.ndenumerate(_CORNER_BITS):
        part = padded[tuple(slice(i, i + n) for i, n in zip(index, codes.shape, strict=True))]
        codes |= part * bit
    return codes


def _near(
    points: NDArray[np.intp], surface: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float
) -> NDArray[np.bool_]:
    """bool (K,): whether each of the points (K, 3) has a surface point within the tolerance."""
    reach = [math.floor(tolerance_mm / s * (1 + 1e-9)) for s in spacing_mm]
    if math.prod(2 * r + 1 for r in reach) > _MOST_OFFSETS:
        distance = ndimage.distance_transform_edt(~surface, sampling=spacing_mm)
        return np.asarray(distance[tuple(points.T)] <= tolerance_mm)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    distance_mm = np.sqrt(((offsets * np.asarray(spacing_mm, float)) ** 2).sum(axis=1))
    nearest_first = np.argsort(distance_mm, kind="stable")
    padded = np.pad(surface, [(r, r) for r in reach]).ravel()
    strides = np.array([(surface.shape[1] + 2 * reach[1]), 1]) * (surface.shape[2] + 2 * reach[2])
    flat = (points + reach) @ np.array([strides[0], strides[1], 1])
    near = np.zeros(len(points), bool)
    left = np.arange(len(points))
    for i in nearest_first[distance_mm[nearest_first] <= tolerance_mm]:
        hit = padded[flat[left] + offsets[i] @ np.array([strides[0], strides[1], 1])]
        near[left[hit]] = True
        left = left[~hit]
        if not len(left):
            break
    return near


def _areas_mm2(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Surface area in mm² at a corner for each of the 256 corner codes, (256,)."""
    z, y, x = spacing_mm
    face_mm2 = np.array([y * x, z * x, z * y])
    return np.array([np.linalg.norm(triangles * face_mm2, axis=1).sum() for triangles in _triangles()])


@cache
def _triangles() -> tuple[NDArray[np.float64], ...]:
    """Area vectors (T, 3) of the triangles for each corner code, for voxels of side length 1.

    The triangles are those of marching cubes by Lorensen and Cline. Their table is not symmetric in object and
    background; the official evaluator uses the entry for the side with fewer voxels.
    """
    try:
        from skimage.measure import marching_cubes
    except ModuleNotFoundError:
        message = 'the NSD needs scikit-image, which is not installed; pip install "gstk[evaluate]"'
        raise BackendMissing(message) from None
    vectors = [np.zeros((1, 3))]
    for code in range(1, 255):
        fewer = code if code.bit_count() <= 4 else 255 - code
        cube = (_CORNER_BITS & fewer > 0).astype(np.float32)
        corners, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen", allow_degenerate=False)
        a, b, c = corners.astype(np.float64)[faces].transpose(1, 0, 2)
        vectors.append(np.cross(b - a, c - a) / 2)
    return (*vectors, np.zeros((1, 3)))

"""Test vectors of a bundle: inputs and torch's results, so that a bundle can be checked without torch.

`vectors.npz` holds, for case i, `image_i` uint8 [H,W,D] (255 is 1.0), `coords_i` float32 [B,N,3], `labels_i` int8
[B,N], `voxels_i` int64 [M] (positions in the flattened region) and `logits_i` float32 [B,M] at these. A bundle with a
graph for classes has, for case i of these, `class_image_i`, `class_ids_i` int64 [B], `class_voxels_i` and
`class_logits_i` as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.safe_npz import npz_keys, npz_shape, read_npz
from gstk.errors import BundleError, CaseError

__all__ = ["VECTORS_NAME", "ClassVector", "Vector", "load_vectors", "save_vectors"]

VECTORS_NAME = "vectors.npz"
_SAMPLED = 4096
_LIMIT_VALUES = 64 * 2**20
_PARTS = ("image", "coords", "labels", "voxels", "logits")
_CLASS_PARTS = ("image", "ids", "voxels", "logits")


class Vector(NamedTuple):
    """One input and the reference's logits.

    Attributes:
        image: float32 [1,1,H,W,D], 0–1.
        coords: float32 [B,N,3] voxel indices (z,y,x).
        labels: int64 [B,N].
        voxels: int64 [M], positions in the flattened region.
        logits: float32 [B,M] at these.
    """

    image: NDArray[np.float32]
    coords: NDArray[np.float32]
    labels: NDArray[np.int64]
    voxels: NDArray[np.int64]
    logits: NDArray[np.float32]


class ClassVector(NamedTuple):
    """One input of the graph for classes, and the reference's logits.

    Attributes:
        image: float32 [1,1,H,W,D], 0–1.
        ids: int64 [B], class ids.
        voxels: int64 [M], positions in the flattened region.
        logits: float32 [B,M] at these.
    """

    image: NDArray[np.float32]
    ids: NDArray[np.int64]
    voxels: NDArray[np.int64]
    logits: NDArray[np.float32]


def save_vectors(
    file: Path,
    inputs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]],
    references: Sequence[NDArray[np.float32]],
    class_ids: Sequence[int] = (),
    class_images: Sequence[NDArray[np.float32]] = (),
    class_references: Sequence[NDArray[np.float32]] = (),
) -> None:
    """Writes the file.

    Args:
        file: its path.
        inputs: (image, coords, labels) of each case, the image in steps of 1/255.
        references: logits [B,1,H,W,D] of each, of which a few thousand voxels an object are kept.
        class_ids: the classes of `class_references`.
        class_images: images of the cases for classes, as of `inputs`.
        class_references: logits [B,1,H,W,D] of each, one for every class.
    """
    arrays: dict[str, NDArray[np.generic]] = {}

    def add(index: int, prefix: str, parts: Sequence[str], values: Sequence[NDArray[np.generic]]) -> None:
        for part, value in zip(parts, values, strict=True):
            arrays[f"{prefix}{part}_{index}"] = value

    rng = np.random.default_rng(0)
    for index, ((image, coords, labels), logits) in enumerate(zip(inputs, references, strict=True)):
        voxels, kept = _sampled(logits, _SAMPLED, rng)
        add(index, "", _PARTS, [_bytes(image), coords, labels.astype(np.int8), voxels, kept])
    for index, (image, logits) in enumerate(zip(class_images, class_references, strict=True)):
        voxels, kept = _sampled(logits, _SAMPLED // 4, rng)
        add(index, "class_", _CLASS_PARTS, [_bytes(image), np.array(class_ids, np.int64), voxels, kept])
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_vectors(file: Path) -> tuple[list[Vector], list[ClassVector]]:
    """Reads what `save_vectors` wrote: the vectors of the graphs for points, and those of the graph for classes.

    Raises:
        BundleError: the file does not hold test vectors.
    """
    try:
        names = npz_keys(file)
        sizes = [math.prod(npz_shape(file, name) or ()) for name in names]
        if sum(sizes) > _LIMIT_VALUES:
            raise ValueError("too large")
        arrays = read_npz(file, names)
        count, class_count = (sum(name.startswith(start) for name in names) for start in ("image_", "class_image_"))
        found = [_vector(*(arrays[f"{part}_{index}"] for part in _PARTS)) for index in range(count)]
        of_classes = [
            _class_vector(*(arrays[f"class_{part}_{index}"] for part in _CLASS_PARTS)) for index in range(class_count)
        ]
    except (CaseError, ValueError, KeyError) as error:
        raise BundleError(f"{file.name} holds no test vectors ({error}); export the bundle again") from None
    if not found:
        raise BundleError(f"{file.name} holds no test vectors; export the bundle again")
    return found, of_classes


def _bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(image[0, 0] * 255), np.uint8)


def _sampled(
    logits: NDArray[np.float32], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions of some voxels, ascending, and the logits [B,M] there."""
    flat = logits.reshape(len(logits), -1)
    voxels = np.sort(rng.choice(flat.shape[1], min(count, flat.shape[1]), replace=False))
    return voxels, flat[:, voxels]


def _vector(
    image: NDArray[np.uint8],
    coords: NDArray[np.float32],
    labels: NDArray[np.int8],
    voxels: NDArray[np.int64],
    logits: NDArray[np.float32],
) -> Vector:
    _require_kinds((image, coords, labels, voxels, logits), (3, 3, 2, 1, 2), "ufiif")
    _require_voxels(image, voxels, logits, len(coords))
    return Vector(_floats(image), coords, labels.astype(np.int64), voxels, logits)


def _class_vector(
    image: NDArray[np.uint8], ids: NDArray[np.int64], voxels: NDArray[np.int64], logits: NDArray[np.float32]
) -> ClassVector:
    _require_kinds((image, ids, voxels, logits), (3, 1, 1, 2), "uiif")
    _require_voxels(image, voxels, logits, len(ids))
    return ClassVector(_floats(image), ids, voxels, logits)


def _require_kinds(arrays: Sequence[NDArray[np.generic]], axes: tuple[int, ...], kinds: str) -> None:
    if tuple(array.ndim for array in arrays) != axes or "".join(array.dtype.kind for array in arrays) != kinds:
        raise ValueError("arrays of the wrong shape or type")


def _require_voxels(
    image: NDArray[np.uint8], voxels: NDArray[np.int64], logits: NDArray[np.float32], objects: int
) -> None:
    inside = not len(voxels) or 0 <= voxels.min() <= voxels.max() < image.size
    if logits.shape != (objects, len(voxels)) or not inside:
        raise ValueError("logits that do not fit the region")


def _floats(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image[None, None].astype(np.float32) / np.float32(255)

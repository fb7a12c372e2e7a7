"""Test vectors of a bundle: inputs and torch's results, so that a bundle can be checked without torch.

`vectors.npz` holds, for case i, `image_i` uint8 [H,W,D] (255 is 1.0), `coords_i` float32 [B,N,3], `labels_i` int8
[B,N], `voxels_i` int64 [M] (positions in the flattened region) and `logits_i` float32 [B,M] at these.
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

__all__ = ["VECTORS_NAME", "Vector", "load_vectors", "save_vectors"]

VECTORS_NAME = "vectors.npz"
_SAMPLED = 4096
_LIMIT_VALUES = 64 * 2**20
_PARTS = ("image", "coords", "labels", "voxels", "logits")


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


def save_vectors(
    file: Path,
    inputs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]],
    references: Sequence[NDArray[np.float32]],
) -> None:
    """Writes the file.

    Args:
        inputs: (image, coords, labels) of each case, the image in steps of 1/255.
        references: logits [B,1,H,W,D] of each, of which a few thousand voxels an object are kept.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    rng = np.random.default_rng(0)
    for index, ((image, coords, labels), logits) in enumerate(zip(inputs, references, strict=True)):
        flat = logits.reshape(len(logits), -1)
        count = min(_SAMPLED, flat.shape[1])
        voxels = np.sort(rng.choice(flat.shape[1], count, replace=False))
        values = (np.rint(image[0, 0] * 255).astype(np.uint8), coords, labels.astype(np.int8), voxels, flat[:, voxels])
        arrays |= {f"{part}_{index}": value for part, value in zip(_PARTS, values, strict=True)}
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_vectors(file: Path) -> list[Vector]:
    """Reads what `save_vectors` wrote.

    Raises:
        BundleError: the file does not hold test vectors.
    """
    try:
        names = npz_keys(file)
        sizes = [math.prod(npz_shape(file, name) or ()) for name in names]
        if sum(sizes) > _LIMIT_VALUES:
            raise ValueError("too large")
        arrays = read_npz(file, names)
        count = sum(name.startswith("image_") for name in names)
        found = [_vector(*(arrays[f"{part}_{index}"] for part in _PARTS)) for index in range(count)]
    except (CaseError, ValueError, KeyError) as error:
        raise BundleError(f"{file.name} holds no test vectors ({error}); export the bundle again") from None
    if not found:
        raise BundleError(f"{file.name} holds no test vectors; export the bundle again")
    return found


def _vector(
    image: NDArray[np.uint8],
    coords: NDArray[np.float32],
    labels: NDArray[np.int8],
    voxels: NDArray[np.int64],
    logits: NDArray[np.float32],
) -> Vector:
    kinds = [array.dtype.kind for array in (image, coords, labels, voxels, logits)]
    if [a.ndim for a in (image, coords, labels, voxels, logits)] != [3, 3, 2, 1, 2] or kinds != [
        "u",
        "f",
        "i",
        "i",
        "f",
    ]:
        raise ValueError("arrays of the wrong shape or type")
    if logits.shape != (len(coords), len(voxels)) or (
        len(voxels) and not 0 <= voxels.min() <= voxels.max() < image.size
    ):
        raise ValueError("logits that do not fit the region")
    return Vector(
        image[None, None].astype(np.float32) / np.float32(255), coords, labels.astype(np.int64), voxels, logits
    )

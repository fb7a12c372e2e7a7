"""The class vectors of a bundle, one for each class id: a class's logits are its vector times the class features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gstk.core.safe_npz import read_npz
from gstk.errors import BundleError, CaseError

__all__ = ["CLASS_VECTORS_NAME", "load_class_vectors", "save_class_vectors"]

CLASS_VECTORS_NAME = "class_vectors.npz"


def save_class_vectors(file: Path, vectors: NDArray[np.float32]) -> None:
    """Writes float32 [n_classes,C]."""
    np.savez(file, vectors=vectors)


def load_class_vectors(file: Path) -> NDArray[np.float32]:
    """Reads float32 [n_classes,C].

    Raises:
        BundleError: the file does not hold that.
    """
    try:
        vectors = read_npz(file, ["vectors"])["vectors"]
    except (CaseError, KeyError) as error:
        raise BundleError(f"{file.name} holds no class vectors ({error}); export the bundle again") from None
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise BundleError(
            f"got class vectors {vectors.shape} of {vectors.dtype} in {file.name}, expected finite float32 (classes, "
            "channels); export the bundle again"
        )
    return np.asarray(vectors)

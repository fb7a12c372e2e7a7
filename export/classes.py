"""Class prompts in a bundle: comparison of the class graph with torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray

from gstk.core.bundle import Bundle
from gstk.core.class_vectors import load_class_vectors
from gstk.engines import open_engine
from gstk.engines.base import Engine
from gstk.errors import EngineError, ExportError
from gstk.export.parity import ParityCase, engines_to_compare
from gstk.export.tolerances import TOLERANCES, compare

__all__ = [
    "LEAST_INT8_AGREEMENT",
    "class_cases",
    "class_references",
    "classes_to_compare",
    "int8_agreement",
    "measure_class_parity",
]

LEAST_INT8_AGREEMENT = 0.97
"""Least share of voxels whose class must be the same in INT8."""
_MOST_CLASSES = 16


def class_cases(multiple: int) -> tuple[ParityCase, ...]:
    """Two regions: one with three different sides, and the smallest."""
    return ParityCase((2 * multiple,) * 3, 1, 1), ParityCase((3 * multiple, 4 * multiple, 5 * multiple), 1, 1)


def class_references(
    network: VISTA3D, cases: Sequence[ParityCase], class_ids: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Logits of MONAI's original network for the given classes in each case, float32 [B,1,H,W,D]."""
    vector = torch.tensor(list(class_ids))[:, None]
    with torch.no_grad():
        return [network.eval()(torch.from_numpy(case.inputs()[0]), class_vector=vector).numpy() for case in cases]


def measure_class_parity(
    bundle: Bundle,
    cases: Sequence[ParityCase],
    references: Sequence[NDArray[np.float32]],
    class_ids: Sequence[int],
    precision: str,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compares the class logits of every engine that supports classes with torch.

    Args:
        bundle: a bundle with a class graph.
        cases, references, class_ids: see `class_references`.
        precision: one of `TOLERANCES`.
        on_progress: called with a few words before each engine.

    Returns:
        The tolerance and the result of each engine, for the manifest.

    Raises:
        ExportError: an engine is outside of the tolerance.
    """
    vectors = load_class_vectors(bundle.path / bundle.manifest.class_vectors)[list(class_ids)]
    largest = max(float(np.abs(logits).max()) for logits in references)
    tolerance = TOLERANCES[precision]
    allowed = tolerance.error(largest)
    engines: dict[str, Any] = {}
    for name in engines_to_compare():
        on_progress(f"{name} {precision}: classes")
        with open_engine(bundle, name, precision) as engine:
            found = [
                compare(_logits(engine, case, vectors), expected, allowed)
                for case, expected in zip(cases, references, strict=True)
            ]
        error, agreement = max(f["max_abs_error"] for f in found), min(f["mask_agreement"] for f in found)
        if not (error <= allowed and agreement >= tolerance.agreement):
            raise ExportError(
                f"the graph for classes does not agree with torch: {name} in {precision}: logits differ by up to "
                f"{error:.2g}, expected {allowed:.2g}; masks agree on {agreement:.4%}, expected "
                f"{tolerance.agreement:.2%}; nothing was written"
            )
        engines[name] = {"max_abs_error": error, "mask_agreement": agreement}
    return {"tolerance": allowed, "classes": list(class_ids), "max_abs_logit": largest, "engines": engines}


def int8_agreement(
    exact: Engine, quantised: Engine, images: Sequence[NDArray[np.float32]], vectors: NDArray[np.float32]
) -> float:
    """Share of voxels that have the same class in two precisions, over all images.

    Args:
        exact, quantised: engines of one bundle.
        images: float32 [1,1,H,W,D].
        vectors: class vectors [K,C] of the classes to compare.
    """
    same = total = 0
    for image in images:
        first, second = (_labels(engine.class_features(image), vectors) for engine in (exact, quantised))
        same += int((first == second).sum())
        total += first.size
    return same / total


def classes_to_compare(class_ids: Sequence[int]) -> tuple[int, ...]:
    """A selection of a profile's classes, spread evenly over all of them."""
    return tuple(class_ids[:: max(1, len(class_ids) // _MOST_CLASSES)][:_MOST_CLASSES])


def _logits(engine: Engine, case: ParityCase, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        features = engine.class_features(case.inputs()[0])
    except EngineError as error:
        raise ExportError(f"the graph for classes does not run: {error}; nothing was written") from error
    logits = vectors @ features.reshape(len(features), -1)
    return logits.reshape(len(vectors), 1, *features.shape[1:])


def _labels(features: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    logits = vectors @ features.reshape(len(features), -1)
    return np.where(logits.max(axis=0) > 0, logits.argmax(axis=0) + 1, 0)

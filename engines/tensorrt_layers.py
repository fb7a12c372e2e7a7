"""The types that a plan computes in, read from TensorRT's engine inspector.

TensorRT builds a float32 plan from float32 ONNX without a warning, and such a plan is several times slower. The
inspector writes a type as `Half`, `FP16` or within `Channel major FP16 format where channel % 8 == 0`. TensorRT 10
writes it in the field `Format/Datatype`, TensorRT 11 in a separate field.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gstk.errors import PlanError

__all__ = ["count_types", "require_types"]

_TYPES = {
    "half": re.compile(r"\b(?:half|fp16|float16)\b", re.IGNORECASE),
    "float": re.compile(r"\b(?:float|fp32|float32)\b", re.IGNORECASE),
    "int8": re.compile(r"\bint8\b", re.IGNORECASE),
}
_EXPECTED = {"fp16": "half", "int8": "int8"}


def count_types(inspected: str) -> dict[str, int]:
    """Counts the outputs of a plan's layers by type.

    Args:
        inspected: JSON of the engine inspector, at detailed verbosity.

    Returns:
        The counts of `half`, `float` and `int8`; other types are not counted.

    Raises:
        PlanError: the text is not the inspector's JSON, or holds no types.
    """
    try:
        layers = json.loads(inspected)["Layers"]
        outputs = [output for layer in layers if isinstance(layer, dict) for output in layer.get("Outputs", [])]
        counts = Counter(_type(output) for output in outputs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"cannot read what TensorRT's inspector says of the plan ({type(error).__name__})") from None
    found = {name: counts[name] for name in _TYPES}
    if not any(found.values()):
        raise PlanError("TensorRT's inspector names no type in the plan, so that it cannot be checked; report this")
    return found


def require_types(precision: str, layers: Mapping[str, int], kind: str) -> None:
    """Raises an error if a plan does not compute in its precision.

    Args:
        precision: `fp32`, `fp16` or `int8`.
        layers: from `count_types`.
        kind: kind of the graph. The decoder of an INT8 bundle computes in floating point.

    Raises:
        PlanError: the plan has no layer of that type, or an FP32 plan has FP16 layers.
    """
    expected = _EXPECTED.get(precision)
    if precision == "int8" and kind != "encoder":
        return
    if expected is None:
        if layers["half"]:
            raise PlanError(f"got {layers['half']} FP16 results in the FP32 plan of the {kind}, expected none")
    elif not layers[expected]:
        raise PlanError(
            f"got a plan of the {kind} that computes in {_largest(layers)}, expected {precision}; "
            "the bundle's graphs hold no such types: export them again"
        )


def _largest(layers: Mapping[str, int]) -> str:
    return max(layers, key=lambda name: layers[name])


def _type(output: Any) -> str:
    """The type that the fields of an output state; the field `Name` is skipped, since a name may contain any word."""
    words = " ".join(str(value) for field, value in output.items() if field != "Name")
    return next((name for name, pattern in _TYPES.items() if pattern.search(words)), "")

"""Nodes that the rewrites of OpenVINO's graphs have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["constant_data", "identity", "integers", "only_reader"]


def integers(values: list[int]) -> Any:
    """A constant of int64."""
    from openvino import opset13 as ops

    return ops.constant(np.array(values, np.int64))


def identity(size: int, dtype: DTypeLike = np.float32) -> Any:
    """The identity [1,N,N]: a product with it turns rows and columns faster than the plugin does."""
    from openvino import opset13 as ops

    return ops.constant(np.eye(size, dtype=dtype)[None])


def constant_data(value: Any) -> NDArray[Any] | None:
    """The numbers of a constant, also of one that is converted to another type; None for other values."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    found: NDArray[Any] = node.get_data()
    return found


def only_reader(node: Any) -> Any | None:
    """The one node that reads a node's first output; None if there are more or none."""
    readers = list(node.output(0).get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None

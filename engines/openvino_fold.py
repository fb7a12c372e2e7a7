"""The last product of the prompt decoder as a convolution, for OpenVINO's CPU plugin.

The decoder ends in `kernel [B,27,C] @ features [B,C,V]` at full resolution. The plugin stores these features channels
last and transposes them before a MatMul, which takes a third of a click's time at 48 channels and 128³. A 1×1×1
convolution with the same kernel needs no transpose. Its kernel belongs to one object, so the rewritten graph takes one
object at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["convolve_last_product"]


def convolve_last_product(model: Any) -> int:
    """Rewrites in place the products of a kernel with flattened feature maps.

    Args:
        model: an `openvino.Model` of the prompt decoder with B fixed to 1.

    Returns:
        The number of rewritten products: 1, or 0 for a graph of another structure, which is not changed.
    """
    from openvino import opset13 as ops

    rewritten = 0
    for node in model.get_ordered_ops():
        found = _maps_and_unflattened(node)
        if found is None:
            continue
        maps, unflattened = found
        taps, channels = node.get_output_partial_shape(0)[1], maps.get_partial_shape()[1]
        kernel = node.input_value(0)
        if node.get_attributes()["transpose_a"]:
            kernel = ops.transpose(kernel, np.array([0, 2, 1], np.int64)).output(0)
        shape = np.array([taps.get_length(), channels.get_length(), 1, 1, 1], np.int64)
        convolution = ops.convolution(
            maps, ops.reshape(kernel, shape, special_zero=False), [1] * 3, [0] * 3, [0] * 3, [1] * 3
        )
        unflattened.output(0).replace(convolution.output(0))
        rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


def _maps_and_unflattened(node: Any) -> tuple[Any, Any] | None:
    """The maps [1,C,H,W,D] that a product flattens, and the node that unflattens its result; None for other nodes."""
    if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_b"]:
        return None
    flatten = node.input_value(1).get_node()
    readers = list(node.output(0).get_target_inputs())
    if flatten.get_type_name() != "Reshape" or len(readers) != 1:
        return None
    maps, unflattened = flatten.input_value(0), readers[0].get_node()
    ranks = [value.get_partial_shape().rank for value in (maps, node.output(0), unflattened.output(0))]
    if [rank.get_length() if rank.is_static else None for rank in ranks] != [5, 3, 5]:
        return None
    fixed = (maps.get_partial_shape()[0], maps.get_partial_shape()[1], node.get_output_partial_shape(0)[1])
    if not all(axis.is_static for axis in fixed) or fixed[0].get_length() != 1:
        return None
    if unflattened.get_output_partial_shape(0)[1] != fixed[2]:
        return None
    return maps, unflattened

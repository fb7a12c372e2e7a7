"""The end of the prompt decoder for OpenVINO's CPU plugin: a product with the features of every voxel, and shifts.

The decoder ends in `kernel [B,27,C] @ features [B,C,V]` at full resolution, in three convolutions that shift 27 maps to
9, 3 and 1, one axis each, and in a number that is added to the logits. The rewritten graph is exact, but for the order
of sums:

- The plugin stores these features channels last and transposes them before a MatMul, which takes a third of a click's
  time at 48 channels and 128³. A convolution with the same kernel needs no transpose. Its kernel belongs to one object,
  so the rewritten graph takes one object at a time.
- The convolution has the taps of the last axis as its own, 9 maps of 3 taps each, where the first shift follows. So 27
  maps of all voxels are neither written nor read, a twentieth of a decode.
- The number is added to the logits as one row. With one channel, which is last, the plugin would add it to one voxel at
  a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gstk.engines.openvino_nodes import constant_data, integers, only_reader

__all__ = ["add_to_row", "convolve_last_product"]

_TAPS = 3
"""Maps that a shift adds up, each from another neighbour along an axis."""


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
        taps, channels = node.get_output_partial_shape(0)[1].get_length(), maps.get_partial_shape()[1].get_length()
        kernel = node.input_value(0)
        if node.get_attributes()["transpose_a"]:
            kernel = ops.transpose(kernel, integers([0, 2, 1])).output(0)
        shift = _shift_of(unflattened, taps)
        if shift is None:
            sizes, pads, replaced = [taps, channels, 1, 1, 1], [0, 0, 0], unflattened
        else:
            kernel = ops.reshape(kernel, integers([taps // _TAPS, _TAPS, channels]), special_zero=False)
            kernel = ops.transpose(kernel, integers([0, 2, 1])).output(0)
            window = shift.get_input_shape(1)[2:]
            sizes, pads = [taps // _TAPS, channels, *window], [side // 2 for side in window]
            replaced = shift
        kernel = ops.reshape(kernel, integers(sizes), special_zero=False)
        convolution = ops.convolution(maps, kernel, [1] * 3, pads, pads, [1] * 3)
        replaced.output(0).replace(convolution.output(0))
        rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


def add_to_row(model: Any) -> int:
    """Rewrites in place the sum of a convolution's one map and one number, which is the graph's output.

    Args:
        model: an `openvino.Model` of the prompt decoder with B fixed to 1.

    Returns:
        The number of rewritten sums: 1, or 0 for a graph of another structure, which is not changed.
    """
    from openvino import opset13 as ops

    rewritten = 0
    for total in model.get_ordered_ops():
        if total.get_type_name() != "Add":
            continue
        maps, number = total.input_values()
        if maps.get_node().get_type_name() != "Convolution" or maps.get_partial_shape()[1] != 1 or not _is_one(number):
            continue
        row = ops.add(ops.reshape(maps, integers([1, -1]), False), ops.reshape(number, integers([1, 1]), False))
        total.output(0).replace(ops.reshape(row, ops.shape_of(maps), False).output(0))
        rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


def _is_one(value: Any) -> bool:
    """Whether a value of five axes is one number."""
    shape = value.get_partial_shape()
    return shape.rank == 5 and all(axis.get_max_length() == 1 for axis in shape)


def _shift_of(unflattened: Any, taps: int) -> Any | None:
    """The convolution that adds up each three of the maps, the first shifted back by one and the last forth.

    None if the maps are read by anything else.
    """
    node = only_reader(unflattened)
    if node is None or taps % _TAPS or node.get_type_name() != "Convolution":
        return None
    kernel = constant_data(node.input_value(1))
    if kernel is None or kernel.size != taps * taps or sorted(kernel.shape[2:]) != [1, 1, _TAPS]:
        return None
    about, padding = node.get_attributes(), [side // 2 for side in kernel.shape[2:]]
    if [list(about[name]) for name in ("pads_begin", "pads_end", "strides")] != [padding, padding, [1] * 3]:
        return None
    count = taps // _TAPS
    shifts = np.einsum("ij,tu->ijtu", np.eye(count), np.eye(_TAPS)).reshape(count, taps, _TAPS)
    return node if (kernel.reshape(shifts.shape) == shifts).all() else None


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

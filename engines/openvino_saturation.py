"""Narrows INT8 weights so that processors without VNNI multiply them exactly, for OpenVINO's CPU plugin.

Without VNNI the plugin's kernels multiply unsigned activations by signed weights and add two products in 16 bits.
255·127 + 255·127 is more than 32767, so large sums saturate. The embedding of the tests' small network then differs
from float32 by 0.26 of its spread; with exact sums it differs by 0.05. If weights have at most 64 steps to either side
of zero, no sum saturates (2·255·64 = 32640). Each channel's scale is fitted to these steps, and the error is 0.055.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_STEPS", "fit_steps", "narrow_weights", "products_saturate"]

MAX_STEPS = 64
"""Largest number of steps to either side of zero for which two products with unsigned activations never saturate."""
_LEAST_AXES = 3  # of a convolution's weights, one spatial axis at least


def products_saturate(core: Any) -> bool:
    """Tests whether INT8 convolutions saturate on this machine, by running one whose exact result is known.

    A test run covers processors of every maker, processors whose instructions a hypervisor hides, and
    limits such as `ONEDNN_MAX_CPU_ISA`.

    Args:
        core: an `openvino.Core`.
    """
    import openvino
    from openvino import opset13 as ops

    channels, side, activation, weight = 32, 4, 255, 127
    image = ops.parameter([1, channels, side, side, side], np.float32)
    low, high = np.float32(0), np.float32(activation)
    rounded = ops.fake_quantize(ops.relu(image), low, high, low, high, activation + 1)
    kernel = np.full((channels, channels, 3, 3, 3), weight, np.int8)
    kernels = ops.multiply(ops.convert(ops.constant(kernel), np.float32), np.ones((channels, 1, 1, 1, 1), np.float32))
    sums = ops.convolution(rounded, kernels, [1] * 3, [0] * 3, [0] * 3, [1] * 3)
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(openvino.Model([sums], [image], "products"), "CPU", config)
    found = compiled([np.full((1, channels, side, side, side), activation, np.float32)])[0]
    exact = math.prod(kernel.shape[1:]) * activation * weight
    return bool(np.abs(found / exact - 1).max() > 0.01)


def narrow_weights(model: Any) -> int:
    """Rewrites in place the 8-bit weights of convolutions to at most `MAX_STEPS` steps to either side of zero.

    Channels whose weights are already within this range are not changed.

    Args:
        model: an `openvino.Model` of an INT8 encoder, before it is compiled.

    Returns:
        The number of rewritten weight tensors.
    """
    from openvino import opset13 as ops

    rewritten = 0
    for node in model.get_ordered_ops():
        found = _weights_and_scale(node)
        if found is None:
            continue
        weights, scale = found
        steps, factor = fit_steps(weights, scale)
        if (factor == 1).all():
            continue
        narrow = ops.multiply(ops.convert(ops.constant(steps), np.float32), ops.constant(scale * factor))
        node.output(0).replace(narrow.output(0))
        rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


def fit_steps(weights: NDArray[np.int16], scale: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounds weights to at most `MAX_STEPS` steps, with one scale for each channel.

    Args:
        weights: weights minus their zero points.
        scale: scale with as many axes as the weights, of length 1 along all axes but the channels'.

    Returns:
        The steps, and a factor for `scale` of the same shape as `scale`.
    """
    shared = tuple(axis for axis in range(weights.ndim) if scale.shape[axis] == 1)
    largest = np.abs(weights).max(axis=shared, keepdims=True)
    factor = np.maximum(1, largest / np.float32(MAX_STEPS)).astype(np.float32)
    return np.rint(weights / factor).astype(np.int8), factor


def _weights_and_scale(node: Any) -> tuple[NDArray[np.int16], NDArray[np.float32]] | None:
    """Weights minus their zero points, and their scale, if a node ends a DequantizeLinear of constant 8-bit weights.

    None for other nodes.
    """
    if node.get_type_name() != "Multiply":
        return None
    scale, source = _constant(node.input_value(1)), node.input_value(0).get_node()
    zero: NDArray[Any] | None = np.zeros(1)
    if source.get_type_name() == "Subtract":
        zero, source = _constant(source.input_value(1)), source.input_value(0).get_node()
    if source.get_type_name() != "Convert" or scale is None or zero is None:
        return None
    constant = source.input_value(0).get_node()
    if constant.get_type_name() != "Constant" or constant.get_element_type().to_dtype() not in (np.int8, np.uint8):
        return None
    weights = constant.get_data().astype(np.int16) - zero.astype(np.int16)
    if weights.ndim < _LEAST_AXES:
        return None
    return weights, scale.reshape((1,) * (weights.ndim - scale.ndim) + scale.shape)


def _constant(value: Any) -> NDArray[Any] | None:
    """A constant before Convert and Reshape nodes, in the shape after these nodes; None for other values."""
    node = value.get_node()
    if node.get_type_name() == "Constant":
        found: NDArray[Any] = node.get_data()
        return found
    if node.get_type_name() not in ("Convert", "Reshape"):
        return None
    source = _constant(node.input_value(0))
    return None if source is None else source.reshape(tuple(value.get_shape()))

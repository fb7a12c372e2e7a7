"""INT8 weights that processors without VNNI multiply exactly, for OpenVINO's CPU plugin.

There the plugin's kernels multiply unsigned activations by signed weights and add two products at a time in 16 bits.
255·127 + 255·127 is more than 32767, so large sums saturate: the embedding of the tests' small network is 0.26 of its
spread away from float32 where exact sums are 0.05 away. With weights of at most 64 steps to either side,
2·255·64 = 32640, no sum saturates; each channel's scale is fitted to them, and the error becomes 0.055.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_STEPS", "fit_steps", "narrow_weights", "products_saturate"]

MAX_STEPS = 64
"""Most steps of a weight to either side of zero whose products with unsigned activations never saturate in pairs."""
_LEAST_AXES = 3  # of a convolution's weights, one spatial axis at least


def products_saturate(core: Any) -> bool:
    """Whether INT8 convolutions saturate here: one whose exact result is known is run.

    Asking the plugin itself covers processors of every maker, processors whose instructions a hypervisor hides, and
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

    Channels that have no more are left as they are.

    Args:
        model: an `openvino.Model` of an INT8 encoder, before it is compiled.

    Returns:
        How many tensors of weights were rewritten.
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
    """Rounds weights to at most `MAX_STEPS` steps, with a scale a channel.

    Args:
        weights: less their zero points.
        scale: of as many axes as the weights, 1 along those that channels share.

    Returns:
        The steps, and by what to multiply `scale`, of its shape.
    """
    shared = tuple(axis for axis in range(weights.ndim) if scale.shape[axis] == 1)
    largest = np.abs(weights).max(axis=shared, keepdims=True)
    factor = np.maximum(1, largest / np.float32(MAX_STEPS)).astype(np.float32)
    return np.rint(weights / factor).astype(np.int8), factor


def _weights_and_scale(node: Any) -> tuple[NDArray[np.int16], NDArray[np.float32]] | None:
    """Weights less their zero points, and their scale, where a node ends a DequantizeLinear of constant 8-bit weights.

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
    """A constant behind Convert and Reshape nodes, in the shape that comes out of them; None for other values."""
    node = value.get_node()
    if node.get_type_name() == "Constant":
        found: NDArray[Any] = node.get_data()
        return found
    if node.get_type_name() not in ("Convert", "Reshape"):
        return None
    source = _constant(node.input_value(0))
    return None if source is None else source.reshape(tuple(value.get_shape()))

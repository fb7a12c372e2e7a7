"""INT8 activations that are never negative, in all 256 steps, for OpenVINO's CPU plugin.

A bundle's scales are signed, since TensorRT takes no others, so a value behind a ReLU has 128 steps. The plugin's
kernels take unsigned activations too: with the same range in 256 steps the embedding of the full-size network is a
quarter closer to float32, and its convolutions need no correction for the sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["is_quantised", "widen_unsigned"]

_LARGEST = 127
_STEPS = 256


def is_quantised(model: Any) -> bool:
    """Whether a model has INT8 activations, that is QuantizeLinear nodes as the ONNX reader takes them."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def widen_unsigned(model: Any) -> int:
    """Rewrites in place each signed quantisation behind a ReLU.

    Args:
        model: an `openvino.Model` of an INT8 encoder, before it is compiled.

    Returns:
        How many were rewritten.
    """
    from openvino import opset13 as ops

    rewritten = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize" or node.input_value(0).get_node().get_type_name() != "Relu":
            continue
        scaled = _dequantised(node)
        if scaled is None:
            continue
        scale = scaled.input_value(1).get_node().get_data()
        low, high = np.float32(0), np.float32(_LARGEST * scale.item())
        unsigned = ops.fake_quantize(node.input_value(0), low, high, low, high, _STEPS)
        scaled.output(0).replace(unsigned.output(0))
        rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


def _dequantised(node: Any) -> Any | None:
    """The product with one constant scale that ends a DequantizeLinear behind this node; None where it is not that."""
    for _ in range(4):  # Convert, Convert, Subtract, Multiply
        readers = list(node.output(0).get_target_inputs())
        if len(readers) != 1:
            return None
        node = readers[0].get_node()
        if node.get_type_name() == "Multiply":
            constant = node.input_value(1).get_node()
            single = constant.get_type_name() == "Constant" and constant.get_data().size == 1
            return node if single else None
        if node.get_type_name() not in ("Convert", "Subtract"):
            return None
    return None

"""INT8 encoders as OpenVINO's CPU plugin runs them best: unsigned activations, and sums within convolutions.

A bundle's scales are signed, since TensorRT takes no others, so a value behind a ReLU has 128 steps. The plugin's
kernels take unsigned activations too: with the same range in 256 steps the embedding of the full-size network is a
quarter closer to float32, and its convolutions need no correction for the sign.

A bundle rounds both operands of a residual sum to INT8, as TensorRT likes it. The plugin has a convolution add its
residual in place where both have one type; what it cannot do so takes passes over memory (`docs/engines.md`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fuse_residual_sums", "is_quantised", "widen_unsigned"]

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


def fuse_residual_sums(model: Any) -> tuple[int, int]:
    """Rewrites in place each sum of two rounded values.

    Where the sum goes on in floating point (a norm reads it) its operands are left as they are, and the convolution
    adds to the stream. Where it is rounded itself, INT8 is added to INT8. The plugin would round the residual in
    float32 and another layout, between two reorders, but takes the rounding as the last step of an elementwise
    operation: a minimum with the largest value that rounding keeps, which changes none.

    Args:
        model: an `openvino.Model` of an INT8 encoder, before it is compiled.

    Returns:
        How many operands are no longer rounded, and how many are rounded behind a minimum.
    """
    from openvino import opset13 as ops

    unrounded = passed = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Add":
            continue
        first, second = (_rounding(operand) for operand in node.input_values())
        if first is None or second is None:
            continue
        shared = any(len(_readers(operand)) > 1 for operand in node.input_values())
        if not shared and any(kind != "FakeQuantize" for kind in _readers(node.output(0))):
            node.input(0).replace_source_output(first.input_value(0))
            node.input(1).replace_source_output(second.input_value(0))
            unrounded += 2
            continue
        for rounding in (first, second):
            value, largest = rounding.input_value(0), rounding.input_value(2).get_node()
            # With this reader alone the rounding is the last step of what makes the value.
            if len(_readers(value)) > 1 and largest.get_type_name() == "Constant" and largest.get_data().size == 1:
                below = ops.minimum(value, np.float32(largest.get_data().item()))
                rounding.input(0).replace_source_output(below.output(0))
                passed += 1
    model.validate_nodes_and_infer_types()
    return unrounded, passed


def _rounding(value: Any) -> Any | None:
    """The FakeQuantize whose result, dequantised, a value is; None where it is something else."""
    node = value.get_node()
    for _ in range(5):  # Multiply, Subtract, Convert, Convert, FakeQuantize
        if node.get_type_name() == "FakeQuantize":
            return node
        if node.get_type_name() not in ("Convert", "Subtract", "Multiply"):
            return None
        node = node.input_value(0).get_node()
    return None


def _readers(value: Any) -> list[str]:
    return [reader.get_node().get_type_name() for reader in value.get_target_inputs()]


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

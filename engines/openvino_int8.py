"""Rewrites INT8 encoders for OpenVINO's CPU plugin: unsigned activations, and residual sums fused into convolutions.

A bundle's scales are signed, since TensorRT takes no others, so a value behind a ReLU uses only 128 steps. The plugin's
kernels also take unsigned activations. With 256 steps for the same range, the embedding of the full-size network is a
quarter closer to float32, and its convolutions need no correction for the sign.

A bundle rounds both operands of a residual sum to INT8, which suits TensorRT. The plugin lets a convolution add its
residual in place if both have the same type; other sums take additional passes over memory (`docs/engines.md`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fuse_residual_sums", "is_quantised", "widen_unsigned"]

_LARGEST = 127
_STEPS = 256


def is_quantised(model: Any) -> bool:
    """Whether a model has INT8 activations: QuantizeLinear nodes, as OpenVINO's ONNX reader translates them."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def widen_unsigned(model: Any) -> int:
    """Rewrites in place each signed quantisation behind a ReLU.

    Args:
        model: an `openvino.Model` of an INT8 encoder, before it is compiled.

    Returns:
        The number of rewritten quantisations.
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

    If the sum stays in floating point (a norm reads it), its operands are no longer rounded, and the convolution adds
    to the residual in place. If the sum itself is rounded, INT8 is added to INT8. The plugin would round the residual
    in float32 and another layout, between two reorders, but fuses the rounding into a preceding elementwise operation.
    The rewrite therefore inserts a minimum with the largest value that rounding keeps, which changes no value.

    Args:
        model: an `openvino.Model` of an INT8 encoder, before it is compiled.

    Returns:
        The number of operands that are no longer rounded, and the number that are rounded behind a minimum.
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
            # If the rounding is the value's only reader, the plugin fuses it into the operator that makes the value.
            if len(_readers(value)) > 1 and largest.get_type_name() == "Constant" and largest.get_data().size == 1:
                below = ops.minimum(value, np.float32(largest.get_data().item()))
                rounding.input(0).replace_source_output(below.output(0))
                passed += 1
    model.validate_nodes_and_infer_types()
    return unrounded, passed


def _rounding(value: Any) -> Any | None:
    """The FakeQuantize whose dequantised result is this value; None for other values."""
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
    """The multiplication by a constant scale that ends a DequantizeLinear behind this node; None if there is none."""
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

"""Converts a graph to half precision: float16 weights and arithmetic, and float32 between casts where necessary.

TensorRT 11 and later compute in the graph's types and have no flag for half precision. The graph therefore contains the
types, and all floating-point inputs of an operator have the same type. These parts stay in float32:

- the norms: they sum over a whole region, and the largest float16 value is 65504;
- attention, from the scores to the weighted sum: over 262144 tokens a weight is near 4e-6, where float16 has one digit;
- the positional encoding: the sine of 2π times a coordinate;
- the coordinates of the points.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from gstk.errors import ExportError
from gstk.export.onnx_writer import drop_unused_weights

__all__ = ["FLOAT16_LIMIT", "IO_TYPES", "half_values", "to_fp16_graph"]

FLOAT16_LIMIT = 65504.0
IO_TYPES = ("fp16", "fp32")
"""Allowed types of the image, embedding and logits of a half-precision graph."""

_ALWAYS_FLOAT32 = frozenset({"InstanceNormalization", "LayerNormalization", "Softmax", "Sin", "Cos", "Range"})
_SHAPING = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Expand"})
_SIMPLE = _SHAPING | {"Add", "Sub", "Mul", "Concat"}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def to_fp16_graph(model: ir.Model, io: str = "fp16") -> None:
    """Rewrites a float32 graph in place.

    Args:
        model: a graph of `gstk.export.onnx_writer`, with the type of every value known.
        io: `fp16` or `fp32`: the type of the image, the embedding and the logits. Point coordinates stay float32.

    Raises:
        ExportError: `io` is neither, or a weight that float16 cannot hold.
    """
    if io not in IO_TYPES:
        raise ExportError(f"got {io!r} for the type of inputs and outputs, expected {' or '.join(IO_TYPES)}")
    edge = ir.DataType.FLOAT16 if io == "fp16" else ir.DataType.FLOAT
    exact = _float32_nodes(model.graph)
    for given in model.graph.inputs:
        if given.dtype == ir.DataType.FLOAT and given.name != "point_coords":
            _retype(given, edge)
    casts: dict[tuple[str, ir.DataType], ir.Value] = {}
    for node in list(model.graph):
        wanted = ir.DataType.FLOAT if node in exact else ir.DataType.FLOAT16
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in _FLOATS and value.dtype != wanted:
                node.replace_input_with(index, _as(model.graph, node, value, wanted, casts))
        for result in node.outputs:
            if result.dtype == ir.DataType.FLOAT:
                _retype(result, wanted)
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", wanted.value)
    for index, output in enumerate(list(model.graph.outputs)):
        if output.dtype != edge:
            model.graph.outputs[index] = _renamed_cast(model.graph, output, edge)
    drop_unused_weights(model)


def half_values(model: ir.Model) -> list[str]:
    """Names of the values that `to_fp16_graph` converts to float16, in order; weights are left out."""
    exact = _float32_nodes(model.graph)
    return [
        str(value.name)
        for node in model.graph
        if node not in exact
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT
    ]


def _float32_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that compute in float32 (see the module)."""
    exact = {node for node in graph if node.op_type in _ALWAYS_FLOAT32}
    for node in list(exact):
        if node.op_type in ("Sin", "Cos"):
            exact.update(_float_ancestors(node))
        if node.op_type == "Softmax":
            exact.update(_until_product(node, lambda n: (v.producer() for v in n.inputs if v is not None)))
            exact.update(_until_product(node, lambda n: (use.node for v in n.outputs for use in v.uses())))
    positional = {node for node in exact if node.op_type in ("Sin", "Cos")}
    for node in graph:  # in order of computation, so that one pass finds all that sines and cosines alone lead to
        inputs = [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
        if node.op_type in _SIMPLE and inputs and all(v.producer() in positional for v in inputs):
            positional.add(node)
    return exact | positional


def _float_ancestors(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if value is not None and producer is not None and value.dtype == ir.DataType.FLOAT:
            yield producer
            yield from _float_ancestors(producer)


def _until_product(node: ir.Node, neighbours: object) -> Iterator[ir.Node]:
    """Nodes from here to the nearest MatMul in one direction, through sums and reshaping."""
    for other in neighbours(node):  # type: ignore[operator]
        if other is None:
            continue
        if other.op_type == "MatMul":
            yield other
        elif other.op_type in _SHAPING or other.op_type == "Add":
            yield other
            yield from _until_product(other, neighbours)


def _as(
    graph: ir.Graph,
    before: ir.Node,
    value: ir.Value,
    dtype: ir.DataType,
    casts: dict[tuple[str, ir.DataType], ir.Value],
) -> ir.Value:
    """The value in another type. Weights are converted; other values get one Cast that all readers share."""
    key = (str(value.name), dtype)
    if key not in casts:
        casts[key] = (
            _half_weights(graph, value) if value.const_value is not None else _cast(graph, before, value, dtype)
        )
    return casts[key]


def _retype(value: ir.Value, dtype: ir.DataType) -> None:
    """Sets a new type object. Clones of a graph share type objects, so assigning to `dtype` would change all clones."""
    value.type = ir.TensorType(dtype)


def _cast(graph: ir.Graph, before: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    suffix = "half" if dtype == ir.DataType.FLOAT16 else "float"
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"{value.name}.to_{suffix}")
    result: ir.Value = node.outputs[0]
    result.name, result.type = f"{value.name}.{suffix}", ir.TensorType(dtype)
    graph.insert_before(before, node)
    return result


def _half_weights(graph: ir.Graph, value: ir.Value) -> ir.Value:
    assert value.const_value is not None
    weights = value.const_value.numpy()
    largest = float(np.abs(weights).max(initial=0))
    if not largest <= FLOAT16_LIMIT:
        raise ExportError(
            f"got a weight of {largest:g} in {value.name}, expected at most {FLOAT16_LIMIT:g}, where float16 ends; "
            "export without --fp16"
        )
    name = f"{value.name}.half"
    half = ir.Value(name=name, const_value=ir.tensor(weights.astype(np.float16), name=name))
    half.type, half.shape = ir.TensorType(ir.DataType.FLOAT16), ir.Shape(weights.shape)
    graph.register_initializer(half)
    return half


def _renamed_cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A Cast at the graph's end that takes over the output's name."""
    name = str(value.name)
    value.name = f"{name}.computed"
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"{name}.cast")
    result: ir.Value = node.outputs[0]
    result.name, result.type, result.shape = name, ir.TensorType(dtype), value.shape
    value.shape = None
    graph.append(node)
    return result

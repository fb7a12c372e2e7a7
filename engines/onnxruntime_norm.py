"""Graphs as ONNX Runtime's processor is given them: exact norms of large regions, weights left in their file.

Its kernel of InstanceNormalization adds up a channel's voxels in eight float32 sums, one voxel after the other. The
error grows with their number: 7e-5 of a norm's result at 96³, and 4e-2 in the class logits of the full-size network.
Mean and variance are taken along one axis after the other here, and the variance is that of centred values: 1e-6 at
96³. It is one more pass over the tensor.

The file itself keeps InstanceNormalization, for which TensorRT and OpenVINO have kernels of their own. What ONNX
Runtime is given in its place is a small message that names large weights by their place in the file. It maps them into
memory: loading 785 MB of weights takes 0.1 s of the processor and 0.1 GB, where it took 1.1 s and 0.9 GB
(`benchmarks/onnxruntime_graphs.py`).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gstk.engines.onnx_messages import Field, bytes_field, fields, node, number_field, text_of

__all__ = ["MAPPED_BYTES", "exact_graph"]

MAPPED_BYTES = 2**20
"""Weights of this size and more are mapped from the file."""
# Fields of onnx.proto.
_GRAPH = 7
_NODE, _INITIALISER = 1, 5
_INPUT, _OUTPUT, _NAME, _KIND, _ATTRIBUTE = 1, 2, 3, 4, 5
_DIMENSION, _TYPE, _TENSOR_NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_FLOAT, _INT64 = 1, 7

_NORM = "InstanceNormalization"
_PREFIX = "gstk.norm"
_DEPTH, _ROW, _COLUMN, _SHAPE = (f"{_PREFIX}.{name}" for name in ("axis4", "axis3", "axis2", "shape"))
_CONSTANTS = {_DEPTH: (4,), _ROW: (3,), _COLUMN: (2,), _SHAPE: (1, -1, 1, 1, 1)}


def exact_graph(file: Path) -> bytes:
    """A graph whose instance norms are exact, to be loaded from memory.

    Args:
        file: an ONNX file of opset 18 or newer, in which InstanceNormalization is over three spatial axes.

    Returns:
        The graph, in which weights of `MAPPED_BYTES` and more are named by their place in `file`.

    Raises:
        ValueError: the file is no ONNX file.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        parts = [
            bytes_field(_GRAPH, b"".join(_graph_parts(content, field, file.name)))
            if field.number == _GRAPH
            else content[field.begin : field.end]
            for field in fields(content, 0, len(content))
        ]
    return b"".join(parts)


def _graph_parts(content: Any, graph: Field, file_name: str) -> Iterator[bytes]:
    epsilons: set[float] = set()
    for field in fields(content, graph.value, graph.end):
        if field.number == _INITIALISER and field.end - field.value >= MAPPED_BYTES:
            yield _mapped(content, field, file_name)
        elif field.number == _NODE and _kind(content, field) == _NORM:
            x, scale, bias, output, epsilon = _norm(content, field)
            epsilons.add(epsilon)
            yield _exact_norm(x, scale, bias, output, epsilon)
        else:
            yield content[field.begin : field.end]
    for name, values in _CONSTANTS.items():
        yield _constant(name, _INT64, struct.pack(f"<{len(values)}q", *values), len(values))
    for epsilon in sorted(epsilons):
        yield _constant(_epsilon_name(epsilon), _FLOAT, struct.pack("<f", epsilon))


def _kind(content: Any, field: Field) -> str:
    return next((text_of(content, own) for own in fields(content, field.value, field.end) if own.number == _KIND), "")


def _norm(content: Any, field: Field) -> tuple[str, str, str, str, float]:
    """Input, scale and bias, the output, and the number that is added to the variance."""
    inputs, output, epsilon = [], "", 1e-5
    for own in fields(content, field.value, field.end):
        if own.number == _INPUT:
            inputs.append(text_of(content, own))
        elif own.number == _OUTPUT:
            output = text_of(content, own)
        elif own.number == _ATTRIBUTE:  # it has no other
            values = {part.number: part for part in fields(content, own.value, own.end)}
            epsilon = struct.unpack("<f", content[values[2].value : values[2].end])[0]
    x, scale, bias = inputs
    return x, scale, bias, output, epsilon


def _exact_norm(x: str, scale: str, bias: str, output: str, epsilon: float) -> bytes:
    def own(name: str) -> str:
        return f"{output}/{_PREFIX}.{name}"

    return b"".join(
        (
            node("ReduceMean", (x, _DEPTH), own("rows")),
            node("ReduceMean", (own("rows"), _ROW), own("planes")),
            node("ReduceMean", (own("planes"), _COLUMN), own("mean")),
            node("Sub", (x, own("mean")), own("centred")),
            # Its mean would take a tensor of squares.
            node("ReduceSumSquare", (own("centred"), _DEPTH), own("square_rows")),
            node("ReduceMean", (own("square_rows"), _ROW), own("square_planes")),
            node("ReduceMean", (own("square_planes"), _COLUMN), own("squares")),
            node("Shape", (x,), own("depth"), start=4, end=5),
            node("Cast", (own("depth"),), own("count"), to=_FLOAT),
            node("Div", (own("squares"), own("count")), own("variance")),
            node("Add", (own("variance"), _epsilon_name(epsilon)), own("positive")),
            node("Sqrt", (own("positive"),), own("deviation")),
            node("Reshape", (scale, _SHAPE), own("scale")),
            node("Div", (own("scale"), own("deviation")), own("factor")),
            node("Mul", (own("centred"), own("factor")), own("scaled")),
            node("Reshape", (bias, _SHAPE), own("bias")),
            node("Add", (own("scaled"), own("bias")), output),
        )
    )


def _epsilon_name(epsilon: float) -> str:
    return f"{_PREFIX}.epsilon{epsilon!r}"


def _constant(name: str, kind: int, content: bytes, *shape: int) -> bytes:
    dimensions = b"".join(number_field(_DIMENSION, side) for side in shape)
    tensor = dimensions + number_field(_TYPE, kind) + bytes_field(_TENSOR_NAME, name) + bytes_field(_RAW, content)
    return bytes_field(_INITIALISER, tensor)


def _mapped(content: Any, field: Field, file_name: str) -> bytes:
    """An initialiser whose bytes are named by their place in the file; one without bytes of its own as it is."""
    parts, values = [], None
    for own in fields(content, field.value, field.end):
        if own.number == _RAW:
            values = own
        else:
            parts.append(content[own.begin : own.end])
    if values is None:
        return content[field.begin : field.end]  # type: ignore[no-any-return]
    place = {"location": file_name, "offset": str(values.value), "length": str(values.integer)}
    parts += [bytes_field(_EXTERNAL, bytes_field(1, name) + bytes_field(2, value)) for name, value in place.items()]
    parts.append(number_field(_LOCATION, 1))
    return bytes_field(_INITIALISER, b"".join(parts))

"""Runs a bundle's ONNX graph with torch, operator by operator.

Shapes and what is computed from them are Python numbers and lists, tensors are tensors: nothing waits for a device, and
`torch.compile` sees plain torch code. A tensor is dropped after its last reader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional as F

from gstk.errors import EngineError

__all__ = ["TorchGraph"]

Host = int | float | list[Any]
_FLOATS = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}


class TorchGraph(torch.nn.Module):
    """A graph of the operators that `gstk export` writes, weights and all.

    Attributes:
        inputs, outputs: names.
        types: element type of each floating-point input.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        """Reads a graph.

        Args:
            path: the `.onnx` file; weights beside it are read too.
            device: where weights and computation go.

        Raises:
            EngineError: an operator that this module does not know.
        """
        super().__init__()
        graph = onnx.load(str(path)).graph
        weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self.types = {name: _FLOATS[kind] for name, kind in types.items() if kind in _FLOATS}
        self._constants: dict[str, Any] = {}
        for name, array in weights.items():
            if array.dtype.kind == "i" or array.ndim == 0:
                self._constants[name] = array.tolist()
            else:
                self.register_buffer(f"w{len(self._constants)}", torch.from_numpy(array.copy()).to(device))
                self._constants[name] = f"w{len(self._constants)}"
        unknown = sorted({node.op_type for node in graph.node} - set(_OPERATORS))
        if unknown:
            raise EngineError(f"got operators {', '.join(unknown)} in {path.name}, which the torch engine does not run")
        last = {name: index for index, node in enumerate(graph.node) for name in node.input}
        self._steps = [
            (
                _OPERATORS[node.op_type],
                list(node.input),
                node.output[0],
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
                [n for n in node.input if last[n] == index and n not in weights and n not in self.outputs],
            )
            for index, node in enumerate(graph.node)
        ]
        self._device = device

    def forward(self, inputs: Mapping[str, Tensor], observe: Callable[[str, Any], None] | None = None) -> list[Tensor]:
        """Runs the graph.

        Args:
            inputs: by name, on the device and of the graph's types.
            observe: told the name and the value of each operator's result.

        Returns:
            The outputs, in order.
        """
        values: dict[str, Any] = dict(inputs)
        for name, constant in self._constants.items():
            values[name] = getattr(self, constant) if isinstance(constant, str) else constant
        for run, names, output, attributes, dead in self._steps:
            values[output] = run(attributes, self._device, *(values[name] if name else None for name in names))
            if observe is not None:
                observe(output, values[output])
            for name in dead:
                values.pop(name, None)
        return [values[name] for name in self.outputs]


def _is_host(value: Any) -> bool:
    return not isinstance(value, Tensor)


def _elementwise(on_tensors: Callable[[Any, Any], Any], on_numbers: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """An operator on two values; numbers and lists of them stay numbers."""

    def run(attributes: Any, device: Any, a: Any, b: Any) -> Any:
        if not (_is_host(a) and _is_host(b)):
            return on_tensors(_number(a), _number(b))
        if isinstance(a, list) or isinstance(b, list):
            count = max(len(v) for v in (a, b) if isinstance(v, list))
            pairs = zip(*(v * (count // len(v)) if isinstance(v, list) else [v] * count for v in (a, b)), strict=True)
            return [on_numbers(x, y) for x, y in pairs]
        return on_numbers(a, b)

    return run


def _number(value: Any) -> Any:
    """A host value that a tensor can be combined with."""
    if isinstance(value, list):
        if len(value) != 1:
            raise EngineError(f"got a list {value} beside a tensor, expected one number")
        return value[0]
    return value


def _cast(attributes: dict[str, Any], device: Any, value: Any) -> Any:
    kind = attributes["to"]
    if _is_host(value):
        convert = int if kind == onnx.TensorProto.INT64 else float
        return [convert(v) for v in value] if isinstance(value, list) else convert(value)
    if kind == onnx.TensorProto.INT64:
        return value.to(torch.int64)
    return value.to(_FLOATS[kind])


def _leaky_relu(attributes: dict[str, Any], device: Any, value: Tensor) -> Any:
    return torch.nn.functional.leaky_relu(value, attributes.get("alpha", 0.01))


def _concat(attributes: dict[str, Any], device: Any, *values: Any) -> Any:
    if all(_is_host(value) for value in values):
        return [number for value in values for number in (value if isinstance(value, list) else [value])]
    return torch.cat(values, dim=attributes["axis"])


def _shape(attributes: dict[str, Any], device: Any, value: Tensor) -> list[int]:
    return list(value.shape)[slice(attributes.get("start"), attributes.get("end"))]


def _reshape(attributes: dict[str, Any], device: Any, value: Any, shape: list[int]) -> Any:
    if _is_host(value):
        flat = value if isinstance(value, list) else [value]
        return flat if shape else flat[0]
    sides = [value.shape[axis] if side == 0 else side for axis, side in enumerate(shape)]
    return value.reshape(sides)


def _squeeze(attributes: dict[str, Any], device: Any, value: Any, axes: list[int] | None = None) -> Any:
    if _is_host(value):
        return value[0] if isinstance(value, list) and len(value) == 1 else value
    for axis in sorted(
        (a % value.ndim for a in axes or [i for i, n in enumerate(value.shape) if n == 1]), reverse=True
    ):
        value = value.squeeze(axis)
    return value


def _unsqueeze(attributes: dict[str, Any], device: Any, value: Any, axes: list[int]) -> Any:
    if _is_host(value):
        return value if isinstance(value, list) else [value]
    rank = value.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        value = value.unsqueeze(axis)
    return value


def _slice(
    attributes: dict[str, Any],
    device: Any,
    value: Any,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Any:
    if _is_host(value):
        return value[slice(starts[0], ends[0], (steps or [1])[0])]
    index = [slice(None)] * value.ndim
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] if axes else place
        index[axis] = slice(start, end if end < 2**62 else None, steps[place] if steps else 1)
    return value[tuple(index)]


def _expand(attributes: dict[str, Any], device: Any, value: Tensor, shape: list[int]) -> Tensor:
    return value.expand(np.broadcast_shapes(tuple(value.shape), tuple(shape)))


def _range(attributes: dict[str, Any], device: Any, start: Any, limit: Any, delta: Any) -> Tensor:
    start, limit, delta = (float(v) for v in (start, limit, delta))
    count = max(0, math.ceil((limit - start) / delta))
    return torch.arange(count, device=device, dtype=torch.float32).mul(delta).add(start)


def _conv(attributes: dict[str, Any], device: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pads = attributes.get("pads", [0] * 6)
    return F.conv3d(
        x,
        weight,
        bias,
        attributes.get("strides", 1),
        _symmetric(pads),
        attributes.get("dilations", 1),
        attributes.get("group", 1),
    )


def _conv_transpose(
    attributes: dict[str, Any], device: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    return F.conv_transpose3d(
        x,
        weight,
        bias,
        attributes.get("strides", 1),
        _symmetric(attributes.get("pads", [0] * 6)),
        attributes.get("output_padding", 0),
        attributes.get("group", 1),
        attributes.get("dilations", 1),
    )


def _symmetric(pads: Sequence[int]) -> list[int]:
    half = len(pads) // 2
    if list(pads[:half]) != list(pads[half:]):
        raise EngineError(f"got pads {list(pads)}, expected the same on both sides")
    return list(pads[:half])


def _instance_norm(attributes: dict[str, Any], device: Any, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def _layer_norm(
    attributes: dict[str, Any], device: Any, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    axis = attributes.get("axis", -1) % x.ndim
    return F.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def _gelu(attributes: dict[str, Any], device: Any, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=attributes.get("approximate", b"none").decode())


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda attributes, device, *values: function(*values)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": _elementwise(lambda a, b: a + b, lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b, lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b, lambda a, b: a * b),
    "Div": _elementwise(
        lambda a, b: a / b, lambda a, b: a // b if isinstance(a, int) and isinstance(b, int) else a / b
    ),
    "Equal": _elementwise(lambda a, b: a == b, lambda a, b: a == b),
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _plain(torch.cos),
    "Expand": _expand,
    "Gelu": _gelu,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _plain(torch.matmul),
    "LeakyRelu": _leaky_relu,
    "Or": _plain(torch.logical_or),
    "Range": _range,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sin": _plain(torch.sin),
    "Slice": _slice,
    "Softmax": lambda attributes, device, x: torch.softmax(x, attributes.get("axis", -1)),
    "Squeeze": _squeeze,
    "Transpose": lambda attributes, device, x: x.permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""ONNX operator → what runs it, given its attributes, the device and its inputs."""

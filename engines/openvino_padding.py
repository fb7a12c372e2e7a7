"""Rewrites prompt decoders of an older gstk so that they ignore points, as newer ones do (`point_padding`).

OpenVINO's CPU plugin makes and keeps new kernels for each number of points, which takes 20 to 40 ms a click and 2.7 GB
after a hundred clicks. The rewrite is that of the export: before each softmax over prompt tokens, the scores of an
ignored point are lowered so far that its weight is exactly 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gstk.engines.point_padding import IGNORED

__all__ = ["ignore_padding", "ignores_padding"]

_NAME = "labels_with_ignored"
_LOWERED = -6e4
"""The number added to a score; it is within the range of float16, and its exponential is 0."""
_POINTS, _SIDE = 7, 8
"""Number of points and side of an embedding for shape inference; the side gives more image tokens than prompts."""


def ignores_padding(compiled: Any) -> bool:
    """Whether an `openvino.CompiledModel` was compiled from a decoder that `ignore_padding` rewrote."""
    return any(_NAME in port.get_names() for port in compiled.inputs)


def ignore_padding(model: Any) -> int:
    """Rewrites a prompt decoder in place so that it ignores points of `IGNORED`.

    Args:
        model: an `openvino.Model` of a prompt decoder that takes one object at a time.

    Returns:
        The number of rewritten softmaxes over prompt tokens; 0 for a graph of another structure, which is not changed.
    """
    from openvino import opset13 as ops

    scores = _prompt_scores(model)
    if scores is None:
        return 0
    labels = model.input("point_labels")
    ignored = ops.convert(ops.equal(labels, np.int64(IGNORED)), np.float32)
    lowered = ops.multiply(ignored, np.float32(_LOWERED))
    row = ops.concat([np.zeros((1, scores.before), np.float32), lowered, np.zeros((1, scores.after), np.float32)], 1)
    for node in model.get_ordered_ops():
        place = scores.places.get(node.get_friendly_name())
        if place is None:
            continue
        # The mask broadcasts from the last axis: prompt tokens, repeated for each head if that axis holds all heads.
        mask = ops.convert(ops.tile(row, np.array([1, place.heads])), node.get_element_type().to_dtype())
        port = node.input(place.operand)
        port.replace_source_output(ops.add(port.get_source_output(), mask).output(0))
    labels.add_names({_NAME})
    model.validate_nodes_and_infer_types()
    return len(scores.places)


class _Place(NamedTuple):
    """The place where a mask is added: the input of a node, and the number of heads in its last axis."""

    operand: int
    heads: int


class _Scores(NamedTuple):
    """Numbers of tokens before and after those of the points, and the mask's places by the node's name."""

    before: int
    after: int
    places: dict[str, _Place]


def _prompt_scores(model: Any) -> _Scores | None:
    """Finds the softmaxes over all prompt tokens; None if there are none.

    They are recognised by their shapes, in a copy of the model whose number of points no other axis has.
    """
    copy = model.clone()
    sides = [_SIDE if axis.is_dynamic else axis.get_length() for axis in copy.input("embedding").get_partial_shape()]
    copy.reshape({"embedding": sides, "point_coords": [1, _POINTS, 3], "point_labels": [1, _POINTS]})
    around: tuple[int, int] | None = None
    places = {}
    for node in copy.get_ordered_ops():
        if around is None:
            around = _tokens_around(node)
        elif node.get_type_name() == "Softmax":
            shape = list(node.get_output_shape(0))
            if shape[-1] == _POINTS + sum(around) and node.get_attributes()["axis"] in (-1, len(shape) - 1):
                name, place = _cheapest_place(node)
                places[name] = place
    return _Scores(*around, places) if around and places else None


def _tokens_around(node: Any) -> tuple[int, int] | None:
    """Numbers of tokens before and after those of the points, if the node concatenates them; otherwise None."""
    if node.get_type_name() != "Concat":
        return None
    shapes = [list(value.get_shape()) for value in node.input_values()]
    counts = [shape[1] if len(shape) == 3 else 0 for shape in shapes]
    if counts.count(_POINTS) != 1 or list(node.get_output_shape(0))[1] != sum(counts):
        return None
    place = counts.index(_POINTS)
    return sum(counts[:place]), sum(counts[place + 1 :])


def _cheapest_place(softmax: Any) -> tuple[str, _Place]:
    """Chooses where to add a mask to a softmax's scores: to a row that is added to all scores, if there is one."""
    shape = list(softmax.get_output_shape(0))
    reshape = softmax.input_value(0).get_node()
    if reshape.get_type_name() == "Reshape":
        total = reshape.input_value(0).get_node()
        if total.get_type_name() == "Add":
            for operand, value in enumerate(total.input_values()):
                if list(value.get_shape()) == [1, 1, math.prod(shape[-2:])]:
                    return total.get_friendly_name(), _Place(operand, shape[-2])
    return softmax.get_friendly_name(), _Place(0, 1)

"""The prompt decoder's attention in the layouts that OpenVINO's CPU plugin is fast in.

Both rewrites leave the arithmetic as it is:

- Image tokens [1,T,C] are the voxels of an embedding that is channels last. The exported graph turns them round to
  channels first, and the plugin turns them back, before the upsampling; the rewritten graph reshapes them, which moves
  nothing. A sixth of a click's processor time at 48 channels and 128³. For a region of fixed sides the plugin then
  drops both turns. For any region it does not, and its transpose takes four times as long as a product with the
  identity, which gives the same.
- A voxel attends to a few prompt tokens P in each of its heads: a softmax over the last axis of [1,T,heads,P], which is
  too short to be vectorised. The rewritten graph has the scores as [1,heads,P,T]. A twentieth of a click's time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gstk.engines.openvino_layout import TO_FIRST, TURN_TOKENS
from gstk.engines.openvino_nodes import identity, integers, only_reader

__all__ = ["softmax_over_rows", "upsample_tokens"]


def upsample_tokens(model: Any) -> int:
    """Rewrites in place the upsampling of image tokens, so that it reads them as they are.

    Args:
        model: an `openvino.Model` of the prompt decoder after `take_channels_last`, with B fixed to 1.

    Returns:
        The number of rewritten places: 1, or 0 for a graph of another structure, which is not changed.
    """
    from openvino import opset13 as ops

    embedding, rewritten = model.input("embedding"), 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ConvolutionBackpropData":
            continue
        unflattened = node.input_value(0).get_node()
        turned = unflattened.input_value(0).get_node() if unflattened.get_type_name() == "Reshape" else None
        if turned is None or not _turns_tokens(turned):
            continue
        tokens = turned.input_value(0)
        batch, channels = tokens.get_partial_shape()[0], tokens.get_partial_shape()[2]
        if batch.is_dynamic or batch.get_length() != 1 or channels != embedding.get_partial_shape()[4]:
            continue
        sizes = ops.shape_of(embedding.get_node())
        if embedding.get_partial_shape().is_static:
            voxels = ops.transpose(ops.reshape(tokens, sizes, special_zero=False), integers(TO_FIRST))
        else:
            ones = identity(channels.get_length(), tokens.get_element_type().to_dtype())
            rows = ops.matmul(ones, tokens, False, True)
            first = ops.gather(sizes, integers(TO_FIRST), ops.constant(np.int64(0)))
            voxels = ops.reshape(rows, first, special_zero=False)
        node.input(0).replace_source_output(voxels.output(0))
        rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


def softmax_over_rows(model: Any) -> int:
    """Rewrites in place the attention of image tokens to prompt tokens.

    Args:
        model: an `openvino.Model` of the prompt decoder, with B fixed to 1.

    Returns:
        The number of rewritten softmaxes: 2, or 0 for a graph of another structure, which is not changed.
    """
    from openvino import opset13 as ops

    rewritten = 0
    for node in model.get_ordered_ops():
        found = _image_attention(node)
        if found is None:
            continue
        scores = ops.matmul(found.keys, found.tokens, found.keys_turned, True)
        scores = ops.add(scores, ops.transpose(found.bias, integers(TURN_TOKENS)))
        count = ops.gather(ops.shape_of(found.tokens), integers([1]), ops.constant(np.int64(0)))
        by_head = ops.concat([integers([1, found.heads, -1]), count], 0)
        weights = ops.softmax(ops.reshape(scores, by_head, special_zero=False), 2)
        rows = ops.reshape(weights, ops.concat([integers([1, -1]), count], 0), special_zero=False)
        summed = ops.matmul(rows, found.product.input_value(1), True, found.product.get_attributes()["transpose_b"])
        found.product.output(0).replace(summed.output(0))
        rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


class _Attention(NamedTuple):
    """Scores are `tokens [1,T,C] @ keys + bias [1,1,heads·P]`, and their softmax is the first factor of `product`."""

    tokens: Any
    keys: Any
    keys_turned: bool
    """Whether keys are [1,C,heads·P], not [1,heads·P,C]."""
    bias: Any
    heads: int
    product: Any


def _image_attention(softmax: Any) -> _Attention | None:
    """The attention whose weights [1,T,heads,P] a node computes; None for other nodes."""
    if softmax.get_type_name() != "Softmax" or _rank(softmax.output(0)) != 4:
        return None
    split, flat = softmax.input_value(0).get_node(), only_reader(softmax)
    heads = softmax.get_output_partial_shape(0)[2]
    if split.get_type_name() != "Reshape" or flat is None or flat.get_type_name() != "Reshape" or heads.is_dynamic:
        return None
    total, product = split.input_value(0).get_node(), only_reader(flat)
    if total.get_type_name() != "Add" or product is None or product.get_type_name() != "MatMul":
        return None
    scores, bias = total.input_value(0).get_node(), total.input_value(1)
    if scores.get_type_name() != "MatMul" or [_rank(value) for value in (bias, flat.output(0))] != [3, 3]:
        return None
    about, rows = scores.get_attributes(), bias.get_partial_shape()
    is_first = product.input_value(0).get_node().get_friendly_name() == flat.get_friendly_name()
    if about["transpose_a"] or product.get_attributes()["transpose_a"] or not is_first or rows[1] != 1:
        return None
    if _rank(scores.input_value(0)) != 3 or scores.get_output_partial_shape(0)[0] != 1:
        return None
    return _Attention(
        scores.input_value(0), scores.input_value(1), not about["transpose_b"], bias, heads.get_length(), product
    )


def _turns_tokens(node: Any) -> bool:
    """Whether a node turns [B,T,C] into [B,C,T]."""
    if node.get_type_name() != "Transpose":
        return False
    order = node.input_value(1).get_node()
    return order.get_type_name() == "Constant" and list(order.get_data()) == TURN_TOKENS


def _rank(value: Any) -> int | None:
    rank = value.get_partial_shape().rank
    return rank.get_length() if rank.is_static else None

"""Passes the embedding channels last from encoder to decoder, for OpenVINO's CPU plugin.

The plugin computes with channels last, but a graph's inputs and outputs are channels first. A region's embedding is
therefore transposed after the encoder, and again before each click. The rewritten graphs exchange it channels last. The
decoder takes the embedding as tokens [1,T,C], which it is then without a transpose.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gstk.engines.openvino_nodes import identity, integers

__all__ = ["TO_FIRST", "TURN_TOKENS", "give_channels_last", "take_channels_last"]

TO_LAST, TO_FIRST, TURN_TOKENS = [0, 2, 3, 4, 1], [0, 4, 1, 2, 3], [0, 2, 1]


def give_channels_last(encoder: Any, by_product: bool = False) -> None:
    """Rewrites a graph in place, so that its one output, the embedding, is [1,H/2,W/2,D/2,C], not [1,C,H/2,W/2,D/2].

    Args:
        encoder: an `openvino.Model`.
        by_product: by a product with the identity, which takes a twentieth less of an INT8 encode than the plugin's
            transpose of a region of any sides. Where the plugin computes in bfloat16, it rounds the embedding to it: by
            0.2 % of its spread, of which INT8 costs 8 %.
    """
    from openvino import opset13 as ops

    result = encoder.get_results()[0]
    features = result.input_value(0)
    if by_product:
        channels = features.get_partial_shape()[1].get_length()
        rows = ops.reshape(features, integers([1, channels, -1]), special_zero=False)
        tokens = ops.matmul(rows, identity(channels), True, False)
        sizes = ops.gather(ops.shape_of(features), integers(TO_LAST), np.int64(0))
        turned = ops.reshape(tokens, sizes, special_zero=False)
    else:
        turned = ops.transpose(features, integers(TO_LAST))
    result.input(0).replace_source_output(turned.output(0))
    encoder.validate_nodes_and_infer_types()


def take_channels_last(decoder: Any) -> None:
    """Rewrites a graph in place, so that its input `embedding` is [1,H/2,W/2,D/2,C].

    Args:
        decoder: an `openvino.Model`.
    """
    from openvino import PartialShape
    from openvino import opset13 as ops

    parameter = next(p for p in decoder.get_parameters() if "embedding" in p.output(0).get_names())
    readers = list(parameter.output(0).get_target_inputs())
    shape = parameter.get_partial_shape()
    parameter.set_partial_shape(PartialShape([shape[axis] for axis in TO_LAST]))
    turned_back = ops.transpose(parameter, integers(TO_FIRST))
    for reader in readers:
        node = reader.get_node()
        if node.get_type_name() == "ShapeOf":  # which would keep the transpose
            sizes = ops.shape_of(parameter, output_type=node.get_output_element_type(0).get_type_name())
            first = ops.gather(sizes, integers(TO_FIRST), np.int64(0))
            node.output(0).replace(first.output(0))
        elif _flattens(node, shape[1]):
            tokens = ops.reshape(parameter, integers([1, -1, shape[1].get_length()]), special_zero=False)
            node.output(0).replace(ops.transpose(tokens, integers(TURN_TOKENS)).output(0))
        else:
            reader.replace_source_output(turned_back.output(0))
    decoder.validate_nodes_and_infer_types()


def _flattens(node: Any, channels: Any) -> bool:
    """Whether a node makes [1,C,T] of [1,C,H,W,D]."""
    if node.get_type_name() != "Reshape" or channels.is_dynamic:
        return False
    target = node.input_value(1).get_node()
    return target.get_type_name() == "Constant" and list(target.get_data()) == [1, channels.get_length(), -1]

"""Passes the embedding channels last from encoder to decoder, for OpenVINO's CPU plugin.

The plugin computes with channels last, but a graph's inputs and outputs are channels first. A region's embedding is
therefore transposed after the encoder, and again before each click. The rewritten graphs exchange it channels last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["give_channels_last", "take_channels_last"]

_TO_LAST, _TO_FIRST = [0, 2, 3, 4, 1], [0, 4, 1, 2, 3]


def give_channels_last(encoder: Any) -> None:
    """Rewrites a graph in place, so that its one output, the embedding, is [1,H/2,W/2,D/2,C], not [1,C,H/2,W/2,D/2].

    Args:
        encoder: an `openvino.Model`.
    """
    from openvino import opset13 as ops

    result = encoder.get_results()[0]
    turned = ops.transpose(result.input_value(0), np.array(_TO_LAST, np.int64))
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
    parameter.set_partial_shape(PartialShape([shape[axis] for axis in _TO_LAST]))
    turned_back = ops.transpose(parameter, np.array(_TO_FIRST, np.int64))
    for reader in readers:
        reader.replace_source_output(turned_back.output(0))
    decoder.validate_nodes_and_infer_types()

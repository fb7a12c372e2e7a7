"""Reads a bundle's graphs and rewrites them as OpenVINO runs them best; each rewrite has a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gstk.engines.arguments import Shape
from gstk.engines.openvino_attention import softmax_over_rows, upsample_tokens
from gstk.engines.openvino_fold import add_to_row, convolve_last_product
from gstk.engines.openvino_int8 import fuse_residual_sums, is_quantised, widen_unsigned
from gstk.engines.openvino_layout import give_channels_last, take_channels_last
from gstk.engines.openvino_norm import split_instance_norms
from gstk.engines.openvino_padding import ignore_padding
from gstk.engines.openvino_saturation import narrow_weights

__all__ = ["Saturates", "read_class_encoder", "read_model"]

Saturates = Callable[[], bool] | None
"""Whether INT8 products saturate on the processor, asked where a graph is INT8; None where another plugin than the
processor's runs the graph, which takes INT8 as it is."""


def read_model(
    core: Any, file: Path, is_decoder: bool, roi: Shape | None, multiple: int, ignores: bool, saturates: Saturates
) -> Any:
    """Reads the encoder or decoder and rewrites it for the plugin, for a single region if `roi` is given.

    Args:
        multiple: every side of a region is a multiple of this number.
        ignores: whether the decoder ignores points by itself.
        saturates: see `Saturates`.
    """
    model = core.read_model(file)
    if is_decoder:
        take_channels_last(model)
        shapes: dict[str, list[int]] = {"point_coords": [1, -1, 3], "point_labels": [1, -1]}
        if roi is not None:
            channels = model.input("embedding").partial_shape[4].get_length()
            shapes["embedding"] = [1, *(side // 2 for side in roi), channels]
        model.reshape(shapes)
        convolve_last_product(model)
        add_to_row(model)
        if not ignores:
            ignore_padding(model)
        upsample_tokens(model)
        softmax_over_rows(model)
    else:
        give_channels_last(model, by_product=roi is None and is_quantised(model))
        if roi is not None:
            model.reshape([1, 1, *roi])
    _rewrite_norms_and_int8(model, multiple, saturates, squares=is_decoder)
    return model


def read_class_encoder(core: Any, file: Path, multiple: int, saturates: Saturates, float32: bool) -> Any:
    """Reads the encoder of class prompts and rewrites it for the plugin, like `read_model`.

    Args:
        float32: whether a graph that is not INT8 computes in float32, and so gains from shorter sums in its norms.
    """
    model = core.read_model(file)
    _rewrite_norms_and_int8(model, multiple, saturates, every_norm=True, by_eights=float32)
    return model


def _rewrite_norms_and_int8(
    model: Any,
    multiple: int,
    saturates: Saturates,
    every_norm: bool = False,
    squares: bool = False,
    by_eights: bool = False,
) -> None:
    # Between INT8 convolutions the plugin moves scales through the averages of split norms, and the output becomes 0
    # everywhere. The rounding error of whole norms is far smaller.
    if is_quantised(model):
        if saturates is None:
            return
        if saturates():
            narrow_weights(model)
        widen_unsigned(model)
        fuse_residual_sums(model)
    else:
        split_instance_norms(model, multiple, every_norm, squares, by_eights)

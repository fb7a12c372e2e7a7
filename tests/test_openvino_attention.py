"""The decoder's attention and upsampling on OpenVINO, laid out anew: the same numbers, without transposes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from gstk.engines.openvino import shared_core
from gstk.engines.openvino_attention import softmax_over_rows, upsample_tokens
from gstk.engines.openvino_layout import take_channels_last
from gstk.engines.openvino_padding import ignore_padding

PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}


def decoder(small_export: Any, precision: str, folder: Any, ignored_points: bool) -> Any:
    """The small network's decoder with B fixed to 1."""
    import onnx_ir as ir

    from gstk.export.graphs import prompt_decoder_graph
    from gstk.export.half import to_fp16_graph
    from gstk.export.onnx_writer import trace_graph

    file = folder / f"{precision}{ignored_points}.onnx"
    if not file.exists():
        graph = prompt_decoder_graph(small_export.network, small_export.spec, ignored_points=ignored_points)
        traced = trace_graph(graph)
        if precision == "fp16":
            to_fp16_graph(traced)
        ir.save(traced, file)
    model = shared_core().read_model(file)
    model.reshape({"point_coords": [1, -1, 3], "point_labels": [1, -1]})
    return model


@pytest.mark.parametrize(("precision", "ignored_points"), [("fp32", True), ("fp32", False), ("fp16", True)])
def test_the_numbers_stay(
    small_export: Any, tmp_path_factory: pytest.TempPathFactory, precision: str, ignored_points: bool
) -> None:
    folder = tmp_path_factory.mktemp("graphs")
    plain, own = (decoder(small_export, precision, folder, ignored_points) for _ in range(2))
    take_channels_last(own)
    if not ignored_points:
        for model in (plain, own):
            ignore_padding(model)
    assert (upsample_tokens(own), softmax_over_rows(own)) == (1, 2)
    assert (upsample_tokens(own), softmax_over_rows(own)) == (0, 0)
    turns = [
        node
        for node in own.get_ordered_ops()
        if node.get_type_name() == "Transpose" and node.get_output_partial_shape(0).rank.get_length() == 5
    ]
    assert not turns  # a product with the identity is before the upsampling
    expected, found = (shared_core().compile_model(model, "CPU", PRECISE) for model in (plain, own))
    rng = np.random.default_rng(4)
    for shape, points in (((4, 6, 8), 1), ((8, 4, 4), 3), ((4, 6, 8), 9)):
        kind = plain.input("embedding").element_type.to_dtype()
        embedding = rng.normal(size=(1, 8, *shape)).astype(kind)
        given = [rng.integers(0, 8, (1, points, 3)).astype(np.float32), rng.integers(0, 4, (1, points))]
        wanted = expected([embedding, *given])[0]
        logits = found([np.ascontiguousarray(np.moveaxis(embedding, 1, -1)), *given])[0]
        assert np.abs(wanted).max() > 0.01
        np.testing.assert_allclose(logits, wanted, atol=1e-5 if precision == "fp32" else 2e-3)


def test_other_graphs_stay(small_export: Any) -> None:
    model = shared_core().read_model(small_export.bundle.graph("prompt_decoder"))  # B is free: rows are objects', too
    take_channels_last(model)
    assert upsample_tokens(model) == 0

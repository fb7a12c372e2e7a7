"""Decoders of an older gstk on OpenVINO: rewritten so that they ignore points, and run with few numbers of points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from gstk.engines import open_engine
from gstk.engines import openvino as module
from gstk.engines.openvino_padding import ignore_padding, ignores_padding
from gstk.engines.point_padding import IGNORED

COUNTS = (1, 2, 3, 4, 5, 7, 13, 40)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def old(request: pytest.FixtureRequest, small_export: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of a decoder of an older gstk."""
    import onnx_ir as ir

    from gstk.export.graphs import prompt_decoder_graph
    from gstk.export.half import to_fp16_graph
    from gstk.export.onnx_writer import trace_graph

    traced = trace_graph(prompt_decoder_graph(small_export.network, small_export.spec, ignored_points=False))
    if request.param == "fp16":
        to_fp16_graph(traced)
    file = tmp_path_factory.mktemp("old") / "prompt_decoder.onnx"
    ir.save(traced, file)
    return file


@pytest.fixture(scope="module")
def decoders(old: Path) -> tuple[Any, Any]:
    """The decoder as it is, and one that ignores points."""
    core, found = module.shared_core(), []
    for rewrite in (False, True):
        model = core.read_model(old)
        model.reshape({"point_coords": [1, -1, 3], "point_labels": [1, -1]})
        assert not rewrite or ignore_padding(model) == 4  # two layers: among prompts, and from image to prompts
        found.append(core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))
    assert [ignores_padding(compiled) for compiled in found] == [False, True]
    return found[0], found[1]


def test_a_hot_region_s_decoder_ignores_points(old: Path) -> None:
    core = module.shared_core()
    model = module.read_model(core, old, True, (16, 24, 32), 4, ignores=False, saturates=None)
    assert ignores_padding(core.compile_model(model, "CPU"))


@pytest.mark.parametrize("points", COUNTS)
def test_ignored_points_change_nothing(decoders: tuple[Any, Any], points: int) -> None:
    rng = np.random.default_rng(points)
    kind = decoders[0].input("embedding").element_type.to_dtype()
    width = decoders[0].input("embedding").partial_shape[1].get_length()
    embedding = rng.normal(size=(1, width, 8, 12, 16)).astype(kind)
    coords = rng.integers(0, 16, (1, points, 3)).astype(np.float32)
    labels = rng.integers(-1, 4, (1, points))
    labels[0, 0] = 1

    def decode(decoder: Any, coords: np.ndarray, labels: np.ndarray) -> np.ndarray:
        given = {"embedding": embedding, "point_coords": coords, "point_labels": labels}
        return decoder(given)[0].astype(np.float32)

    expected = decode(decoders[0], coords, labels)
    padded = np.pad(coords, ((0, 0), (2, 9), (0, 0))), np.pad(labels, ((0, 0), (2, 9)), constant_values=IGNORED)
    tolerance = (1e-5 if kind == np.float32 else 2e-3) * np.abs(expected).max()
    np.testing.assert_allclose(decode(decoders[1], *padded), expected, atol=tolerance)
    np.testing.assert_allclose(decode(decoders[1], coords, labels), expected, atol=tolerance)
    # And not because points count for nothing: the padding that attention sees changes the answer.
    seen = decode(decoders[1], padded[0], np.where(padded[1] == IGNORED, -1, padded[1]))
    assert np.abs(seen - expected).max() > 3 * tolerance


def test_a_graph_of_another_make_is_left_as_it_is() -> None:
    import openvino
    from openvino import opset13 as ops

    embedding = ops.parameter([1, 4, -1, -1, -1], np.float32, name="embedding")
    coords = ops.parameter([1, -1, 3], np.float32, name="point_coords")
    labels = ops.parameter([1, -1], np.int64, name="point_labels")
    for node in (embedding, coords, labels):
        node.output(0).set_names({node.get_friendly_name()})
    total = ops.add(ops.reduce_sum(coords, np.array([1, 2])), ops.reduce_sum(ops.convert(labels, np.float32), 1))
    model = openvino.Model([ops.add(embedding, ops.reduce_sum(total, 0))], [embedding, coords, labels], "other")
    assert ignore_padding(model) == 0
    assert not ignores_padding(module.shared_core().compile_model(model, "CPU"))


def test_the_engine_runs_few_numbers_of_points(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    with open_engine("tiny", "openvino") as engine:
        run = engine._run  # type: ignore[attr-defined]

        def record(graphs: Any, index: int, inputs: dict[str, Any], output: Any) -> None:
            if index == 1:
                seen.append(inputs["point_coords"].shape[1])
            run(graphs, index, inputs, output)

        monkeypatch.setattr(engine, "_run", record)
        embedding = engine.encode(np.zeros((1, 1, 16, 16, 16)))
        for points in COUNTS:
            engine.decode(embedding, np.zeros((1, points, 3)), np.ones((1, points)))
    assert seen == [4, 4, 4, 4, 6, 8, 16, 48]

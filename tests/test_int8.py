"""INT8: what is quantised, that engines agree on it, and that it is given up where it costs masks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("nncf")
onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")

from gstk.cases.npz import save_case  # noqa: E402
from gstk.cases.phantom_case import phantom_case  # noqa: E402
from gstk.core.manifest import RoiRules  # noqa: E402
from gstk.engines import available, open_engine  # noqa: E402
from gstk.engines.base import Sample  # noqa: E402
from gstk.errors import ExportError  # noqa: E402
from gstk.evaluation.click_trial import ClickTrial  # noqa: E402
from gstk.export import export as export_module  # noqa: E402
from gstk.export.check import check_graph  # noqa: E402
from gstk.export.export import Options, export_bundle  # noqa: E402
from gstk.export.int8 import Int8Report, _run, quantise, restore_until  # noqa: E402
from gstk.export.parity import ParityCase  # noqa: E402

pytestmark = pytest.mark.slow

INSTALLED = [backend.name for backend in available() if backend.version and backend.name != "torch"]
IMAGES = [ParityCase((32, 32, 32), 1, 1, seed).inputs()[0] for seed in range(3)]


@pytest.fixture(scope="module")
def models(small_export: Any) -> tuple[Any, Any]:
    """The float32 encoder and its INT8 form."""
    model = small_export.traced("encoder")
    return model, quantise(model, IMAGES)


def relative_error(found: Any, expected: Any) -> float:
    return float(np.sqrt(np.square(found - expected).mean()) / expected.std())


def test_scales_are_symmetric_and_signed(models: tuple[Any, Any]) -> None:
    proto = ir.to_proto(models[1])
    onnx.checker.check_model(proto, full_check=True)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    kinds = [node.op_type for node in proto.graph.node]
    convolutions = kinds.count("Conv") + kinds.count("ConvTranspose")
    assert kinds.count("QuantizeLinear") >= convolutions
    assert kinds.count("DequantizeLinear") == kinds.count("QuantizeLinear") + convolutions
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
            assert (constants[node.input[1]] > 0).all()
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            assert constants[node.input[0]].dtype == np.int8
            assert constants[node.input[1]].size in constants[node.input[0]].shape[:2]  # a scale a channel


def test_the_embedding_stays_close(models: tuple[Any, Any]) -> None:
    image = ParityCase((32, 24, 40), 1, 1, 77).inputs()[0]
    error = relative_error(_run(models[1], image), _run(models[0], image))
    assert 0.001 < error < 0.1


def test_no_images_no_scales(models: tuple[Any, Any]) -> None:
    with pytest.raises(ExportError, match="no regions"):
        quantise(models[0], [])


def test_what_harms_most_is_given_back_first(models: tuple[Any, Any]) -> None:
    model, quantised = models
    broken = quantised.clone()
    victim = [node for node in broken.graph if node.op_type == "QuantizeLinear"][5]
    for node in (victim, victim.outputs[0].uses()[0].node):
        coarse = np.float32(60) * node.inputs[1].const_value.numpy()
        value = ir.Value(name=f"{node.name}.coarse", const_value=ir.tensor(coarse, name=f"{node.name}.coarse"))
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(coarse.shape)
        broken.graph.register_initializer(value)
        node.replace_input_with(1, value)
    expected = _run(model, IMAGES[0])
    assert relative_error(_run(broken, IMAGES[0]), expected) > 0.2

    def accepts(candidate: Any) -> bool:
        return relative_error(_run(candidate, IMAGES[0]), expected) < 0.1

    said: list[str] = []
    found = restore_until(broken, model, IMAGES, accepts, said.append)
    assert found is not None
    assert found[1] == (victim.name,)
    kinds = [node.op_type for node in found[0].graph]
    assert kinds.count("QuantizeLinear") == sum(n.op_type == "QuantizeLinear" for n in broken.graph) - 1
    assert any("trying with 1 of" in words for words in said)


def test_hopeless_cases_end(models: tuple[Any, Any]) -> None:
    tried: list[int] = []

    def never(candidate: Any) -> bool:
        tried.append(sum(node.op_type == "QuantizeLinear" for node in candidate.graph))
        return False

    assert restore_until(models[1], models[0], IMAGES[:1], never, lambda _: None) is None
    total = sum(node.op_type == "QuantizeLinear" for node in models[1].graph)
    counts = [total - n for n in tried]
    assert counts == [2**k for k in range(len(counts))]
    assert counts[-1] <= total // 2 < 2 * counts[-1]


def test_drop_is_a_difference_of_means() -> None:
    report = Int8Report({"a": [0.5, 0.7], "b": [0.2, 0.2]}, {"a": [0.5, 0.8], "b": [0.2, 0.4]}, ("x",), 9, 4)
    assert report.drop == pytest.approx((0.05 + 0.1) / 2)
    assert report.to_json()["dice_drop"] == report.drop


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("cases")
    for seed in range(2):
        save_case(folder / f"p{seed}.npz", phantom_case(seed, 32, "blobs", 1))
    return sorted(folder.iterdir())


@pytest.fixture
def quick(small_export: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """An export that takes the small export's traces in place of tracing again."""
    monkeypatch.setattr(export_module, "default_cases", lambda _: (ParityCase((8, 8, 8), 1, 1),) * 2)
    monkeypatch.setattr(export_module, "trace_graph", lambda graph: small_export.traced(graph.kind))

    def run(output: Path, quality_gate: Any) -> Any:
        return export_bundle(
            small_export.checkpoint,
            output,
            default_roi=(32, 32, 32),
            options=Options(int8=True),
            quality_gate=quality_gate,
        )

    return run


def test_export_scores_clicks_and_records_them(
    quick: Callable[..., Any], cases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "MOST_DROP", 1.0)
    bundle = quick(tmp_path / "b", ClickTrial(cases, rounds=2))
    graphs = bundle.manifest.graphs
    assert graphs["encoder"] == {"fp32": "encoder.onnx", "int8": "encoder.int8.onnx"}
    assert graphs["prompt_decoder"] == {"fp32": "prompt_decoder.onnx", "int8": "prompt_decoder.onnx"}
    report = bundle.manifest.reports["int8"]
    for scores in (report["dice_float"], report["dice_int8"]):
        assert {name: len(values) for name, values in scores.items()} == {"p0": 2, "p1": 2}
    means = [np.mean([np.mean(v) for v in report[key].values()]) for key in ("dice_float", "dice_int8")]
    assert report["dice_drop"] == pytest.approx(means[0] - means[1])
    assert report["restored"] == []
    assert all(finding.ok for finding in check_graph(bundle, "encoder", "int8"))
    assert bundle.graph("encoder", "int8").stat().st_size < 0.5 * bundle.graph("encoder").stat().st_size
    image, coords, labels = ParityCase((32, 32, 32), 1, 3, 5).inputs()
    logits = {}
    for name in INSTALLED:
        for precision in ("fp32", "int8"):
            with open_engine(bundle, name, precision) as engine:
                logits[name, precision] = engine.decode(engine.encode(image), coords, labels)
    spread = logits[INSTALLED[0], "fp32"].std()
    for name in INSTALLED:
        assert 0 < np.abs(logits[name, "int8"] - logits[name, "fp32"]).mean() < 0.3 * spread
        assert np.abs(logits[name, "int8"] - logits[INSTALLED[0], "int8"]).mean() < 0.1 * spread


def test_export_that_costs_masks_leaves_nothing(
    quick: Callable[..., Any], cases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "MOST_DROP", -2.0)
    monkeypatch.setattr(export_module, "restore_until", lambda *_: None)
    with pytest.raises(ExportError, match=r"INT8 costs .* of Dice, expected at most -2.0"):
        quick(tmp_path / "b", ClickTrial(cases, rounds=1))
    assert list(tmp_path.iterdir()) == []


def test_int8_without_cases_is_refused_at_once(small_export: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="INT8 without labelled cases"):
        export_bundle(small_export.checkpoint, tmp_path / "b", options=Options(int8=True))


def test_trial_keeps_what_the_engine_saw(small_export: Any, cases: list[Path]) -> None:
    said: list[str] = []
    trial = ClickTrial(cases, rounds=2, on_progress=said.append)
    roi: RoiRules = small_export.bundle.manifest.roi
    with open_engine(small_export.bundle) as engine:
        scores, samples = trial.scores_and_samples(engine, roi)
        assert scores == trial.scores(engine, roi)
        assert samples
        for sample in samples:
            assert isinstance(sample, Sample)
            assert np.isfinite(engine.decode(engine.encode(sample.image), sample.coords, sample.labels)).all()
    assert set(scores) == set(trial.names) == {"p0", "p1"}
    assert all(0 <= value <= 1 for values in scores.values() for value in values)
    assert "case 1/2, p0" in said[0]


def test_nncf_reports_no_use() -> None:
    """In a process of its own: under pytest NNCF is silent by itself."""
    code = (
        "from gstk.errors import ExportError\n"
        "from gstk.export.int8 import quantise\n"
        "try: quantise(None, [])\n"
        "except ExportError: pass\n"
        "from nncf.telemetry import wrapper\n"
        "assert not isinstance(wrapper.telemetry, wrapper.NNCFTelemetry)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NNCF", "PYTEST"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

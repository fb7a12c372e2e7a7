"""Export: graphs that every backend can run, that say nothing of this machine, and that agree with torch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")

from typer.testing import CliRunner  # noqa: E402

from gstk.cli import app  # noqa: E402
from gstk.core.bundle import Bundle, write_bundle  # noqa: E402
from gstk.core.profile import find_profile  # noqa: E402
from gstk.engines import available, open_engine  # noqa: E402
from gstk.errors import BundleError, CheckpointError, ExportError, GstkError  # noqa: E402
from gstk.export import export as export_module  # noqa: E402
from gstk.export import onnx_writer, parity, tolerances  # noqa: E402
from gstk.export.export import Options, expected_steps, export_bundle  # noqa: E402
from gstk.export.graphs import CLEAN_OPS  # noqa: E402
from gstk.export.parity import ParityCase, default_cases, measure_parity, reference_logits  # noqa: E402
from gstk.training.checkpoint import save_checkpoint  # noqa: E402
from gstk.training.spec import SPECIAL_CLASSES, VISTA3DSpec  # noqa: E402

INSTALLED = [backend.name for backend in available() if backend.version and backend.name != "torch"]


@pytest.fixture(params=["encoder", "prompt_decoder"])
def graph(request: pytest.FixtureRequest, small_export: Any) -> Any:
    return onnx.load(small_export.bundle.graph(request.param))


def axes(values: Any) -> dict[str, tuple[Any, ...]]:
    return {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


def test_graph_is_valid_and_clean(graph: Any) -> None:
    onnx.checker.check_model(graph, full_check=True)
    found = {node.op_type for node in graph.graph.node}
    assert found <= CLEAN_OPS
    assert not found & {"Loop", "If", "Scan", "NonZero", "ScatterND", "Where", "GatherND"}
    assert {node.domain for node in graph.graph.node} == {""}
    assert not graph.functions
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 20)]


def test_graph_says_nothing_of_this_machine(graph: Any, small_export: Any) -> None:
    assert graph.producer_name == "gstk"
    assert not graph.metadata_props
    assert not graph.doc_string
    for item in (graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        assert not item.metadata_props
        assert not item.doc_string
    for file in small_export.bundle.path.iterdir():
        content = file.read_bytes()
        for trace in (b".py", b"site-packages", os.fsencode(Path(__file__).parents[1])):
            assert trace not in content


def test_tensors_have_the_designs_names_and_axes(small_export: Any) -> None:
    encoder = onnx.load(small_export.bundle.graph("encoder")).graph
    assert axes(encoder.input) == {"image": (1, 1, "H", "W", "D")}
    assert axes(encoder.output) == {"embedding": (1, 8, "H/2", "W/2", "D/2")}
    decoder = onnx.load(small_export.bundle.graph("prompt_decoder")).graph
    assert axes(decoder.input) == {
        "embedding": (1, 8, "H/2", "W/2", "D/2"),
        "point_coords": ("B", "N", 3),
        "point_labels": ("B", "N"),
    }
    assert axes(decoder.output) == {"logits": ("B", 1, "H", "W", "D")}
    types = [value.type.tensor_type.elem_type for value in decoder.input]
    assert types == [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64]


def test_half_weights_are_the_same_bits(small_export: Any) -> None:
    state = small_export.network.state_dict()
    halves = 0
    for kind in ("encoder", "prompt_decoder"):
        for initializer in onnx.load(small_export.bundle.graph(kind)).graph.initializer:
            name = initializer.name.removesuffix(".half")
            name = name if name in state else f"point_head.{name}"
            if initializer.data_type == onnx.TensorProto.FLOAT16:
                halves += 1
                if name in state:
                    np.testing.assert_array_equal(onnx.numpy_helper.to_array(initializer), state[name].half().numpy())
            else:
                assert np.prod(initializer.dims) < 64 or initializer.data_type == onnx.TensorProto.INT64
    assert halves > 30
    parameters = sum(
        value.numel()
        for name, value in state.items()
        if not name.startswith(("class_head", "image_encoder.up_layers_a"))
    )
    graphs = sum(small_export.bundle.graph(kind).stat().st_size for kind in ("encoder", "prompt_decoder"))
    assert graphs < 2 * parameters + 120_000


def test_manifest_states_what_was_exported(small_export: Any) -> None:
    manifest = Bundle.open(small_export.bundle.path).manifest
    assert manifest == small_export.bundle.manifest
    assert (manifest.name, manifest.licence) == ("small", "CC0-1.0")
    assert VISTA3DSpec.from_dict(manifest.architecture) == small_export.spec
    assert (manifest.roi.multiple, manifest.roi.minimum, manifest.roi.default) == (4, 8, (32, 32, 32))
    assert (manifest.profile.name, manifest.profile.patch) == ("tiny", (32, 32, 32))
    assert manifest.profile.classes.special == SPECIAL_CLASSES
    assert manifest.training == {"recipe": "none", "seed": 7}
    found = manifest.parity["precisions"]["fp32"]
    assert set(found["engines"]) == set(INSTALLED)
    assert found["tolerance"] == tolerances.TOLERANCES["fp32"].error(manifest.parity["max_abs_logit"])
    for result in found["engines"].values():
        assert 0 < result["max_abs_error"] <= 1e-4
        assert result["mask_agreement"] >= 0.9999
        assert len(result["cases"]) == len(manifest.parity["cases"]) == 4


def test_an_export_tells_of_as_many_steps_as_were_expected(small_export: Any) -> None:
    steps = (small_export.checkpoint.parent / "steps.txt").read_text(encoding="utf-8").splitlines()
    assert len(steps) == expected_steps(Options(half_weights=True))
    plain, all_of_it = expected_steps(Options()), expected_steps(Options(fp16=True, int8=True), 3)
    assert all_of_it == plain + 4 * len(INSTALLED) + 2 + 2 * (1 + 3)


def test_minimum_region_is_where_torch_is_still_defined(small_export: Any) -> None:
    points = {"point_coords": torch.ones(1, 1, 3), "point_labels": torch.ones(1, 1, dtype=torch.int64)}
    minimum = small_export.bundle.manifest.roi.minimum
    with torch.no_grad():
        assert small_export.network(torch.rand(1, 1, *[minimum] * 3), **points).isfinite().all()
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            small_export.network(torch.rand(1, 1, *[minimum // 2] * 3), **points)


def test_weights_too_large_for_one_file_go_beside_it(
    tmp_path: Path, small_export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_writer, "SINGLE_FILE_BYTES", 1000)
    model = small_export.traced("encoder")
    files = onnx_writer.save_graph(model, tmp_path / "encoder.onnx")
    assert [file.name for file in files] == ["encoder.onnx", "encoder.onnx.data"]
    assert files[0].stat().st_size < files[1].stat().st_size
    sources = {file.name: file for file in (*files, small_export.bundle.graph("prompt_decoder"))}
    manifest = replace(small_export.bundle.manifest, files={}, vectors="")
    bundle = write_bundle(tmp_path / "bundle", manifest, sources)
    assert len(bundle.manifest.files) == 3
    cases = [ParityCase((16, 8, 12), 2, 3)]
    assert not measure_parity(bundle, cases, reference_logits(small_export.network, cases)).faults
    (bundle.path / "encoder.onnx.data").write_bytes(b"altered")
    with pytest.raises(BundleError, match=r"encoder.onnx.data has"):
        Bundle.open(bundle.path)


def test_parity_finds_what_differs(small_export: Any) -> None:
    network = small_export.network
    weight = network.point_head.mask_tokens.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += 0.1
        cases = [ParityCase((8, 8, 16), 1, 1)]
        result = measure_parity(small_export.bundle, cases, reference_logits(network, cases))
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert len(result.faults) == len(INSTALLED)
    assert "logits differ by up to" in result.faults[0]


def test_parity_cases_cover_the_traps() -> None:
    for multiple in (2, 4, 16, 32):
        cases = default_cases(multiple)
        assert all(side % multiple == 0 for case in cases for side in case.roi)
        assert min(min(case.roi) for case in cases) == 2 * multiple
        assert max(max(case.roi) for case in cases) >= 96
        assert {case.objects for case in cases} == {1, 3, 8}
        assert {case.points for case in cases} == {1, 7}
        assert any(len(set(case.roi)) == 3 for case in cases)
        labels = np.concatenate([case.inputs()[2].ravel() for case in cases])
        assert set(labels.tolist()) == {-1, 0, 1, 2, 3, 4, 5}


def test_disagreement_leaves_nothing(tmp_path: Path, small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parity.TOLERANCES, "fp32", tolerances.Tolerance(1e-12, 1e-12, 0.5))
    monkeypatch.setattr(export_module, "default_cases", lambda _: (ParityCase((8, 8, 8), 1, 1),) * 2)
    monkeypatch.setattr(export_module, "trace_graph", _read_instead_of_tracing(small_export))
    with pytest.raises(ExportError, match="do not agree with torch"):
        export_bundle(small_export.checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def _read_instead_of_tracing(small_export: Any) -> Any:
    return lambda graph: onnx_ir.load(small_export.bundle.graph(graph.kind))


def test_refusals_come_before_the_work(tmp_path: Path, small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("traced")

    monkeypatch.setattr(export_module, "trace_graph", never)
    with pytest.raises(BundleError, match="exists"):
        export_bundle(small_export.checkpoint, small_export.bundle.path)
    with pytest.raises(ExportError, match="expected three multiples of 4 of at least 8"):
        export_bundle(small_export.checkpoint, tmp_path / "b", default_roi=(30, 32, 32))
    with pytest.raises(CheckpointError):
        export_bundle(tmp_path / "none.pt", tmp_path / "b")
    save_checkpoint(tmp_path / "full.pt", _nudged(small_export), small_export.spec)
    with pytest.raises(ExportError, match="weights that float16 does not hold exactly"):
        export_bundle(tmp_path / "full.pt", tmp_path / "b", options=Options(half_weights=True))
    assert [p.name for p in tmp_path.iterdir()] == ["full.pt"]


def test_weights_of_full_size_need_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "load_checkpoint", lambda _: (VISTA3DSpec(), {}))
    monkeypatch.setattr(export_module, "load_extra", lambda _: {})
    with pytest.raises(ExportError, match=r"without an input profile.*challenge \(.*nv-segment-ct \(.*tiny \("):
        export_bundle(tmp_path / "model.pt", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def _nudged(small_export: Any) -> Any:
    import copy

    network = copy.deepcopy(small_export.network)
    with torch.no_grad():
        network.point_head.mask_tokens.weight += 1e-6
    return network


def test_operator_that_is_not_clean_is_refused(small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx_ir.load(small_export.bundle.graph("encoder"))
    onnx_writer._check_operators(model, "encoder")
    monkeypatch.setattr(onnx_writer, "CLEAN_OPS", CLEAN_OPS - {"Gelu"})
    with pytest.raises(ExportError, match="wrote Gelu into the encoder"):
        onnx_writer._check_operators(model, "encoder")


def test_command_exports(tmp_path: Path, small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def fake(checkpoint: Path, output: Path, **options: Any) -> Bundle:
        given.update(options, checkpoint=checkpoint, output=output)
        options["on_progress"]("tracing")
        bundle: Bundle = small_export.bundle
        return bundle

    monkeypatch.setattr(export_module, "export_bundle", fake)
    arguments = [
        "export",
        "w.pt",
        "-o",
        "b",
        "--name",
        "n",
        "--licence",
        "MIT",
        "--profile",
        "challenge",
        "--roi",
        "32,48,64",
        "--half-weights",
        "--refine",
    ]
    result = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert result.exit_code == 0, result.output
    assert given.pop("on_progress")
    assert given == {
        "checkpoint": Path("w.pt"),
        "output": Path("b"),
        "name": "n",
        "licence": "MIT",
        "profile": find_profile("challenge"),
        "default_roi": [32, 48, 64],
        "options": Options(half_weights=True, refine=True),
        "quality_gate": None,
        "overwrite": True,
    }
    assert f"{small_export.bundle.path}: small" in result.output.replace("\n", "")
    assert all(name in result.output for name in INSTALLED)
    assert CliRunner().invoke(app, ["export", "w.pt", "-o", "b", "--roi", "32,48"]).exit_code == 2


def test_command_passes_errors_on(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(tmp_path / "none.pt"), "-o", str(tmp_path / "b")])
    assert isinstance(result.exception, GstkError)


def test_command_without_torch_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import gstk.cli; sys.argv = ['gstk', 'export', 'a.pt', '-o', 'b']; "
    )
    result = subprocess.run(
        [sys.executable, "-c", code + "gstk.cli.main()"], capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 1
    assert result.stderr.strip() == 'error: this needs torch, which is not installed; pip install "gstk[export]"'


def test_exported_bundle_runs_without_torch(small_export: Any) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; from gstk.engines import open_engine; "
        "e = open_engine(sys.argv[1]); m = e.encode(np.zeros((1, 1, 8, 8, 8), np.float32)); "
        "print(e.decode(m, np.ones((1, 1, 3)), np.ones((1, 1), int)).shape)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, small_export.bundle.path], capture_output=True, text=True, encoding="utf-8"
    )
    assert result.stdout.strip() == "(1, 1, 8, 8, 8)", result.stderr


@pytest.mark.parametrize("name", INSTALLED)
def test_empty_image_gives_finite_logits(small_export: Any, name: str) -> None:
    """Air has no variance: the norms divide by their epsilon alone."""
    with open_engine(small_export.bundle, name) as engine:
        embedding = engine.encode(np.zeros((1, 1, 16, 16, 16), np.float32))
        assert np.isfinite(engine.decode(embedding, np.ones((1, 1, 3)), np.ones((1, 1), int))).all()

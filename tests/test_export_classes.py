"""Class prompts in a bundle: the automatic branch in every precision and engine, beside MONAI's own network."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from gstk.core.bundle import Bundle  # noqa: E402
from gstk.core.class_vectors import load_class_vectors  # noqa: E402
from gstk.engines import available, open_engine  # noqa: E402
from gstk.errors import BundleError, EngineError, ExportError  # noqa: E402
from gstk.export import classes as classes_module  # noqa: E402
from gstk.export import export as export_module  # noqa: E402
from gstk.export.check import check_graph  # noqa: E402
from gstk.export.classes import classes_to_compare  # noqa: E402
from gstk.export.export import Options  # noqa: E402
from gstk.export.onnx_writer import trace_graph  # noqa: E402
from gstk.export.tolerances import Tolerance  # noqa: E402

INSTALLED = [backend.name for backend in available() if backend.version]


@pytest.mark.parametrize("name", INSTALLED)
def test_class_logits_are_torchs(by_class: Bundle, small_export: Any, name: str) -> None:
    image = np.random.default_rng(3).random((1, 1, 16, 24, 32)).astype(np.float32)
    ids = [1, 3, 57, 128]
    with torch.no_grad():
        expected = small_export.network(torch.from_numpy(image), class_vector=torch.tensor(ids)[:, None])[:, 0].numpy()
    vectors = load_class_vectors(by_class.path / by_class.manifest.class_vectors)[ids]
    with open_engine(by_class, name) as engine:
        features = engine.class_features(image)
        again = engine.class_features(image[..., :16])
    assert again.shape[1:] == (16, 24, 16)
    logits = np.einsum("kc,chwd->khwd", vectors, features)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_bundle_says_what_it_holds(by_class: Bundle) -> None:
    manifest = Bundle.open(by_class.path).manifest
    assert manifest == by_class.manifest
    assert set(manifest.graphs["class_encoder"]) == {"fp32", "fp16"}
    assert manifest.class_vectors in manifest.files
    assert set(manifest.parity["classes"]) == {"fp32", "fp16"}
    for found in manifest.parity["classes"].values():
        for result in found["engines"].values():
            assert result["max_abs_error"] <= found["tolerance"]
    assert all(finding.ok for finding in check_graph(by_class, "class_encoder", "fp32"))
    assert all(finding.ok for finding in check_graph(by_class, "class_encoder", "fp16"))


def test_classes_to_compare_are_spread() -> None:
    assert classes_to_compare([7]) == (7,)
    assert classes_to_compare(range(160)) == tuple(range(0, 160, 10))


def test_bundle_without_classes_says_so(small_export: Any) -> None:
    with open_engine(small_export.bundle) as engine, pytest.raises(EngineError, match="which has no graph for classes"):
        engine.class_features(np.zeros((1, 1, 8, 8, 8), np.float32))


def test_graph_that_differs_is_refused(by_class: Bundle, small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = classes_module.class_cases(4)
    references = classes_module.class_references(small_export.network, cases, [1, 3])
    measure = classes_module.measure_class_parity
    assert measure(by_class, cases, references, [1, 3], "fp32")["engines"]
    with pytest.raises(ExportError, match="the graph for classes does not agree with torch"):
        measure(by_class, cases, references, [1, 4], "fp32")
    monkeypatch.setitem(classes_module.TOLERANCES, "fp32", Tolerance(1e-12, 1e-12, 0.5))
    with pytest.raises(ExportError, match="nothing was written"):
        measure(by_class, cases, references, [1, 3], "fp32")


def of_a_later_zip() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, vectors=np.zeros((2, 3), np.float32))
    content = bytearray(stream.getvalue())
    content[content.index(b"PK\x01\x02") + 6] = 0xFF  # the version of zip that it takes to read the entry
    return bytes(content)


@pytest.mark.parametrize("content", [b"", b"PK", of_a_later_zip(), None])
def test_damaged_class_vectors_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "class_vectors.npz"
    if content is None:
        np.savez(file, vectors=np.zeros((2, 3), np.int64))
    else:
        file.write_bytes(content)
    with pytest.raises(BundleError, match="export the bundle again"):
        load_class_vectors(file)


def test_quantised_classes_are_kept_only_where_they_agree(
    by_class: Bundle, small_export: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    model = trace_graph(export_module.class_encoder_graph(small_export.network, small_export.spec))
    images = list(np.random.default_rng(9).random((2, 1, 1, 32, 32, 32)).astype(np.float32))
    vectors = load_class_vectors(by_class.path / by_class.manifest.class_vectors)[[1, 3, 57]]
    graphs = {**by_class.manifest.graphs, "encoder": {"fp32": "encoder.onnx", "int8": "encoder.onnx"}}
    graphs["prompt_decoder"] = {"fp32": "prompt_decoder.onnx", "int8": "prompt_decoder.onnx"}
    sources = {name: by_class.path / name for name in by_class.manifest.files if "fp16" not in name}
    manifest = replace(by_class.manifest, graphs=graphs | {"class_encoder": {"fp32": "class_encoder.onnx"}})
    for least, kept in ((0.0, True), (1.1, False)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        export = export_module._Export(
            small_export.network, small_export.spec, manifest, folder, Options(), None, lambda _: None, dict(sources)
        )
        monkeypatch.setattr(export_module, "LEAST_INT8_AGREEMENT", least)
        export._quantise_classes(model, images, vectors)
        report = export.manifest.reports["int8_classes"]
        assert report["kept"] == kept
        assert report["agreement"] > 0.8
        name = "class_encoder.int8.onnx" if kept else "class_encoder.onnx"
        assert export.manifest.graphs["class_encoder"]["int8"] == name

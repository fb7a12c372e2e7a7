"""`gstk check` and `gstk inspect`: each check holds for a good bundle and fails for the fault that it is there for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Run

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from gstk.core.bundle import Bundle, write_bundle  # noqa: E402
from gstk.errors import BundleError  # noqa: E402
from gstk.export.check import Finding, check_bundle  # noqa: E402
from gstk.export.vectors import load_vectors  # noqa: E402


@pytest.fixture
def rebuilt(tmp_path: Path, small_export: Any) -> Callable[..., Path]:
    """A copy of the small bundle with one graph changed, and a manifest that vouches for it."""

    def build(change: Callable[[Any], None], kind: str = "encoder", **manifest: Any) -> Path:
        bundle: Bundle = small_export.bundle
        sources = {name: bundle.path / name for name in bundle.manifest.files}
        model = onnx.load(bundle.graph(kind))
        change(model)
        sources[f"{kind}.onnx"] = tmp_path / "changed.onnx"
        onnx.save(model, sources[f"{kind}.onnx"])
        values = bundle.manifest.to_json() | manifest
        return write_bundle(tmp_path / "b", type(bundle.manifest).from_json(values), sources).path

    return build


def failures(path: Path, parity: bool = False) -> list[Finding]:
    return [finding for finding in check_bundle(path, parity) if not finding.ok]


def test_a_good_bundle_passes_every_check(small_export: Any) -> None:
    findings = list(check_bundle(small_export.bundle.path, parity=True))
    assert not [finding for finding in findings if not finding.ok]
    whats = [finding.what for finding in findings]
    for graph in ("encoder.onnx", "prompt_decoder.onnx"):
        for check in ("valid ONNX", "opset", "operators", "axes", "types", "ranks", "tensor sizes"):
            assert f"{graph}: {check}" in whats
    assert sum(what.startswith("parity: ") for what in whats) >= 1


def test_altered_files_fail(small_export: Any, tmp_path: Path) -> None:
    shutil.copytree(small_export.bundle.path, tmp_path / "b")
    file = tmp_path / "b" / "encoder.onnx"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    (finding,) = check_bundle(tmp_path / "b")
    assert not finding.ok
    assert "SHA-256" in finding.detail


def test_a_missing_licence_fails(rebuilt: Callable[..., Path]) -> None:
    (finding,) = failures(rebuilt(lambda _: None, licence="unknown"))
    assert finding.what == "licence"


def test_an_opset_out_of_range_fails(rebuilt: Callable[..., Path]) -> None:
    def change(model: Any) -> None:
        model.opset_import[0].version = 26

    assert any(f.what == "encoder.onnx: opset" and "26" in f.detail for f in failures(rebuilt(change)))


def test_an_operator_that_tensorrt_does_not_know_fails(rebuilt: Callable[..., Path]) -> None:
    def change(model: Any) -> None:
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        relu.op_type = "Celu"

    assert [f.what for f in failures(rebuilt(change))] == ["encoder.onnx: operators"]


def test_a_fixed_axis_fails(rebuilt: Callable[..., Path]) -> None:
    def change(model: Any) -> None:
        axis = model.graph.input[0].type.tensor_type.shape.dim[2]
        axis.dim_value = 64

    found = failures(rebuilt(change))
    assert found[0].what == "encoder.onnx: axes"
    assert "image [1,1,64,W,D], expected image [1,1,H,W,D]" in found[0].detail


def test_mixed_types_fail(rebuilt: Callable[..., Path]) -> None:
    """A float16 bias beside a float32 kernel: TensorRT refuses it, and so does the type inference."""

    def change(model: Any) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Add")
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float16), "odd"))
        node.input[1] = "odd"

    found = failures(rebuilt(change))
    assert any(f.what in ("encoder.onnx: types", "encoder.onnx: types and shapes") for f in found)


def test_half_convolutions_where_float_is_promised_fail(rebuilt: Callable[..., Path]) -> None:
    """The fault that gives a silently slow, or silently imprecise, engine."""

    def change(model: Any) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        half = onnx.TensorProto.FLOAT16
        index = list(model.graph.node).index(node)
        casts = []
        for position, name in enumerate(node.input):
            casts.append(onnx.helper.make_node("Cast", [name], [f"{name}.h"], to=half))
            node.input[position] = f"{name}.h"
        output = node.output[0]
        node.output[0] = f"{output}.h"
        back = onnx.helper.make_node("Cast", [f"{output}.h"], [output], to=onnx.TensorProto.FLOAT)
        for cast in casts:
            model.graph.node.insert(index, cast)
        model.graph.node.insert(index + len(casts) + 1, back)

    (finding,) = failures(rebuilt(change))
    assert finding.what == "encoder.onnx: types"
    assert "convolutions compute in float16 and float32, expected float32 for fp32" in finding.detail


def test_tensors_of_two_to_the_31_elements_fail(rebuilt: Callable[..., Path], small_export: Any) -> None:
    roi = small_export.bundle.manifest.to_json()["roi"] | {"max_voxels": 2**31 - 1}
    found = failures(rebuilt(lambda _: None, roi=roi))
    assert {f.what for f in found} == {"encoder.onnx: tensor sizes", "prompt_decoder.onnx: tensor sizes"}
    assert all("expected less than 1" in f.detail for f in found)


def test_largest_tensor_is_what_the_decoder_needs(small_export: Any) -> None:
    """27 maps of the largest cube for a width of 8: computed by hand."""
    roi = small_export.bundle.manifest.roi
    side = int(roi.max_voxels ** (1 / 3)) // roi.multiple * roi.multiple
    (finding,) = [f for f in check_bundle(small_export.bundle.path) if f.what == "prompt_decoder.onnx: tensor sizes"]
    assert f"has {27 * side**3 / 2**31:.2f} · 2³¹ elements" in finding.detail
    assert f"{side}×{side}×{side}" in finding.detail


def test_other_weights_fail_parity(rebuilt: Callable[..., Path]) -> None:
    def change(model: Any) -> None:
        name = "hyper.layers.2.bias"
        bias = next(i for i in model.graph.initializer if i.name.startswith(name))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.3), bias.name))

    path = rebuilt(change, "prompt_decoder")
    assert failures(path) == []
    found = failures(path, parity=True)
    assert found
    assert all(f.what.startswith("parity: ") for f in found)


def test_parity_covers_the_graph_for_classes(by_class: Bundle, tmp_path: Path) -> None:
    findings = list(check_bundle(by_class.path, parity=True))
    of_classes = [f for f in findings if f.what.startswith("parity of classes: ")]
    assert {f.what.rsplit(" ", 1)[1] for f in of_classes} == {"fp32", "fp16"}
    assert all(f.ok for f in of_classes), of_classes

    def rebuilt(name: str, change: Callable[[Path], None]) -> Path:
        sources = {name: by_class.path / name for name in by_class.manifest.files}
        sources[name] = tmp_path / name
        shutil.copy(by_class.path / name, tmp_path / name)
        change(tmp_path / name)
        return write_bundle(tmp_path / "b", by_class.manifest, sources, overwrite=True).path

    def other_classes(file: Path) -> None:
        with np.load(file) as arrays:
            values = {name: np.roll(arrays[name], 1, axis=0) for name in arrays.files}
        np.savez_compressed(file, **values)

    found = [f.what for f in failures(rebuilt("class_vectors.npz", other_classes), parity=True)]
    assert [what for what in found if what.startswith("parity of classes: ")]
    assert all(what == "licence" or what.startswith("parity of classes: ") for what in found)

    def of_an_older_export(file: Path) -> None:
        with np.load(file) as arrays:
            values = {name: arrays[name] for name in arrays.files if not name.startswith("class_")}
        np.savez_compressed(file, **values)

    _, finding = failures(rebuilt("vectors.npz", of_an_older_export), parity=True)
    assert finding.what == "parity of classes"
    assert "export the bundle again" in finding.detail


def test_class_vectors_are_images_and_logits(by_class: Bundle, small_export: Any) -> None:
    import torch

    _, vectors = load_vectors(by_class.path / by_class.manifest.vectors)
    assert len(vectors) == 2
    for vector in vectors:
        with torch.no_grad():
            ids = torch.from_numpy(vector.ids)[:, None]
            logits = small_export.network(torch.from_numpy(vector.image), class_vector=ids).numpy()
        np.testing.assert_array_equal(logits.reshape(len(ids), -1)[:, vector.voxels], vector.logits)


def test_vectors_are_inputs_and_logits(small_export: Any) -> None:
    vectors, of_classes = load_vectors(small_export.bundle.path / small_export.bundle.manifest.vectors)
    assert len(vectors) == 2
    assert not of_classes
    import torch

    for vector in vectors:
        assert vector.image.dtype == np.float32
        assert 0 <= vector.image.min() < vector.image.max() <= 1
        with torch.no_grad():
            logits = small_export.network(
                torch.from_numpy(vector.image),
                point_coords=torch.from_numpy(vector.coords),
                point_labels=torch.from_numpy(vector.labels),
            ).numpy()
        np.testing.assert_array_equal(logits.reshape(len(logits), -1)[:, vector.voxels], vector.logits)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nonsense" * 100])
def test_broken_vectors_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "vectors.npz"
    file.write_bytes(content)
    with pytest.raises(BundleError, match="no test vectors"):
        load_vectors(file)


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good = {
        "image_0": np.zeros((4, 4, 4), np.uint8),
        "coords_0": np.zeros((1, 1, 3), np.float32),
        "labels_0": np.ones((1, 1), np.int8),
        "voxels_0": np.array([63]),
        "logits_0": np.zeros((1, 1), np.float32),
    }
    np.savez(tmp_path / "v.npz", **good)
    assert len(load_vectors(tmp_path / "v.npz")[0]) == 1
    bad: list[dict[str, Any]] = [
        {"voxels_0": np.array([64])},
        {"voxels_0": np.array([-1])},
        {"logits_0": np.zeros((2, 1), np.float32)},
        {"image_0": np.zeros((4, 4), np.uint8)},
        {"labels_0": np.array([[None]], object)},
    ]
    for change in bad:
        np.savez(tmp_path / "v.npz", **(good | change))
        with pytest.raises(BundleError):
            load_vectors(tmp_path / "v.npz")


def test_command_says_what_failed_and_exits_with_1(run: Run, rebuilt: Callable[..., Path], small_export: Any) -> None:
    good = run("check", str(small_export.bundle.path))
    assert good.code == 0
    assert "every check passed" in good.out
    bad = run("check", str(rebuilt(lambda _: None, licence="unknown")))
    assert bad.code == 1
    assert "1 checks failed" in bad.out
    assert "FAILED  licence: recorded as unknown" in bad.err


def test_inspect_fits_one_screen(run: Run, small_export: Any) -> None:
    result = run("inspect", str(small_export.bundle.path))
    assert result.code == 0
    assert len(result.out.splitlines()) <= 24
    for words in ("small, licence CC0-1.0", "width 8", "multiples of 4 from 8 on", "fp32 (", "logits within", "seed 7"):
        assert words in result.out, words
    default = run("inspect")
    assert "tiny, licence Apache-2.0" in default.out


def test_check_and_inspect_run_without_torch(small_export: Any) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['monai'] = None; import gstk.cli; "
        "sys.argv = ['gstk', 'check', '--parity', sys.argv[1]]; gstk.cli.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, small_export.bundle.path], capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr
    assert "every check passed" in result.stdout


def test_check_without_onnx_names_the_extra(small_export: Any) -> None:
    code = (
        "import sys; sys.modules['onnx'] = None; import gstk.cli; "
        "sys.argv = ['gstk', 'check', sys.argv[1]]; gstk.cli.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, small_export.bundle.path], capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 1
    assert 'pip install "gstk[check]"' in result.stderr


def test_manifest_with_unlisted_vectors_is_refused(small_export: Any, tmp_path: Path) -> None:
    shutil.copytree(small_export.bundle.path, tmp_path / "b")
    file = tmp_path / "b" / "manifest.json"
    values = json.loads(file.read_text())
    values["vectors"] = "../vectors.npz"
    file.write_text(json.dumps(values))
    with pytest.raises(BundleError, match="vectors in the manifest, expected a name listed under `files`"):
        Bundle.open(tmp_path / "b")

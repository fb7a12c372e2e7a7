"""Half precision: which values are float16, that types agree, and that values too large for it are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")

from gstk.core.bundle import Bundle  # noqa: E402
from gstk.engines import available, open_engine  # noqa: E402
from gstk.engines.base import Sample  # noqa: E402
from gstk.errors import ExportError  # noqa: E402
from gstk.export import export as export_module  # noqa: E402
from gstk.export.check import check_graph  # noqa: E402
from gstk.export.export import Options, export_bundle  # noqa: E402
from gstk.export.half import half_values, to_fp16_graph  # noqa: E402
from gstk.export.parity import ParityCase, default_cases  # noqa: E402
from gstk.export.ranges import activation_ranges, check_ranges  # noqa: E402

pytestmark = pytest.mark.slow

INSTALLED = [backend.name for backend in available() if backend.version and backend.name != "torch"]
EXACT = {"InstanceNormalization", "LayerNormalization", "Softmax", "Sin", "Cos", "Range"}


@pytest.fixture(scope="module")
def traced(small_export: Any) -> dict[str, Any]:
    """The small network's float32 graphs; clone them before a change."""
    return {kind: small_export.traced(kind) for kind in ("encoder", "prompt_decoder")}


@pytest.fixture(scope="module")
def half_bundle(small_export: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("half")
    options = Options(fp16=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "trace_graph", lambda graph: small_export.traced(graph.kind))
        patch.setattr(export_module, "default_cases", lambda multiple: default_cases(multiple)[:2])
        return export_bundle(small_export.checkpoint, folder / "b", default_roi=(32, 32, 32), options=options)


def element_types(model: Any) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    types = {i.name: i.data_type for i in inferred.graph.initializer}
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return types | {v.name: v.type.tensor_type.elem_type for v in values}


@pytest.mark.parametrize("kind", ["encoder", "prompt_decoder"])
@pytest.mark.parametrize("io", ["fp16", "fp32"])
def test_every_operator_has_inputs_of_one_type(traced: dict[str, Any], kind: str, io: str) -> None:
    model = traced[kind].clone()
    to_fp16_graph(model, io)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    types = element_types(proto)
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for node in proto.graph.node:
        floats = {types[name] for name in node.input if types.get(name) in (half, single)}
        assert len(floats) <= 1, node.name
        if node.op_type in EXACT:
            assert floats == {single}, node.name
        if node.op_type in ("Conv", "ConvTranspose", "Gelu"):
            assert floats == {half}, node.name
    expected = half if io == "fp16" else single
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name == "point_coords":
            assert types[value.name] == single
        elif value.name != "point_labels":
            assert types[value.name] == expected, value.name


def test_attention_is_float32_from_scores_to_weighted_sums(traced: dict[str, Any]) -> None:
    """A softmax over 262144 tokens gives weights of 4e-6, of which float16 keeps one digit."""
    model = traced["prompt_decoder"].clone()
    to_fp16_graph(model)
    softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
    assert len(softmaxes) == 7
    for node in softmaxes:
        readers = [use.node for use in node.outputs[0].uses()]
        while readers and readers[0].op_type != "MatMul":
            assert readers[0].op_type == "Reshape"
            readers = [use.node for use in readers[0].outputs[0].uses()]
        assert [reader.outputs[0].dtype for reader in readers] == [ir.DataType.FLOAT]


def test_positions_stay_float32(traced: dict[str, Any]) -> None:
    model = traced["prompt_decoder"].clone()
    to_fp16_graph(model)
    for node in model.graph:
        if node.op_type in ("Sin", "Cos"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT
            before = node.inputs[0].producer()
            while before is not None and any(v is not None and v.producer() for v in before.inputs):
                assert before.op_type != "Cast" or before.inputs[0].dtype == ir.DataType.INT64
                before = next(v.producer() for v in before.inputs if v is not None and v.producer() is not None)


def test_the_float32_graph_is_left_as_it_was(traced: dict[str, Any]) -> None:
    for model in traced.values():
        before = ir.to_proto(model).SerializeToString()
        to_fp16_graph(model.clone())
        assert half_values(model)
        assert ir.to_proto(model).SerializeToString() == before


def test_unknown_io_and_large_weights_are_refused(traced: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="got 'int4' for the type of inputs"):
        to_fp16_graph(traced["encoder"].clone(), "int4")
    model = traced["encoder"].clone()
    name = next(n for n in model.graph.initializers if n.endswith("conv_init.weight"))
    weights = model.graph.initializers[name].const_value.numpy().copy()
    weights.flat[0] = 7e4
    model.graph.initializers[name].const_value = ir.tensor(weights, name=name)
    with pytest.raises(ExportError, match=r"got a weight of 70000 in image_encoder.encoder.conv_init.weight"):
        to_fp16_graph(model)


def test_bundle_holds_both_precisions_and_they_agree(half_bundle: Bundle, small_export: Any) -> None:
    manifest = half_bundle.manifest
    assert manifest.graphs["encoder"] == {"fp32": "encoder.onnx", "fp16": "encoder.fp16.onnx"}
    assert manifest.graphs["prompt_decoder"] == {"fp32": "prompt_decoder.onnx", "fp16": "prompt_decoder.fp16.onnx"}
    sizes = {name: file.size_bytes for name, file in manifest.files.items()}
    assert sizes["encoder.fp16.onnx"] < 0.6 * sizes["encoder.onnx"]
    found = manifest.parity["precisions"]["fp16"]["engines"]
    assert set(found) == set(INSTALLED)
    for result in found.values():
        assert 0 < result["max_abs_error"] <= manifest.parity["precisions"]["fp16"]["tolerance"]
        assert result["mask_agreement"] >= 0.999
    for kind in ("encoder", "prompt_decoder"):
        assert all(finding.ok for finding in check_graph(half_bundle, kind, "fp16"))


@pytest.mark.parametrize("name", INSTALLED)
def test_engines_run_half_graphs(half_bundle: Bundle, name: str) -> None:
    image, coords, labels = ParityCase((16, 24, 32), 2, 3).inputs()
    results = {}
    for precision in ("fp32", "fp16"):
        with open_engine(half_bundle, name, precision) as engine:
            embedding = engine.encode(image)
            held = embedding.handle
            assert held.dtype == (np.float16 if precision == "fp16" else np.float32)
            assert embedding.size_bytes == held.nbytes
            results[precision] = engine.decode(embedding, coords, labels)
            assert results[precision].dtype == np.float32
    assert 1e-6 < np.abs(results["fp16"] - results["fp32"]).max() < 0.02


def test_ranges_are_the_largest_magnitudes(traced: dict[str, Any], small_export: Any) -> None:
    """Of the first convolution, against torch; of all samples."""
    import torch

    samples = [Sample(*ParityCase((16, 16, 24), 2, 3, seed).inputs()) for seed in range(2)]
    ranges = activation_ranges(traced, samples)
    first = small_export.network.image_encoder.encoder.conv_init
    with torch.no_grad():
        expected = max(float(first(torch.from_numpy(sample.image)).abs().max()) for sample in samples)
    assert ranges["encoder/image_encoder.encoder.conv_init"] == pytest.approx(expected, rel=1e-5)
    assert len(ranges) > 40
    assert all(np.isfinite(value) for value in ranges.values())
    check_ranges(ranges)
    with pytest.raises(ExportError, match="no samples"):
        activation_ranges(traced, [])


@pytest.mark.parametrize("value", [4e4, float("inf"), float("nan")])
def test_values_near_the_end_of_float16_are_refused(value: float) -> None:
    with pytest.raises(ExportError, match=r"at decoder/b, expected at most 32752: float16 ends at 65504"):
        check_ranges({"encoder/a": 100.0, "decoder/b": value})


def test_export_with_large_values_leaves_nothing(
    small_export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "activation_ranges", lambda *_: {"encoder/x": 1e9})
    monkeypatch.setattr(export_module, "default_cases", lambda _: (ParityCase((8, 8, 8), 1, 1),) * 2)
    monkeypatch.setattr(export_module, "trace_graph", lambda graph: small_export.traced(graph.kind))
    with pytest.raises(ExportError, match=r"values up to 1e\+09 at encoder/x"):
        export_bundle(small_export.checkpoint, tmp_path / "b", options=Options(fp16=True))
    assert list(tmp_path.iterdir()) == []

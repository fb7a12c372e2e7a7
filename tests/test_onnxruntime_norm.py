"""ONNX Runtime beside float64: norms of large regions, and weights that stay in their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from gstk.core.bundle import Bundle  # noqa: E402
from gstk.engines import onnxruntime_norm as module  # noqa: E402
from gstk.engines import open_engine  # noqa: E402
from gstk.engines.onnxruntime_norm import exact_graph  # noqa: E402


def norm_file(folder: Path, channels: int, epsilon: float, scale: np.ndarray, bias: np.ndarray) -> Path:
    helper = onnx.helper
    axes = [1, channels, "H", "W", "D"]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, axes) for name in ("x", "y")]
    node = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], epsilon=epsilon)
    weights = [onnx.numpy_helper.from_array(v, n) for v, n in ((scale, "scale"), (bias, "bias"))]
    graph = helper.make_graph([node], "norm", values[:1], values[1:], weights)
    file = folder / "norm.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


def opened(graph: bytes | str, folder: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
@pytest.mark.parametrize("shape", [(128, 128, 128), (7, 96, 5), (1, 1, 1)])
def test_instance_norm_is_exact(tmp_path: Path, shape: tuple[int, int, int], epsilon: float) -> None:
    """Of regions with a mean far from 0, one of which has hardly any variance."""
    rng = np.random.default_rng(0)
    image = rng.normal(3, 1, (1, 3, *shape)).astype(np.float32)
    image[:, 1] = 100 + 1e-3 * image[:, 1]
    image[:, 2] = 0.25
    scale, bias = (rng.normal(1, 0.3, 3).astype(np.float32) for _ in range(2))
    file = norm_file(tmp_path, 3, epsilon, scale, bias)
    (found,) = opened(exact_graph(file), tmp_path).run(None, {"x": image})
    exact = image.astype(np.float64)
    mean, variance = exact.mean((2, 3, 4), keepdims=True), exact.var((2, 3, 4), keepdims=True)
    per_channel = (v.astype(np.float64)[:, None, None, None] for v in (scale, bias))
    exact = (exact - mean) / np.sqrt(variance + epsilon) * next(per_channel) + next(per_channel)
    np.testing.assert_allclose(found[:, 0], exact[:, 0], atol=4e-6)
    # In float32 values of 100 have steps of 8e-6, and the deviation with epsilon is 3e-3 at least.
    np.testing.assert_allclose(found[:, 1:], exact[:, 1:], atol=0.03)


def test_logits_of_large_regions_are_torchs(by_class: Bundle, small_export: Any) -> None:
    """Where ONNX Runtime's own norms are off by more: 2e-5 of the largest logit of a class."""
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(3).normal(0.7, 0.1, (1, 1, 80, 80, 80)).clip(0, 1).astype(np.float32)
    ids = [1, 3, 57, 128]
    points, labels = np.array([[[40, 50, 60], [10, 20, 70]]], np.float32), np.array([[1, 0]])
    with torch.no_grad():
        given, network = torch.from_numpy(image), small_export.network
        by_name = network(given, class_vector=torch.tensor(ids)[:, None])[:, 0].numpy()
        by_point = network(given, point_coords=torch.from_numpy(points), point_labels=torch.from_numpy(labels)).numpy()
    with open_engine(by_class, "onnxruntime") as engine:
        logits = np.einsum("kc,chwd->khwd", engine.class_vectors()[ids], engine.class_features(image))
        clicked = engine.decode(engine.encode(image), points, labels)
    np.testing.assert_allclose(logits, by_name, atol=5e-6 * np.abs(by_name).max())
    np.testing.assert_allclose(clicked, by_point, atol=5e-6 * np.abs(by_point).max())


@pytest.mark.parametrize("kind", ["encoder", "prompt_decoder", "class_encoder"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_graph_is_whole_without_its_norms(by_class: Bundle, kind: str, precision: str) -> None:
    file = by_class.graph(kind, precision)
    before, after = onnx.load(file), onnx.load_from_string(exact_graph(file))
    onnx.checker.check_model(after, full_check=True)
    others = [n for n in before.graph.node if n.op_type != "InstanceNormalization"]
    assert len(others) < len(before.graph.node)
    assert [n for n in after.graph.node if "gstk.norm" not in "".join([*n.input, *n.output])] == [
        n for n in others if not any("gstk.norm" in name for name in n.input)
    ]
    weights = {w.name: w for w in after.graph.initializer}
    assert all(weights[w.name] == w for w in before.graph.initializer)
    assert (after.graph.input, after.graph.output, after.opset_import, after.ir_version) == (
        before.graph.input,
        before.graph.output,
        before.opset_import,
        before.ir_version,
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_weights_that_stay_in_the_file_are_the_same(
    every_precision: Bundle, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(5).random((1, 1, 16, 24, 32), np.float32)

    def logits() -> np.ndarray:
        with open_engine(every_precision, "onnxruntime", precision) as engine:
            return engine.decode(engine.encode(image), [[[4, 5, 6]]], [[1]])

    file = every_precision.graph("encoder", precision)
    expected, whole = logits(), len(exact_graph(file))
    monkeypatch.setattr(module, "MAPPED_BYTES", 200)
    assert len(exact_graph(file)) < whole - file.stat().st_size / 2
    np.testing.assert_array_equal(logits(), expected)


@pytest.mark.parametrize("content", [b"\x00\x01no graph", b"\x3a\xff\xff\xff\x7fcut off", b"\x3a\x02\x0f\x00", b"\x80"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "encoder.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="expected an ONNX file"):
        exact_graph(file)


def test_an_embedding_holds_no_more_than_its_own_memory(by_class: Bundle) -> None:
    """Not a piece of the memory of the run that made it."""
    image = np.zeros((1, 1, 32, 32, 32), np.float32)
    with open_engine(by_class, "onnxruntime") as engine:
        embedding = engine.encode(image)
        assert embedding.handle.base is None
        assert embedding.handle.nbytes == embedding.size_bytes == 8 * 16**3 * 4

"""Engines: the same answers from every backend, and a plain word where a question is wrong."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Run

from gstk.core.bundle import Bundle, Manifest, RoiRules, write_bundle
from gstk.engines import Backend, Embedding, Engine, available, open_engine, probe
from gstk.engines import select as select_module
from gstk.errors import BackendMissing, BundleError, EngineError, Interrupted

INSTALLED = [name for name in ("openvino", "onnxruntime", "torch") if importlib.util.find_spec(name)]


@pytest.fixture(scope="module", params=INSTALLED)
def engine(request: pytest.FixtureRequest, small_export: Any) -> Iterator[Engine]:
    with open_engine(small_export.bundle, request.param) as engine:
        yield engine


def region(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 1, *shape), dtype=np.float32)


def prompts(shape: tuple[int, int, int], objects: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(objects * 10 + points)
    coords = rng.integers(0, shape, (objects, points, 3)).astype(np.float32)
    labels = rng.integers(-1, 4, (objects, points))
    labels[:, 0] = 1
    return coords, labels


@pytest.mark.parametrize(
    ("shape", "objects", "points"),
    [((8, 8, 8), 1, 1), ((16, 16, 16), 3, 1), ((8, 12, 40), 1, 5), ((24, 16, 20), 3, 5), ((16, 8, 12), 1, 2)],
)
def test_engine_equals_torch(
    engine: Engine, small_export: Any, shape: tuple[int, int, int], objects: int, points: int
) -> None:
    import torch

    image, (coords, labels) = region(shape), prompts(shape, objects, points)
    with torch.no_grad():
        expected = small_export.network(
            torch.from_numpy(image), point_coords=torch.from_numpy(coords), point_labels=torch.from_numpy(labels)
        ).numpy()
    logits = engine.decode(engine.encode(image), coords, labels)
    assert logits.shape == (objects, 1, *shape)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=5e-5, rtol=0)


def test_embedding_describes_itself(engine: Engine) -> None:
    embedding = engine.encode(region((8, 12, 16)))
    assert embedding.roi_shape == (8, 12, 16)
    assert embedding.size_bytes == 8 * (4 * 6 * 8) * 4
    assert engine.version
    assert engine.device.id == "cpu"
    assert engine.device in engine.devices()


def test_results_are_fresh_arrays(engine: Engine) -> None:
    first, second = engine.encode(region((8, 8, 8))), engine.encode(region((8, 8, 8), seed=1))
    one = engine.decode(first, *prompts((8, 8, 8), 1, 1))
    kept = one.copy()
    two = engine.decode(second, *prompts((8, 8, 8), 1, 1))
    assert not np.array_equal(one, two)
    one[:] = 0
    np.testing.assert_array_equal(engine.decode(first, *prompts((8, 8, 8), 1, 1)), kept)


def test_objects_beyond_the_memory_bound_run_in_groups(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (8, 8, 16)
    embedding, (coords, labels) = engine.encode(region(shape)), prompts(shape, 5, 3)
    together = engine.decode(embedding, coords, labels)
    runs: list[int] = []
    decode = engine._decode
    monkeypatch.setattr(type(engine), "decode_voxels", 2 * 8 * 8 * 16)
    monkeypatch.setattr(engine, "_decode", lambda h, c, p: (runs.append(len(c)), decode(h, c, p))[1])
    np.testing.assert_allclose(engine.decode(embedding, coords, labels), together, atol=1e-5)
    assert runs == [2, 2, 1]


def test_other_dtypes_are_converted(engine: Engine) -> None:
    image, (coords, labels) = (region((8, 8, 8)) > 0.5), prompts((8, 8, 8), 1, 2)
    expected = engine.decode(engine.encode(image.astype(np.float32)), coords, labels)
    found = engine.decode(engine.encode(image.astype(np.uint8)), coords.astype(np.int64).tolist(), labels.tolist())
    np.testing.assert_array_equal(found, expected)
    engine.encode(np.asfortranarray(image.astype(np.float64)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 8)), r"got an image \(8, 8, 8\), expected \(1, 1, H, W, D\)"),
        (np.zeros((2, 1, 8, 8, 8)), r"expected \(1, 1, H, W, D\)"),
        (np.zeros((1, 1, 8, 10, 8)), r"got a region of \(8, 10, 8\), expected sides that are multiples of 4"),
        (np.zeros((1, 1, 8, 4, 8)), "at least 8"),
        (np.zeros((1, 1, 8, 0, 8)), "at least 8"),
        (np.full((1, 1, 8, 8, 8), np.nan), "NaN or infinity"),
        (np.full((1, 1, 8, 8, 8), 1e300), "NaN or infinity"),
        (np.zeros((1, 1, 8, 8, 8), complex), "got image of dtype complex128"),
        (np.full((1, 1, 8, 8, 8), None), "got image of dtype object"),
    ],
)
def test_wrong_image_is_named(engine: Engine, image: np.ndarray, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine.encode(image)


@pytest.mark.parametrize(
    ("coords", "labels", "message"),
    [
        (np.zeros((1, 3)), np.ones((1, 1)), r"got coords \(1, 3\), expected \(B, N, 3\)"),
        (np.zeros((1, 1, 2)), np.ones((1, 1)), r"expected \(B, N, 3\)"),
        (np.zeros((0, 1, 3)), np.ones((0, 1)), "one object and one point or more"),
        (np.zeros((1, 2, 3)), np.ones((2, 1)), r"got labels \(2, 1\), expected \(1, 2\)"),
        (np.zeros((1, 1, 3)), np.full((1, 1), 4), r"got labels \[4\], expected values in -1..3"),
        (np.zeros((1, 1, 3)), np.full((1, 1), 0.5), "got labels of dtype float64 with values that no int64 holds"),
        (np.zeros((2, 2, 3)), np.array([[1, -1], [-1, -1]]), r"got objects \[1\] with padding points only"),
        (np.full((1, 1, 3), np.inf), np.ones((1, 1)), "NaN or infinity"),
        (np.full((1, 1, 3), 8.0), np.ones((1, 1)), r"got a point at \[8.0, 8.0, 8.0\], expected .* \(8, 8, 8\)"),
    ],
)
def test_wrong_points_are_named(engine: Engine, coords: np.ndarray, labels: np.ndarray, message: str) -> None:
    embedding = engine.encode(region((8, 8, 8)))
    with pytest.raises(EngineError, match=message):
        engine.decode(embedding, coords, labels)


def test_coordinates_of_padding_do_not_matter(engine: Engine) -> None:
    embedding = engine.encode(region((8, 8, 8)))
    labels = np.array([[1, -1]])
    one = engine.decode(embedding, np.array([[[1, 2, 3], [0, 0, 0]]]), labels)
    two = engine.decode(embedding, np.array([[[1, 2, 3], [-50, 99, 7]]]), labels)
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_embedding_of_another_engine_is_refused(engine: Engine, small_export: Any) -> None:
    with open_engine(small_export.bundle, engine.name) as other:
        embedding = other.encode(region((8, 8, 8)))
        for stranger in (embedding, embedding.handle):
            with pytest.raises(EngineError, match="another engine"):
                engine.decode(stranger, *prompts((8, 8, 8), 1, 1))


@pytest.mark.parametrize("half", ["encode", "decode"])
def test_a_call_can_be_ended_from_another_thread(engine: Engine, half: str) -> None:
    """What ends it, or not, later calls give what they always gave."""
    image = np.random.default_rng(3).random((1, 1, 96, 96, 96), np.float32)
    small = image[..., :48, :32, :32]
    one, many = [[[9, 9, 9]]], np.full((8, 3, 3), 40.0)
    engine.interrupt()  # nothing runs
    large = engine.encode(image) if half == "decode" else None
    before = engine.decode(engine.encode(small), one, [[1]])
    ended: list[type[BaseException] | None] = []

    def call() -> None:
        try:
            engine.encode(image) if large is None else engine.decode(large, many, np.ones((8, 3), np.int64))
            ended.append(None)
        except EngineError as error:
            ended.append(type(error))

    thread = threading.Thread(target=call)
    thread.start()
    while thread.is_alive():
        thread.join(0.02)
        engine.interrupt()
    assert ended == [None if engine.name == "torch" else Interrupted]
    np.testing.assert_array_equal(engine.decode(engine.encode(small), one, [[1]]), before)


def test_closed_engine_says_so(small_export: Any) -> None:
    for name in INSTALLED:
        engine = open_engine(small_export.bundle, name)
        embedding = engine.encode(region((8, 8, 8)))
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="is closed"):
            engine.encode(region((8, 8, 8)))
        with pytest.raises(EngineError, match="is closed"):
            engine.decode(embedding, *prompts((8, 8, 8), 1, 1))


def test_threads_may_share_an_engine(engine: Engine) -> None:
    shapes = [(8, 8, 8), (16, 8, 12), (8, 20, 8), (12, 12, 12)]

    def answer(index: int) -> np.ndarray:
        shape = shapes[index % len(shapes)]
        return engine.decode(engine.encode(region(shape, index)), *prompts(shape, 1 + index % 2, 2))

    expected = [answer(index) for index in range(8)]
    found: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda i=i: found.__setitem__(i, answer(i))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, logits in enumerate(expected):
        np.testing.assert_allclose(found[index], logits, atol=1e-5)


def test_threads_option(small_export: Any) -> None:
    for name in INSTALLED:
        with open_engine(small_export.bundle, name, threads=1) as engine:
            engine.encode(region((8, 8, 8)))
    with pytest.raises(EngineError, match="got 0 threads"):
        open_engine(small_export.bundle, threads=0)


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_compiled_graphs_are_kept_and_checked(
    small_export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gstk.engines import openvino as module

    image, asked = region((8, 12, 8)), prompts((8, 12, 8), 2, 3)

    def answer(**options: object) -> np.ndarray:
        with open_engine(small_export.bundle, "openvino", options={"cache": tmp_path / "cache", **options}) as engine:
            return engine.decode(engine.encode(image), *asked)

    first = answer()
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    read = module._read_model
    monkeypatch.setattr(module, "_read_model", lambda *_: pytest.fail("compiled again"))
    np.testing.assert_allclose(answer(), first, atol=1e-5)
    monkeypatch.setattr(module, "_read_model", read)
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    np.testing.assert_allclose(answer(), first, atol=1e-5)
    anew = files[0].read_bytes()
    assert anew[:32] == hashlib.sha256(anew[32:]).digest()
    np.testing.assert_allclose(answer(hyper_threading="off"), first, atol=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 4  # other settings, other files


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_a_cache_that_cannot_be_written_costs_nothing(small_export: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with open_engine(small_export.bundle, "openvino", options={"cache": blocked}) as engine:
        engine.encode(region((8, 8, 8)))
    assert blocked.read_text() == "not a folder"


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_a_hot_region_and_others_give_the_same(small_export: Any) -> None:
    with (
        open_engine(small_export.bundle, "openvino") as plain,
        open_engine(small_export.bundle, "openvino", options={"hot_roi": "8,12,16"}) as hot,
    ):
        for shape in ((8, 12, 16), (16, 8, 8), (8, 12, 16)):
            asked = prompts(shape, 2, 3)
            expected, found = (e.decode(e.encode(region(shape)), *asked) for e in (plain, hot))
            np.testing.assert_allclose(found, expected, atol=2e-5)
    with pytest.raises(EngineError, match=r"got a region of \(6, 6, 6\)"):
        open_engine(small_export.bundle, "openvino", options={"hot_roi": 6})


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("options", [{"pinning": "on", "core_type": "performance", "sockets": "all"}, {"arena": "on"}])
def test_settings_reach_their_backend_and_no_other(small_export: Any, name: str, options: dict[str, str]) -> None:
    own = {"openvino": "pinning", "onnxruntime": "arena"}.get(name)
    if own in options:
        with open_engine(small_export.bundle, name, options=options) as engine:
            logits = engine.decode(engine.encode(region((8, 8, 8))), *prompts((8, 8, 8), 1, 1))
        assert np.isfinite(logits).all()
    else:
        with pytest.raises(EngineError, match=f"but the options of the {name} engine are"):
            open_engine(small_export.bundle, name, options=options)


def test_settings_need_a_backend(small_export: Any) -> None:
    with pytest.raises(EngineError, match="got options arena without a backend"):
        open_engine(small_export.bundle, options={"arena": "on"})


@pytest.mark.skipif("torch" not in INSTALLED, reason="needs torch")
def test_autocast_is_close_and_cheaper_in_bits(small_export: Any) -> None:
    asked = prompts((16, 8, 8), 1, 2)
    image = region((16, 8, 8))
    with open_engine(small_export.bundle, "torch") as plain:
        expected = plain.decode(plain.encode(image), *asked)
    with open_engine(small_export.bundle, "torch", options={"amp": "bf16"}) as engine:
        embedding = engine.encode(image)
        found = engine.decode(embedding, *asked)
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max() + 0.05
    with pytest.raises(EngineError, match="got tf32=on with device cpu"):
        open_engine(small_export.bundle, "torch", options={"tf32": True})


def test_available_lists_every_backend() -> None:
    backends = available()
    assert [b.name for b in backends] == ["openvino", "onnxruntime", "tensorrt", "torch"]
    assert {b.name for b in backends if b.version} == set(INSTALLED)
    assert all(isinstance(b, Backend) and b.reason for b in backends)


def test_auto_takes_the_first_that_is_there(small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_engine(small_export.bundle).name == INSTALLED[0]
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendMissing, match=r'OpenVINO cannot be imported .*pip install "gstk\[cpu\]"'):
        open_engine(small_export.bundle, "openvino")
    assert open_engine(small_export.bundle).name == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert open_engine(small_export.bundle).name == "torch"
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        BackendMissing, match=r'none of openvino, onnxruntime, tensorrt, torch .*pip install "gstk\[cpu\]"'
    ):
        open_engine(small_export.bundle)


@pytest.mark.skipif("torch" not in INSTALLED, reason="needs torch")
def test_torch_is_the_graph_in_torch(small_export: Any) -> None:
    """Every operator, prompts of every kind, regions of three sides; against ONNX Runtime on the same graph."""
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(4)
    for shape, objects, points in (((8, 12, 16), 3, 4), ((16, 8, 8), 1, 1)):
        image, coords = region(shape), rng.integers(0, 8, (objects, points, 3))
        labels = rng.integers(0, 4, (objects, points))
        labels[:, 1:][labels[:, 1:] == 3] = -1
        results = []
        for name in ("torch", "onnxruntime"):
            with open_engine(small_export.bundle, name) as engine:
                results.append(engine.decode(engine.encode(image), coords, labels))
        assert np.abs(results[0]).max() > 0.01
        np.testing.assert_allclose(results[0], results[1], atol=2e-5)


@pytest.mark.skipif("torch" not in INSTALLED, reason="needs torch")
def test_operators_that_torch_engine_does_not_know_are_named(small_export: Any, tmp_path: Path) -> None:
    import onnx
    import torch

    from gstk.engines.torch_graph import TorchGraph

    model = onnx.load(small_export.bundle.graph("encoder"))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Celu"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(EngineError, match=r"got operators Celu in odd\.onnx"):
        TorchGraph(tmp_path / "odd.onnx", torch.device("cpu"))


def test_precision_that_a_backend_cannot_run(small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gstk.engines.torch import TorchEngine

    monkeypatch.setattr(TorchEngine, "precisions", ("fp16",))
    with pytest.raises(EngineError, match="got precision 'fp32' for the torch engine, expected fp16"):
        open_engine(small_export.bundle, "torch")


def test_probe_names_devices_and_precisions() -> None:
    found = {entry.name: entry for entry in probe()}
    assert list(found) == [b.name for b in available()]
    for name in INSTALLED:
        assert found[name].version
        assert any(device.id == "cpu" for device in found[name].devices)
        assert "fp32" in found[name].precisions


def test_probe_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise OSError("libfoo.so: cannot open\nshared object")

    for name in INSTALLED:
        engine = select_module._engine_class(name)
        monkeypatch.setattr(engine, "devices", staticmethod(broken))
    for entry in probe():
        if entry.version:
            assert entry.devices == ()
            assert entry.note == "cannot be used: libfoo.so: cannot open"


def test_command_lists_engines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("engines")
    assert result.code == 0
    assert all(name in result.out for name in ("openvino", "onnxruntime", "tensorrt", "torch"))
    assert f"auto takes {INSTALLED[0]}" in result.out
    monkeypatch.setattr(select_module.importlib.util, "find_spec", lambda _: None)
    result = run("engines")
    assert result.code == 1
    assert 'pip install "gstk[cpu]"' in result.out


def test_missing_backend_is_listed_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_module.importlib.util, "find_spec", lambda _: None)
    assert available()[0] == Backend("openvino", None, 'not installed; pip install "gstk[cpu]"')


def test_unknown_names_are_refused(small_export: Any) -> None:
    with pytest.raises(EngineError, match="got backend 'tpu', expected auto, openvino, onnxruntime, tensorrt, torch"):
        open_engine(small_export.bundle, "tpu")
    with pytest.raises(BundleError, match="got precision 'int4'"):
        open_engine(small_export.bundle, precision="int4")


def test_bundle_may_be_a_path(small_export: Any) -> None:
    with open_engine(small_export.bundle.path) as engine:
        assert engine.bundle == Bundle.open(small_export.bundle.path)


@pytest.mark.parametrize("name", INSTALLED)
def test_broken_graph_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "g").write_bytes(b"no graph at all")
    roi = RoiRules(4, 8, (128, 128, 128))
    graphs = {"encoder": {"fp32": "e.onnx"}, "prompt_decoder": {"fp32": "e.onnx"}}
    bundle = write_bundle(tmp_path / "b", Manifest("n", "l", "c", {}, roi, graphs), {"e.onnx": tmp_path / "g"})
    with pytest.raises(EngineError, match=f"{name} failed to load the graphs") as caught:
        open_engine(bundle, name)
    assert "\n" not in str(caught.value)


def test_embedding_compares_by_identity() -> None:
    embedding = Embedding(1, (8, 8, 8), np.zeros(3), 12)
    assert embedding != replace(embedding)


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
@pytest.mark.parametrize("halvings", [0, 1, 2])
@pytest.mark.parametrize("shape", [(64, 64, 64), (8, 72, 40), (8, 8, 8)])
def test_instance_norm_of_openvino_is_exact(shape: tuple[int, int, int], halvings: int) -> None:
    """Of a region with a mean far from 0, behind convolutions, where the plugin works channels-last."""
    import openvino
    from openvino import opset13 as ops

    from gstk.engines.openvino import shared_core
    from gstk.engines.openvino_norm import split_instance_norms

    channels = 8
    x = ops.parameter([1, channels, -1, -1, -1], np.float32, name="image")
    x.output(0).set_names({"image"})
    eye = np.eye(channels, dtype=np.float32)[:, :, None, None, None]
    stride = 2**halvings
    values = ops.convolution(x, eye, [stride] * 3, [0, 0, 0], [0, 0, 0], [1, 1, 1])
    norm = ops.mvn(values, np.array([2, 3, 4], np.int64), True, 1e-5, "INSIDE_SQRT")
    after = ops.convolution(norm, eye, [1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1])
    model = openvino.Model([after], [x], "norm")
    assert split_instance_norms(model, 8) == (halvings < 2)  # blocks of 8, of 4, and none
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = np.random.default_rng(0).normal(3, 1, (1, channels, *shape)).astype(np.float32)
    exact = image[:, :, ::stride, ::stride, ::stride].astype(np.float64)
    mean, variance = exact.mean((2, 3, 4), keepdims=True), exact.var((2, 3, 4), keepdims=True)
    np.testing.assert_allclose(compiled([image])[0], (exact - mean) / np.sqrt(variance + 1e-5), atol=5e-6)


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_instance_norms_of_a_bundle_are_split_where_its_regions_are_large(small_export: Any) -> None:
    import onnx

    from gstk.engines.openvino import shared_core
    from gstk.engines.openvino_norm import split_instance_norms

    for kind in ("encoder", "prompt_decoder"):
        path = small_export.bundle.graph(kind)
        norms = sum(node.op_type == "InstanceNormalization" for node in onnx.load(path).graph.node)
        split = [split_instance_norms(shared_core().read_model(path), multiple) for multiple in (2, 4, 8, 16, 1024)]
        assert split[0] == 0
        assert split == sorted(split)
        assert 0 < split[2] <= split[3] <= split[4] == norms


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_a_run_comes_between_one_that_did_not_end_and_the_next(small_export: Any) -> None:
    """Also where it is larger than both."""
    image = np.random.default_rng(3).random((1, 1, 16, 16, 16), np.float32)
    with open_engine(small_export.bundle, "openvino") as engine:
        embedding = engine.encode(image)
        before = engine.decode(embedding, [[[9, 9, 9]]], [[1]])
        for shapes in engine._graphs[None].shapes:  # type: ignore[attr-defined]
            shapes.append(shapes[0])  # as an interrupted run of the same shape leaves it
        np.testing.assert_array_equal(engine.decode(engine.encode(image), [[[9, 9, 9]]], [[1]]), before)
        assert [len(shapes) for shapes in engine._graphs[None].shapes] == [1, 1]  # type: ignore[attr-defined]


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_what_comes_between_shares_no_shape_in_any_layer(small_export: Any) -> None:
    """Else a layer that the ended run did not reach goes on with what it prepared for the run before."""
    rng = np.random.default_rng(4)

    def shapes_of(sides: tuple[int, ...], halves: int, multiple: int) -> list[tuple[int, ...]]:
        """Of the tensors of each level, the counts of blocks in them, and all voxels in a row."""
        levels = [tuple(side * halves // 2**level for side in sides) for level in range(multiple.bit_length())]
        return [*levels, *(tuple(-(-side // 8) for side in level) for level in levels), (int(np.prod(sides)),)]

    with open_engine(small_export.bundle, "openvino") as engine:
        for _ in range(200):
            half = int(rng.integers(0, 2))
            sides = [tuple(int(n) for n in rng.integers(2, 20, 3) * 8) for _ in range(2)]
            runs = [(*(side // 2 for side in run), int(rng.integers(1, 4))) if half else run for run in sides]
            found = engine._other_inputs(half, runs)  # type: ignore[attr-defined]
            other = found["embedding"].shape[1:4] if half else found["image"].shape[2:]
            per_run = [shapes_of(run[:3], half + 1, engine._multiple) for run in (*runs, other)]
            for before, ended, between in zip(*per_run, strict=True):
                assert before == ended or between not in (before, ended)
            if half:
                assert found["point_labels"].shape[1] not in (run[3] for run in runs)
            assert np.prod(other) < 0.2 * 8**half * 64 * 160**2


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_signals_are_handled_after_engines_that_close_in_the_order_they_opened(small_export: Any) -> None:
    """Each of OpenVINO's cores puts back the stack for signal handlers that it found, be it freed or not."""
    program = """
import gc, os, signal, sys
from gstk.engines import open_engine
from gstk.core.bundle import Bundle
engines = [open_engine(Bundle.open(sys.argv[1]), "openvino") for _ in range(2)]
while engines:
    engines.pop(0).close()
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", program, str(small_export.bundle.path)]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


@pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")
def test_the_last_product_becomes_a_convolution_of_equal_result(small_export: Any) -> None:
    from gstk.engines.openvino import shared_core
    from gstk.engines.openvino_fold import convolve_last_product

    core = shared_core()
    plain, folded = (core.read_model(small_export.bundle.graph("prompt_decoder")) for _ in range(2))
    assert convolve_last_product(plain) == 0  # with B free, one kernel serves no convolution
    folded.reshape({"point_coords": [1, -1, 3], "point_labels": [1, -1]})
    assert convolve_last_product(folded) == 1
    assert convolve_last_product(folded) == 0
    assert convolve_last_product(core.read_model(small_export.bundle.graph("encoder"))) == 0
    rng = np.random.default_rng(3)
    for shape, points in (((4, 6, 8), 1), ((8, 4, 4), 3)):
        inputs = {
            "embedding": rng.normal(size=(1, 8, *shape)).astype(np.float32),
            "point_coords": rng.integers(0, 8, (1, points, 3)).astype(np.float32),
            "point_labels": rng.integers(0, 4, (1, points)),
        }
        precise = {"INFERENCE_PRECISION_HINT": "f32"}
        expected, found = (core.compile_model(model, "CPU", precise)(inputs)[0] for model in (plain, folded))
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_closing_frees_the_backend(small_export: Any) -> None:
    import weakref

    for name in INSTALLED:
        engine = open_engine(small_export.bundle, name)
        held = engine._sessions if name == "onnxruntime" else engine._graphs
        first = held[None].compiled[0] if name == "openvino" else held[0]
        watched = weakref.ref(first) if hasattr(first, "__weakref__") else None
        del first
        engine.close()
        gc.collect()
        assert not held
        assert watched is None or watched() is None

"""Engines: the same answers from every backend, and a clear error where an argument is wrong."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_inputs import INSTALLED, prompts, region, with_gpus

from gstk.core.bundle import Manifest, RoiRules, write_bundle
from gstk.engines import Embedding, Engine, open_engine
from gstk.errors import EngineError, Interrupted


@pytest.fixture(scope="module", params=with_gpus())
def engine(request: pytest.FixtureRequest, small_export: Any) -> Iterator[Engine]:
    backend, _, device = request.param.partition(" ")
    with open_engine(small_export.bundle, backend, device=device or "auto") as engine:
        yield engine


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
    assert engine.device in [*engine.devices(), *engine.named_devices()]
    assert (engine.device.id == "cpu") == (engine.device in engine.devices())


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


def test_wrong_arguments_are_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match="expected sides that are multiples of 4"):
        engine.encode(np.zeros((1, 1, 8, 10, 8)))
    embedding = engine.encode(region((8, 8, 8)))
    with pytest.raises(EngineError, match=r"expected \(B, N, 3\)"):
        engine.decode(embedding, np.zeros((1, 1, 2)), np.ones((1, 1)))


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


def test_kernels_that_torch_keeps_are_bounded_unless_the_user_has_said(
    small_export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    for before, expected in ((None, "256"), ("7", "7")):
        monkeypatch.setenv(limit, before or "")
        if before is None:
            monkeypatch.delenv(limit)
        open_engine(small_export.bundle, "torch").close()
        assert os.environ[limit] == expected


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

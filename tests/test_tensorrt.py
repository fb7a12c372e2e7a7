"""The TensorRT engine on a stand-in for TensorRT and CUDA (`fake_tensorrt.py`); everything else is real."""

from __future__ import annotations

import gc
import math
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_engines
from engine_inputs import prompts, region
from fake_cuda import cudaError_t, cudaMemoryType
from fake_tensorrt import Fake, installed

from gstk.core.manifest import RoiRules
from gstk.engines import failures, open_engine, probe
from gstk.engines import select as select_module
from gstk.engines.base import BundleEngine
from gstk.engines.devices import Device
from gstk.engines.tensorrt_build import build_plans
from gstk.engines.tensorrt_profiles import Profile, Profiles, buckets
from gstk.errors import BackendMissing, DeviceError, DriverMissing, EngineError, OutOfMemory, PlanError

pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")

for _name in (
    "test_engine_equals_torch",
    "test_results_are_fresh_arrays",
    "test_objects_beyond_the_memory_bound_run_in_groups",
    "test_other_dtypes_are_converted",
    "test_wrong_arguments_are_refused",
    "test_coordinates_of_padding_do_not_matter",
    "test_embedding_of_another_engine_is_refused",
    "test_threads_may_share_an_engine",
):
    globals()[_name] = getattr(test_engines, _name)  # what every engine has to do, with the `engine` below


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with installed() as fake:
        yield fake


@pytest.fixture(scope="module")
def cache(fake: Fake, small_export: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Plans of the small network where they are looked for without being told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("os.access", lambda *_: False)  # as in a bundle that is installed for all
        build_plans(small_export.bundle, regions=[(8, 8, 8), (16, 16, 16)], wide=(8, 16, 40), objects=4, points=6)
        yield Path()


@pytest.fixture(scope="module")
def engine(fake: Fake, cache: Path, small_export: Any) -> Iterator[BundleEngine]:
    with open_engine(small_export.bundle, "tensorrt") as engine:
        yield engine


@pytest.fixture
def fresh(fake: Fake, cache: Path, small_export: Any) -> Iterator[BundleEngine]:
    """An engine of the test's own, with all counts at 0."""
    fake.runs.clear()
    fake.contexts = fake.cuda.captures = fake.cuda.launches = 0
    with open_engine(small_export.bundle, "tensorrt") as engine:
        yield engine


def expected(small_export: Any, shape: tuple[int, int, int], seed: int, objects: int, points: int) -> np.ndarray:
    with open_engine(small_export.bundle, "onnxruntime") as other:
        return other.decode(other.encode(region(shape, seed)), *prompts(shape, objects, points))


def test_engine_describes_itself(engine: BundleEngine) -> None:
    embedding = engine.encode(region((8, 12, 16)))
    assert embedding.size_bytes == 8 * (4 * 6 * 8) * 4
    assert (engine.version, engine.device) == ("10.13.0.35", Device("cuda:0", "NVIDIA Fake 24GB", (8, 9)))
    entry = next(entry for entry in probe() if entry.name == "tensorrt")
    assert entry.devices == (engine.device,)
    assert entry.precisions == ("fp32", "fp16", "int8")


def test_objects_are_decoded_in_powers_of_two(fresh: BundleEngine, fake: Fake, small_export: Any) -> None:
    assert [buckets(n, 8) for n in range(1, 10)] == [[1], [2], [4], [4], [4, 1], [8], [8], [8], [8, 1]]
    assert [buckets(n, 3) for n in (1, 2, 3, 4, 7)] == [[1], [2], [3], [3, 1], [3, 3, 1]]
    for n in range(1, 40):
        for most in range(1, 12):
            sizes = buckets(n, most)
            assert sum(sizes[:-1]) < n <= sum(sizes)
            assert max(sizes) <= most
            assert (sum(sizes) - n) <= sizes[-1] / 4
    logits = fresh.decode(fresh.encode(region((16, 16, 16))), *prompts((16, 16, 16), 5, 2))
    np.testing.assert_allclose(logits, expected(small_export, (16, 16, 16), 0, 5, 2), atol=1e-5)
    assert [shapes["point_coords"] for shapes, _ in fake.runs[1:]] == [(4, 4, 3), (1, 4, 3)]
    logits = fresh.decode(fresh.encode(region((16, 16, 16))), *prompts((16, 16, 16), 3, 2))
    np.testing.assert_allclose(logits, expected(small_export, (16, 16, 16), 0, 3, 2), atol=1e-5)
    assert fake.runs[-1][0]["point_coords"] == (4, 4, 3)


def test_a_click_more_needs_no_graph_more(fresh: BundleEngine, fake: Fake, small_export: Any) -> None:
    """Points are padded with ignored ones to a few numbers, up to what the plan takes; each has one CUDA graph."""
    shape = (8, 8, 8)
    embedding = fresh.encode(region(shape))
    for points in (1, 2, 3, 4, 5, 6):
        logits = fresh.decode(embedding, *prompts(shape, 1, points))
        np.testing.assert_allclose(logits, expected(small_export, shape, 0, 1, points), atol=1e-5)
    assert [shapes["point_coords"][1] for shapes, _ in fake.runs[1:]] == [4, 4, 4, 6, 6]  # the fourth ran as a graph
    assert (fake.cuda.captures, fake.cuda.launches) == (1, 2)
    # Padding of MONAI's kind is a token that the others attend to: one more of them is another answer.
    coords, labels = prompts(shape, 1, 3)
    labels[:] = 1
    one, padded = fresh.decode(embedding, coords, labels), np.concatenate([labels, np.full((1, 1), -1)], 1)
    more = fresh.decode(embedding, np.concatenate([coords, coords[:, :1]], 1), padded)
    assert np.abs(one - more).max() > 1e-4
    with pytest.raises(EngineError, match=r"got 7 points for an object, expected at most 6 .*gstk build --points 7"):
        fresh.decode(embedding, *prompts((8, 8, 8), 1, 7))


def test_narrow_profile_goes_before_the_wide_one(fresh: BundleEngine, fake: Fake) -> None:
    for shape in ((8, 8, 8), (16, 16, 16), (8, 16, 40), (40, 40, 40)):
        fresh.encode(region(shape))
    profiles = fresh._profiles
    assert [profiles.find(shape) for shape in ((8, 8, 8), (16, 16, 16), (8, 16, 40), (40, 40, 40))] == [0, 1, 2, 2]
    assert fake.contexts == 3  # one for each profile, and the wide one takes both shapes
    with pytest.raises(EngineError, match=r"got a region of \(8, 8, 44\), expected one of 8x8x8, 16x16x16, 8:16:40"):
        fresh.encode(region((8, 8, 44)))


def test_graph_serves_a_shape_that_comes_again(fresh: BundleEngine, fake: Fake, small_export: Any) -> None:
    shape = (16, 16, 16)
    embeddings = [fresh.encode(region(shape, seed)) for seed in range(2)]
    wanted = [expected(small_export, shape, seed, 2, 3) for seed in range(2)]
    request = prompts(shape, 2, 3)
    for turn in range(6):
        logits = fresh.decode(embeddings[turn % 2], *request)
        np.testing.assert_allclose(logits, wanted[turn % 2], atol=1e-5)
    # First in the profile's own context, then in one of its own, and from then on as a graph, for any embedding.
    assert (fake.cuda.captures, fake.cuda.launches) == (1, 4)
    assert fake.contexts == 3
    # Another shape goes its own way, and does not disturb the graph.
    np.testing.assert_allclose(
        fresh.decode(embeddings[0], *prompts(shape, 1, 1)), expected(small_export, shape, 0, 1, 1), atol=1e-5
    )
    np.testing.assert_allclose(fresh.decode(embeddings[1], *request), wanted[1], atol=1e-5)
    assert (fake.cuda.captures, fake.cuda.launches) == (1, 5)


def test_graph_ends_when_memory_moves(fresh: BundleEngine, fake: Fake, small_export: Any) -> None:
    shape, before = (8, 8, 8), set(fake.cuda.graphs)
    embedding, request = fresh.encode(region(shape)), prompts(shape, 1, 2)
    for _ in range(4):
        fresh.decode(embedding, *request)
    assert (fake.cuda.captures, fake.cuda.launches) == (1, 2)
    fresh.encode(region((40, 40, 40)))  # needs a larger block for both plans
    for _ in range(3):
        logits = fresh.decode(embedding, *request)
        np.testing.assert_allclose(logits, expected(small_export, shape, 0, 1, 2), atol=1e-5)
    assert fake.cuda.captures == 2  # again after one plain run
    assert len(set(fake.cuda.graphs) - before) == 1


def test_graphs_can_be_left_out_or_fail(fake: Fake, cache: Path, small_export: Any, caplog: Any) -> None:
    fake.cuda.captures = fake.cuda.launches = 0
    with open_engine(small_export.bundle, "tensorrt", options={"graphs": "off"}) as engine:
        embedding = engine.encode(region((8, 8, 8)))
        for _ in range(4):
            engine.decode(embedding, *prompts((8, 8, 8), 1, 1))
    assert (fake.cuda.captures, fake.cuda.launches) == (0, 0)
    fake.cuda.no_capture = True
    try:
        with open_engine(small_export.bundle, "tensorrt") as engine:
            embedding = engine.encode(region((8, 8, 8)))
            found = [engine.decode(embedding, *prompts((8, 8, 8), 1, 1)) for _ in range(5)]
    finally:
        fake.cuda.no_capture = False
    assert fake.cuda.launches == 0
    for logits in found:
        np.testing.assert_allclose(logits, expected(small_export, (8, 8, 8), 0, 1, 1), atol=1e-5)
    assert caplog.text.count("cannot be captured") == 1


def test_few_graphs_are_kept(fresh: BundleEngine, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(fake.cuda.graphs)
    monkeypatch.setattr(fresh._execution._decoder, "_limit", 2)
    embedding = fresh.encode(region((8, 8, 8)))
    for objects, points in ((1, 4), (2, 4), (1, 6), (2, 6)):
        for _ in range(4):
            fresh.decode(embedding, *prompts((8, 8, 8), objects, points))
    assert fake.cuda.captures == 4
    assert len(set(fake.cuda.graphs) - before) == 2


def test_one_block_serves_both_plans(fresh: BundleEngine, fake: Fake) -> None:
    before = set(fake.cuda.device)
    embedding = fresh.encode(region((16, 16, 16)))
    fresh.decode(embedding, *prompts((16, 16, 16), 4, 1))
    voxels, blocks = 16**3, [size for address, (_, size) in fake.cuda.device.items() if address not in before]
    scratch = fake.scratch_bytes * 4 * voxels
    assert blocks.count(scratch) == 1
    assert max(blocks) == scratch
    assert sum(size >= fake.scratch_bytes * voxels for size in blocks) == 1


def test_memory_goes_back(fake: Fake, cache: Path, small_export: Any) -> None:
    before, pinned = fake.cuda.used_bytes, len(fake.cuda.pinned)
    engine = open_engine(small_export.bundle, "tensorrt")
    kept = engine.encode(region((16, 16, 16)))
    sizes = []
    for seed in range(4):
        engine.decode(engine.encode(region((16, 16, 16), seed)), *prompts((16, 16, 16), 1, 1))
        sizes.append(fake.cuda.used_bytes)
    assert len(set(sizes[1:])) == 1  # an embedding that was dropped makes room for the next
    engine.close()
    gc.collect()
    assert fake.cuda.used_bytes - before == kept.size_bytes
    del kept
    gc.collect()
    assert fake.cuda.used_bytes == before
    assert len(fake.cuda.pinned) == pinned
    with pytest.raises(EngineError, match="is closed"):
        engine.encode(region((8, 8, 8)))


def test_full_memory_makes_groups_smaller(fresh: BundleEngine, fake: Fake, small_export: Any) -> None:
    shape = (16, 16, 16)
    embedding = fresh.encode(region(shape))
    limit = fake.cuda.limit_bytes
    fake.runs.clear()
    try:
        fake.cuda.limit_bytes = fake.cuda.used_bytes + 3 * fake.scratch_bytes * 16**3 // 2
        logits = fresh.decode(embedding, *prompts(shape, 4, 1))
        np.testing.assert_allclose(logits, expected(small_export, shape, 0, 4, 1), atol=1e-5)
        assert [shapes["point_coords"][0] for shapes, _ in fake.runs] == [2, 2]
        fake.cuda.limit_bytes = fake.cuda.used_bytes
        with pytest.raises(OutOfMemory, match=r"MB free, expected .* MB more; take smaller regions"):
            fresh.encode(region((40, 40, 40)))
    finally:
        fake.cuda.limit_bytes = limit
    np.testing.assert_allclose(fresh.decode(fresh.encode(region(shape)), *prompts(shape, 4, 1)), logits, atol=1e-5)


def test_cuda_error_ends_the_process_s_use_of_the_gpu(
    fake: Fake, cache: Path, small_export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_lost", [])
    engine = open_engine(small_export.bundle, "tensorrt")
    fake.cuda.sticky = cudaError_t.cudaErrorIllegalAddress
    try:
        with pytest.raises(DeviceError, match=r"cudaErrorIllegalAddress: an illegal memory access.*another process"):
            engine.encode(region((8, 8, 8)))
    finally:
        fake.cuda.sticky = None
    with pytest.raises(DeviceError, match="start another process"):
        engine.encode(region((8, 8, 8)))
    with pytest.raises(DeviceError, match="start another process"):
        open_engine(small_export.bundle, "tensorrt")
    engine.close()


@pytest.mark.parametrize(
    ("reason", "kind"), [("misaligned address", DeviceError), ("out of memory", OutOfMemory), ("odd", DeviceError)]
)
def test_what_was_queued_ends_before_a_failure_is_told(
    fresh: Any, fake: Fake, monkeypatch: pytest.MonkeyPatch, reason: str, kind: type[Exception]
) -> None:
    """It copies from and to memory that the caller may use for something else then."""
    monkeypatch.setattr(failures, "_lost", [])
    monkeypatch.setattr(fake, "reason", reason)
    stream = fake.cuda.stream(fresh._execution._stream.handle)
    monkeypatch.setattr(fake, "break_run", lambda: None)
    with pytest.raises(kind):
        fresh.encode(region((8, 8, 8)))
    assert stream.done == stream.queued > 0


def test_ctrl_c_waits_for_the_gpu(fresh: Any, fake: Fake, small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (8, 8, 8)
    stream = fake.cuda.stream(fresh._execution._stream.handle)
    with monkeypatch.context() as patch:
        patch.setattr(fake, "break_run", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fresh.encode(region(shape))
    assert stream.done == stream.queued > 0
    logits = fresh.decode(fresh.encode(region(shape)), *prompts(shape, 1, 1))
    np.testing.assert_allclose(logits, expected(small_export, shape, 0, 1, 1), atol=1e-5)


def test_plans_whose_ends_are_no_plain_arrays_are_refused(
    fake: Fake, cache: Path, fresh: Any, small_export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fake, "channels", 3)
        with pytest.raises(
            PlanError, match=r"whose embedding has the shape \(1, 3, 4, 4, 4\), expected \(1, 8, 4, 4, 4\)"
        ):
            fresh.encode(region((8, 8, 8)))
    fresh.encode(region((8, 8, 8)))
    with monkeypatch.context() as patch:
        patch.setattr(fake, "on_host", {"point_labels"})
        with pytest.raises(PlanError, match="whose point_labels is on the HOST in the layout LINEAR, expected DEVICE"):
            open_engine(small_export.bundle, "tensorrt")
    layouts = fresh._execution._encoder._engine._header["layouts"]
    monkeypatch.setitem(layouts, "image", "HWC8")
    from gstk.engines.tensorrt_runs import _require_plain

    with pytest.raises(PlanError, match="whose image is on the DEVICE in the layout HWC8"):
        _require_plain(fresh._execution._encoder._engine, "image")


def test_no_room_for_a_graph_s_context(fresh: Any, fake: Fake, small_export: Any, caplog: Any) -> None:
    shape = (8, 8, 8)
    embedding, request = fresh.encode(region(shape)), prompts(shape, 1, 1)
    fresh.decode(embedding, *request)
    fake.most_contexts = fake.contexts
    try:
        found = [fresh.decode(embedding, *request) for _ in range(4)]
    finally:
        fake.most_contexts = None
    assert fake.cuda.launches == 0
    assert caplog.text.count("no CUDA graph") == 1
    for logits in found:
        np.testing.assert_allclose(logits, expected(small_export, shape, 0, 1, 1), atol=1e-5)


def test_encodes_and_decodes_from_threads(fresh: BundleEngine, small_export: Any) -> None:
    """While regions of many sizes are encoded, which moves the memory, decodes of others stay right."""
    shape = (8, 8, 8)
    embedding, request = fresh.encode(region(shape)), prompts(shape, 2, 2)
    wanted = expected(small_export, shape, 0, 2, 2)
    stop, wrong = threading.Event(), []

    def click() -> None:
        while not stop.is_set():
            error = np.abs(fresh.decode(embedding, *request) - wanted).max()
            if error > 1e-5:
                wrong.append(error)

    clicking = threading.Thread(target=click)
    clicking.start()
    for turn in range(12):
        side = 8 + 4 * (turn % 8)
        fresh.encode(region((side, side, 8), turn))
    stop.set()
    clicking.join()
    assert not wrong


def test_nobody_queues_into_a_capture(fresh: BundleEngine, fake: Fake, small_export: Any) -> None:
    shape, others = (8, 8, 8), []

    def intrude() -> None:
        others.append(threading.Thread(target=fresh.encode, args=(region(shape, 1),)))
        others[0].start()
        others[0].join(0.3)  # it has to wait for the capture to end, and does not end here

    embedding, request = fresh.encode(region(shape)), prompts(shape, 1, 1)
    fake.on_capture = intrude
    try:
        found = [fresh.decode(embedding, *request) for _ in range(4)]
    finally:
        fake.on_capture = None
    others[0].join()
    assert fake.cuda.launches == 2
    assert sum(stream.intruders for stream in fake.cuda.streams.values()) == 0
    for logits in found:
        np.testing.assert_allclose(logits, expected(small_export, shape, 0, 1, 1), atol=1e-5)


class OnGPU:
    """An array of a host program in the stand-in's memory."""

    def __init__(self, fake: Fake, values: np.ndarray, offset: int = 0, stream: int | None = None) -> None:
        from fake_tensorrt import _array

        start = fake.cuda.allocate(fake.cuda.device, values.nbytes + offset)
        self.address, self.values = start + offset, values
        self.array = _array(fake.cuda, self.address, values.shape, values.dtype)
        self.interface = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": stream,
        }
        if stream is None:
            self.array[...] = values
        else:  # the host has only queued what writes it
            fake.cuda.stream(stream).add(lambda: np.copyto(self.array, values))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


@pytest.mark.parametrize(("offset", "stream"), [(0, None), (4, None), (0, 1), (4, 1)])
def test_arrays_on_the_gpu_stay_there(
    fresh: Any, fake: Fake, small_export: Any, offset: int, stream: int | None
) -> None:
    from fake_tensorrt import _array

    shape = (8, 12, 16)
    image = OnGPU(fake, region(shape), offset, stream)
    embedding = fresh.encode_device(image)
    wanted = expected(small_export, shape, 0, 3, 2)
    found = fresh.decode_device(embedding, *prompts(shape, 3, 2))
    assert found.shape == (3, 1, *shape)
    np.testing.assert_allclose(_array(fake.cuda, found.address, found.shape, found.dtype), wanted, atol=1e-5)
    assert found.__cuda_array_interface__["data"] == (found.address, False)
    out = OnGPU(fake, np.zeros((3, 1, *shape), np.float32))
    assert fresh.decode_device(embedding, *prompts(shape, 3, 2), out=out).address == out.address
    np.testing.assert_allclose(out.array, wanted, atol=1e-5)


def test_a_stream_may_be_named(fresh: Any, fake: Fake, small_export: Any) -> None:
    image = OnGPU(fake, region((8, 8, 8)), stream=1)
    image.interface["stream"] = None
    embedding = fresh.encode_device(image, stream=1)
    logits = fresh.decode(embedding, *prompts((8, 8, 8), 1, 1))
    np.testing.assert_allclose(logits, expected(small_export, (8, 8, 8), 0, 1, 1), atol=1e-5)


def test_memory_that_a_host_had_is_not_used_again(fresh: Any, fake: Fake) -> None:
    embedding = fresh.encode(region((8, 8, 8)))
    first = fresh.decode_device(embedding, *prompts((8, 8, 8), 1, 1))
    raw, _ = fake.cuda.device[first.address]
    again = fresh.decode_device(embedding, *prompts((8, 8, 8), 1, 1))
    del first
    fresh.decode_device(embedding, *prompts((8, 8, 8), 1, 1))
    assert all(piece is not raw for piece, _ in fake.cuda.device.values())  # CUDA has it back, after all work is done
    assert again.address in fake.cuda.device


def test_an_array_to_write_to_is_waited_for(fresh: Any, fake: Fake, small_export: Any) -> None:
    """What its program has queued on it, such as a last use of what it held, comes first."""
    shape = (8, 8, 8)
    embedding, request = fresh.encode(region(shape)), prompts(shape, 1, 1)
    out = OnGPU(fake, np.ones((1, 1, *shape), np.float32), stream=1)
    fresh.decode_device(embedding, *request, out=out)
    host = fake.cuda.stream(1)
    host.run(host.queued)
    np.testing.assert_allclose(out.array, expected(small_export, shape, 0, 1, 1), atol=1e-5)


def test_arrays_that_cannot_be_used_are_refused(fresh: Any, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (8, 8, 8)
    embedding, request = fresh.encode(region(shape)), prompts(shape, 1, 1)
    out = OnGPU(fake, np.ones((1, 1, *shape), np.float32))
    out.interface["data"] = (out.address, True)
    with pytest.raises(EngineError, match="got out, an array that is read-only"):
        fresh.decode_device(embedding, *request, out=out)
    image = OnGPU(fake, region(shape))
    monkeypatch.setitem(fake.cuda.elsewhere, image.address, (1, cudaMemoryType.cudaMemoryTypeDevice))
    with pytest.raises(EngineError, match="got image on cuda:1, expected cuda:0"):
        fresh.encode_device(image)
    monkeypatch.setitem(fake.cuda.elsewhere, image.address, (0, cudaMemoryType.cudaMemoryTypeHost))
    with pytest.raises(EngineError, match="no memory of a GPU that CUDA knows; copy it to one"):
        fresh.encode_device(image)
    monkeypatch.setitem(fake.cuda.elsewhere, image.address, (1, cudaMemoryType.cudaMemoryTypeManaged))
    fresh.encode_device(image)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 1, 8, 8, 8), np.float16), "got image of dtype float16, expected float32 as the plan has it"),
        (np.zeros((8, 8, 8), np.float32), r"got an image \(8, 8, 8\), expected \(1, 1, H, W, D\)"),
        (np.zeros((1, 1, 8, 8, 6), np.float32), "multiples of 4"),
    ],
)
def test_wrong_arrays_on_the_gpu_are_named(fresh: Any, fake: Fake, values: np.ndarray, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        fresh.encode_device(OnGPU(fake, values))
    with pytest.raises(EngineError, match="expected an array on an NVIDIA GPU"):
        fresh.encode_device(values)
    embedding = fresh.encode(region((8, 8, 8)))
    with pytest.raises(EngineError, match=r"got out \(.*\), expected \(1, 1, 8, 8, 8\)"):
        fresh.decode_device(embedding, *prompts((8, 8, 8), 1, 1), out=OnGPU(fake, np.zeros(3, np.float32)))


def test_auto_takes_tensorrt_where_there_are_plans(
    fake: Fake, cache: Path, small_export: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(select_module, "nvidia_gpus", lambda: [fake.gpu])
    with open_engine(small_export.bundle) as engine:
        assert engine.name == "tensorrt"
        assert "gstk build has made plans" in engine.reason
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with open_engine(small_export.bundle) as engine:
        assert engine.name != "tensorrt"
        assert "without TensorRT, since got no TensorRT plans of" in engine.reason
        assert "gstk build" in engine.reason
    with pytest.raises(PlanError, match=r"got no TensorRT plans of 'small' in fp32 in .* or .*; run: gstk build "):
        open_engine(small_export.bundle, "tensorrt")


def test_what_is_missing_is_named(fake: Fake, cache: Path, small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        return next(entry.note for entry in probe() if entry.name == "tensorrt")

    def none() -> list[Device]:
        raise DriverMissing("no NVIDIA driver (libcuda.so.1 is not there); install NVIDIA's driver")

    with pytest.raises(BackendMissing, match="got device 'cpu', but the tensorrt engine has cuda:0"):
        open_engine(small_export.bundle, "tensorrt", device="cpu")
    with monkeypatch.context() as patch:
        # Without a GPU TensorRT's runtime crashes the process: it is not touched.
        patch.setattr("gstk.engines.tensorrt_package.nvidia_gpus", none)
        patch.setattr(fake.module, "Runtime", None)
        with pytest.raises(DriverMissing, match="install NVIDIA's driver"):
            open_engine(small_export.bundle, "tensorrt")
        with pytest.raises(DriverMissing, match="install NVIDIA's driver"):
            build_plans(small_export.bundle)
        assert reason().startswith("cannot be used: no NVIDIA driver")
    with monkeypatch.context() as patch:
        patch.setattr(fake.module, "__version__", "10.11.0.33")
        with pytest.raises(BackendMissing, match=r"got TensorRT 10\.11\.0\.33, expected 10\.12 or newer"):
            open_engine(small_export.bundle, "tensorrt")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cuda.bindings.runtime", None)
        with pytest.raises(BackendMissing, match=r"TensorRT 10\.13\.0\.35 is here, but cuda-bindings is not"):
            open_engine(small_export.bundle, "tensorrt")
    with monkeypatch.context() as patch:
        patch.setattr(fake.module.__spec__, "origin", None)  # type stubs, as mypy wants them, are no TensorRT
        with pytest.raises(BackendMissing, match=r'TensorRT is not installed; pip install "gstk\[tensorrt\]"'):
            open_engine(small_export.bundle, "tensorrt")
        patch.setattr(select_module, "nvidia_gpus", none)
        assert "not installed" in reason()
        assert "it also needs an NVIDIA GPU: no NVIDIA driver" in reason()


def test_profiles_keep_tensors_below_the_limit() -> None:
    roi = RoiRules(16, 32, (128, 128, 128), 2**31 // 48)
    profiles = Profiles.choose(roi, [(96, 96, 96), (160, 160, 160)], (64, 128, 256), 8, 32)
    assert [profile.objects for profile in profiles.ranges] == [8, 8, 2]
    for profile in profiles.ranges:
        assert 48 * profile.objects * math.prod(profile.most) < 2**31
    assert profiles.shapes("embedding", [1, 48, -1, -1, -1])[2] == (
        (1, 48, 32, 32, 32),
        (1, 48, 64, 64, 64),
        (1, 48, 128, 128, 128),
    )
    assert profiles.shapes("point_coords", [-1, -1, 3])[0] == ((1, 1, 3), (1, 4, 3), (8, 32, 3))
    assert Profiles.from_json(profiles.to_json()) == profiles
    assert str(profiles) == "96x96x96, 160x160x160, 64:128:256"
    assert profiles.find((64, 128, 256)) == 2
    assert profiles.find((64, 128, 272)) is None
    assert Profile((8, 8, 8), (8, 8, 8), (8, 8, 8), 1).is_static
    for regions, wide, message in (
        ([], None, "got no region"),
        ([(100, 96, 96)], None, "multiples of 16"),
        ([(16, 96, 96)], None, "at least 32"),
        ([(512, 512, 512)], None, "at most 44739242 voxels"),
        ([], (128, 64, 256), "rising sides"),
    ):
        with pytest.raises(PlanError, match=message):
            Profiles.choose(roi, regions, wide, 8, 32)

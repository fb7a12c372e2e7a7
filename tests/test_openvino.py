"""The OpenVINO engine: compiled graphs, caches, and the rewrites of graphs at load."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_inputs import INSTALLED, prompts, region
from numpy.typing import NDArray

from gstk.calibration import memory
from gstk.core.bundle import Bundle, builtin
from gstk.engines import open_engine
from gstk.errors import EngineError, OutOfMemory

pytestmark = pytest.mark.skipif("openvino" not in INSTALLED, reason="needs OpenVINO")


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
    read = module.read_model
    monkeypatch.setattr(module, "read_model", lambda *_: pytest.fail("compiled again"))
    np.testing.assert_allclose(answer(), first, atol=1e-5)
    monkeypatch.setattr(module, "read_model", read)
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    np.testing.assert_allclose(answer(), first, atol=1e-5)
    anew = files[0].read_bytes()
    assert anew[:32] == hashlib.sha256(anew[32:]).digest()
    np.testing.assert_allclose(answer(hyper_threading="off"), first, atol=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 4  # other settings, other files


def test_a_cache_that_cannot_be_written_costs_nothing(small_export: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with open_engine(small_export.bundle, "openvino", options={"cache": blocked}) as engine:
        engine.encode(region((8, 8, 8)))
    assert blocked.read_text() == "not a folder"


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


def norm_error(
    image: NDArray[np.float32], stride: int, every: bool, squares: bool, by_eights: bool, multiple: int = 8
) -> float:
    """Largest error of a rewritten norm of every `stride`-th voxel, between convolutions, where the plugin works
    channels-last."""
    import openvino
    from openvino import opset13 as ops

    from gstk.engines.openvino import shared_core
    from gstk.engines.openvino_norm import split_instance_norms

    channels = image.shape[1]
    x = ops.parameter([1, channels, -1, -1, -1], np.float32, name="image")
    x.output(0).set_names({"image"})
    eye = np.eye(channels, dtype=np.float32)[:, :, None, None, None]
    values = ops.convolution(x, eye, [stride] * 3, [0, 0, 0], [0, 0, 0], [1, 1, 1])
    norm = ops.mvn(values, np.array([2, 3, 4], np.int64), True, 1e-5, "INSIDE_SQRT")
    after = ops.convolution(norm, eye, [1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1])
    model = openvino.Model([after], [x], "norm")
    # Blocks of 8, of 4, and none; or all of them.
    assert split_instance_norms(model, multiple, every, squares, by_eights) == (every or multiple // stride >= 4)
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    exact = image[:, :, ::stride, ::stride, ::stride].astype(np.float64)
    mean, variance = exact.mean((2, 3, 4), keepdims=True), exact.var((2, 3, 4), keepdims=True)
    return float(np.abs(compiled([image])[0] - (exact - mean) / np.sqrt(variance + 1e-5)).max())


@pytest.mark.parametrize(
    ("every", "squares", "by_eights"),
    [(False, False, False), (True, False, False), (True, False, True), (False, True, False)],
)
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("shape", [(64, 64, 64), (8, 72, 40), (8, 8, 8)])
def test_instance_norm_of_openvino_is_exact(
    shape: tuple[int, int, int], stride: int, every: bool, squares: bool, by_eights: bool
) -> None:
    """Of a region with a mean far from 0."""
    channels = 8
    means = np.linspace(0, 3, channels).reshape(-1, 1, 1, 1)
    image = np.random.default_rng(0).normal(means, 1, (1, channels, *shape)).astype(np.float32)
    assert norm_error(image, stride, every, squares, by_eights) < (2e-5 if squares else 5e-6)


@pytest.mark.parametrize(("stride", "multiple"), [(1, 8), (8, 8), (2, 12)])
def test_instance_norm_of_a_class_encoder_is_exact_where_most_voxels_are_air(stride: int, multiple: int) -> None:
    """Blocks of a constant all round the same way, so errors of long sums would not cancel out."""
    shape = (72, 48, 72)
    rng = np.random.default_rng(0)
    image = np.broadcast_to(rng.uniform(-3, 3, (1, 8, 1, 1, 1)), (1, 8, *shape)).astype(np.float32)
    image[:, :, :8] += rng.normal(0, 1, (1, 8, 8, *shape[1:])).astype(np.float32)
    assert norm_error(image, stride, True, False, True, multiple) < 5e-6


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


def test_what_comes_between_shares_no_shape_in_any_layer(small_export: Any) -> None:
    """Else a layer that the ended run did not reach goes on with what it prepared for the run before."""
    rng = np.random.default_rng(4)

    def shapes_of(sides: tuple[int, ...], halves: int, multiple: int) -> list[tuple[int, ...]]:
        """Of the tensors of each level, the rows in them, the counts of blocks in them, and all voxels in a row."""
        levels = [tuple(side * halves // 2**level for side in sides) for level in range(multiple.bit_length())]
        rows = [level[:2] for level in levels]
        return [*levels, *rows, *(tuple(-(-side // 8) for side in level) for level in levels), (int(np.prod(sides)),)]

    with open_engine(small_export.bundle, "openvino") as engine:
        for _ in range(200):
            half = int(rng.integers(0, 2))
            sides = [tuple(int(n) for n in rng.integers(2, 20, 3) * 8) for _ in range(2)]
            runs = [(*(side // 2 for side in run), int(rng.integers(1, 4))) if half else run for run in sides]
            given = {"image": np.zeros(1, np.float32), "embedding": np.zeros((1, 1, 1, 1, 8), np.float32)}
            found = engine._other_inputs(half, runs, given)  # type: ignore[attr-defined]
            other = found["embedding"].shape[1:4] if half else found["image"].shape[2:]
            per_run = [shapes_of(run[:3], half + 1, engine._multiple) for run in (*runs, other)]
            for before, ended, between in zip(*per_run, strict=True):
                assert before == ended or between not in (before, ended)
            if half:
                assert found["point_labels"].shape[1] not in (run[3] for run in runs)
            assert np.prod(other) < 0.2 * 8**half * 64 * 160**2


def test_classes_alone_load_no_graphs_for_clicks(by_class: Bundle) -> None:
    image = np.random.default_rng(6).random((1, 1, 32, 32, 48), np.float32)
    with (
        open_engine(by_class, "openvino") as both,
        open_engine(by_class, "openvino", clicks_later=True) as engine,
    ):
        first = engine.class_features(image)
        kept = first.copy()
        np.testing.assert_array_equal(kept, both.class_features(image))
        engine.class_features(1 - image)
        np.testing.assert_array_equal(first, kept)  # the next window writes elsewhere
        assert not engine._graphs  # type: ignore[attr-defined]
        prompts = [[[9, 9, 9]]], [[1]]
        np.testing.assert_array_equal(
            engine.decode(engine.encode(image), *prompts), both.decode(both.encode(image), *prompts)
        )


def test_signals_are_handled_after_engines_that_close_in_the_order_they_opened(small_export: Any) -> None:
    """Each of OpenVINO's cores puts back the stack for signal handlers that it found, be it freed or not."""
    program = """
import gc, os, signal, sys
from gstk.calibration import memory
from gstk.core.bundle import Bundle, builtin
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


def test_the_last_product_becomes_a_convolution_of_equal_result(small_export: Any) -> None:
    from gstk.engines.openvino import shared_core
    from gstk.engines.openvino_fold import add_to_row, convolve_last_product

    core = shared_core()
    plain, folded = (core.read_model(small_export.bundle.graph("prompt_decoder")) for _ in range(2))
    assert convolve_last_product(plain) == add_to_row(plain) == 0  # with B free, one kernel serves no convolution
    folded.reshape({"point_coords": [1, -1, 3], "point_labels": [1, -1]})
    assert convolve_last_product(folded) == 1
    assert convolve_last_product(folded) == 0
    assert add_to_row(folded) == 1
    assert add_to_row(folded) == 0
    convolutions = [node for node in folded.get_ordered_ops() if node.get_type_name() == "Convolution"]
    maps = [node.get_output_partial_shape(0)[1].get_length() for node in convolutions]
    assert maps == [9, 3, 1]  # not 27, which are never written
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


class Idle:
    """An infer request that ends without an error and without a result, as OpenVINO's do where memory is short."""

    def __init__(self, request: Any) -> None:
        self.request = request

    def infer(self, inputs: Any, share_inputs: bool) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.request, name)


@pytest.mark.parametrize("index", [0, 1])
def test_what_an_earlier_run_wrote_is_not_taken_for_an_answer(small_export: Any, index: int) -> None:
    shape = (8, 8, 8)
    with open_engine(small_export.bundle, "openvino") as engine:
        embedding = engine.encode(region(shape))
        expected = engine.decode(embedding, *prompts(shape, 1, 1))
        graphs = engine._graphs_for(shape)  # type: ignore[attr-defined]
        working = graphs.requests[index]
        graphs.requests[index] = Idle(working)
        with pytest.raises(OutOfMemory, match="what an earlier run wrote"):
            engine.encode(region(shape)) if index == 0 else engine.decode(embedding, *prompts(shape, 1, 1))
        graphs.requests[index] = working
        np.testing.assert_array_equal(engine.decode(engine.encode(region(shape)), *prompts(shape, 1, 1)), expected)


def test_what_an_earlier_window_of_classes_wrote_is_not_taken_for_an_answer(by_class: Bundle) -> None:
    with open_engine(by_class, "openvino") as engine:
        expected = engine.class_features(region((8, 12, 16)))
        graphs = engine._class_graphs  # type: ignore[attr-defined]
        working = graphs.requests[0]
        graphs.requests[0] = Idle(working)
        with pytest.raises(OutOfMemory, match="what an earlier run wrote"):
            engine.class_features(region((8, 12, 16)))
        graphs.requests[0] = working
        engine.class_features(region((8, 8, 8)))
        np.testing.assert_array_equal(engine.class_features(region((8, 12, 16))), expected)


def test_memory_of_many_points_is_given_back() -> None:
    """A thousand clicks on one object, then another object."""
    bundle = Bundle.open(builtin("tiny"), verify=False)
    side = (48, 64, 64)
    with open_engine(bundle, "openvino", threads=1) as engine:
        embedding = engine.encode(region(side))
        few = prompts(side, 1, 4)
        expected = engine.decode(embedding, *few)
        before = memory.resident_bytes()
        engine.decode(embedding, *prompts(side, 1, 400))
        grown = memory.resident_bytes() - before
        assert grown > 100e6
        np.testing.assert_array_equal(engine.decode(embedding, *few), expected)
        assert memory.resident_bytes() - before < grown / 2

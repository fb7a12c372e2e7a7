"""The C++ host with TensorRT, on stand-ins for it and for CUDA; the plans are those that Python builds with its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_build import ENVIRONMENT, FAKES, ROOT, needs_a_compiler, run
from cpp_replay import agreement, clicks_and_a_box, phantom, replay_cpp, replay_python, volume_of
from fake_tensorrt import installed

import gstk
from gstk.core.bundle import Bundle, builtin
from gstk.engines import open_engine
from gstk.engines.tensorrt_build import build_plans
from gstk.engines.tensorrt_record import Settings

pytest.importorskip("onnxruntime", reason="Python's stand-in computes with ONNX Runtime")
pytestmark = needs_a_compiler

TINY = builtin("tiny")
ENGINE, DRIVER, DEVICE, ARCHITECTURE, PLAN = 9, 15, 16, 17, 18
"""Codes of gstk.h."""


@pytest.fixture(scope="module")
def plans(every_precision: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plans of the small bundle in every precision."""
    folder = tmp_path_factory.mktemp("plans")
    with installed():
        for precision in ("fp32", "fp16", "int8"):
            regions, wide = [(16, 16, 16), (32, 48, 32)], (16, 32, 64)
            build_plans(every_precision, precision, regions=regions, wide=wide, objects=4, points=6, plans=folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Plans of `tiny` where they are looked for without being told."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with installed():
        build_plans("tiny", "fp32", regions=[(64, 64, 64)], wide=(16, 64, 128))
        yield tmp_path / "cache"


def engine_run(
    checked: Path, bundle: Path, precision: str, folder: Path, plans: Path, device: str = "cuda", **fake: object
) -> subprocess.CompletedProcess[str]:
    """An encode and a decode of three objects; the region is 32 x 48 x 32."""
    rng = np.random.default_rng(8)
    image = rng.random((32, 48, 32)).astype(np.float32)
    coords = rng.integers(0, 32, (3, 3, 3)).astype(np.float32)
    labels = np.array([[1, -1, -1], [2, 3, 0], [1, 1, -1]])
    np.savez(folder / "in.npz", image=image, coords=coords, labels=labels)
    given = [checked / "engine_run", "tensorrt", bundle, precision, folder / "in.npz", folder / "out.raw"]
    settings = {f"FAKE_{name}": str(value) for name, value in {"GPUS": 1, **fake}.items()}
    return subprocess.run(
        [*map(str, [*given, device, plans])],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **ENVIRONMENT, **settings},
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 0.02), ("int8", 0.1)])
def test_engines_compute_what_others_do(
    checked: Path, every_precision: Bundle, plans: Path, tmp_path: Path, precision: str, tolerance: float
) -> None:
    done = engine_run(checked, every_precision.path, precision, tmp_path, plans, LOG=tmp_path / "log")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "in.npz") as given, open_engine(every_precision, "onnxruntime", precision) as engine:
        expected = engine.decode(engine.encode(given["image"][None, None]), given["coords"], given["labels"])
    found = np.fromfile(tmp_path / "out.raw", np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    encode, decode = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert encode["profile"] == decode["profile"] == 1  # of that region alone, though the wide one admits it too
    assert encode["shapes"] == {"image": [1, 1, 32, 48, 32]}
    # Three objects in a group of four, their three points padded with an ignored one.
    assert decode["shapes"]["point_coords"] == [4, 4, 3]
    assert decode["shapes"]["embedding"][2:] == [16, 24, 16]


def test_the_wide_profile_takes_the_rest(checked: Path, every_precision: Bundle, tmp_path: Path) -> None:
    with installed():
        build_plans(every_precision, "fp32", regions=[(16, 16, 16)], wide=(16, 32, 64), plans=tmp_path / "plans")
    log = tmp_path / "log"
    done = engine_run(checked, every_precision.path, "fp32", tmp_path, tmp_path / "plans", LOG=log, SHY=1)
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["profile"] for line in log.read_text().splitlines()} == {1}


@pytest.mark.parametrize(
    ("what", "settings"),
    [("calls", {}), ("memory", {"FAKE_MEMORY_BYTES": "8000000"}), ("lost", {"FAKE_BREAK_AT": "2"})],
)
def test_calls(checked: Path, every_precision: Bundle, tmp_path: Path, what: str, settings: dict[str, str]) -> None:
    with installed():
        wide = (16, 32, 32)
        build_plans(every_precision, "fp32", [(16, 16, 16)], wide, objects=4, points=6, plans=tmp_path)
    print(run(checked / "gpu", every_precision.path, tmp_path, what, FAKE_GPUS="1", **settings))


@pytest.mark.parametrize("settings", [{}, {"FAKE_NO_CAPTURE": "1"}, {"FAKE_NO_CONTEXT": "3"}])
def test_a_click_more_needs_no_graph_more(
    checked: Path, every_precision: Bundle, tmp_path: Path, settings: dict[str, str]
) -> None:
    """Of 48 decodes of one to six points: two shapes, each run plainly, flushed in its context, captured, launched."""
    with installed():
        build_plans(every_precision, "fp32", [(16, 16, 16)], (16, 32, 32), objects=4, points=6, plans=tmp_path)
    log = tmp_path / "log"
    run(checked / "gpu", every_precision.path, tmp_path, "graphs", FAKE_GPUS="1", FAKE_LOG=str(log), **settings)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    small = [line for line in lines if line["shapes"].get("embedding", [])[2:] == [8, 8, 8]]
    counts = [line["shapes"]["point_coords"][1] for line in small]
    assert set(counts) == {4, 6}
    if not settings:
        # Six, and after memory moved one that is flushed again and one that is captured.
        assert [line["captured"] for line in small] == [False, False, True, False, False, True, False, True]
    else:
        assert len(small) == 48 + 3
        assert not any(line["captured"] for line in small)


def test_auto_takes_tensorrt_where_there_are_plans(checked: Path, cache: Path, tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 3, 40)
    lines = clicks_and_a_box(case)
    volume = volume_of(case, tmp_path / "case.npz")
    with gstk.open("tiny", backend="openvino", threads=2, refine=False) as session:
        expected = replay_python(session, volume, lines)
    for gpus in ("1", "0", "-1"):
        log = tmp_path / f"log{gpus}"
        settings = {"refine": 0, "FAKE_GPUS": gpus, "FAKE_LOG": log}
        found = replay_cpp(checked / "replay", TINY, volume, lines, tmp_path, **settings)
        assert log.exists() == (gpus == "1")
        assert expected.masks.any(axis=(1, 2, 3)).sum() > 4
        assert agreement(found, expected) >= 0.9999


def test_calls_end_in_time_or_when_they_are_cancelled(checked: Path, cache: Path) -> None:
    run(checked / "timed", TINY, FAKE_GPUS="1", FAKE_RUN_MS="20")


@pytest.mark.parametrize(
    ("fake", "device", "code", "message"),
    [
        ({"GPUS": 0}, "cuda", DRIVER, "no CUDA-capable device"),
        ({"GPUS": -1}, "cuda", DRIVER, "driver version is insufficient"),
        ({"GPUS": 2}, "cuda:2", DRIVER, "take cuda:0 to cuda:1"),
        ({"GPU_NAME": "NVIDIA L4"}, "cuda", ARCHITECTURE, r"NVIDIA Fake 24GB \(8\.9\), expected NVIDIA L4 \(8\.9\)"),
        ({"VERSION": "10.14.1.2"}, "cuda", PLAN, r"for TensorRT 10\.13\.0\.35, expected 10\.14\.1\.2; run: gstk build"),
        ({"VERSION": "10.11.0.1"}, "cuda", 10, r"got TensorRT 10\.11\.0\.1, expected 10\.12 or newer"),
        ({"CUDA": 12080}, "cuda", PLAN, r"driver for CUDA 13\.0, on one for 12\.8"),
        ({"ON_HOST": "point_labels"}, "cuda", PLAN, "whose point_labels is no row-major array in GPU memory"),
        ({"WIDE": "embedding"}, "cuda", PLAN, "whose embedding would be written beyond the memory for it"),
        ({"WIDE": "logits"}, "cuda", PLAN, "whose logits would be written beyond the memory for it"),
        ({"REFUSE": 1}, "cuda", DEVICE, "an illegal memory access was encountered; start another process"),
    ],
)
def test_what_cannot_run_here_is_named(
    checked: Path,
    every_precision: Bundle,
    plans: Path,
    tmp_path: Path,
    fake: dict[str, object],
    device: str,
    code: int,
    message: str,
) -> None:
    done = engine_run(checked, every_precision.path, "fp32", tmp_path, plans, device, **fake)
    assert done.returncode == 1
    assert re.match(rf"error {code}: .*{message}", done.stderr), done.stderr


@pytest.mark.parametrize(
    "fault", ["none", "stale", "altered", "others", "record", "stripped", "gone", "no plan at all"]
)
def test_foreign_plans_are_refused(checked: Path, every_precision: Bundle, tmp_path: Path, fault: str) -> None:
    plans = tmp_path / "plans"
    settings = Settings(stripped=fault == "stripped")
    if fault != "none":
        with installed():
            regions = [(32, 48, 32)]
            results = build_plans(every_precision, "fp32", regions, None, settings=settings, plans=plans)
        plan = results[0].plan.path
        sidecar = plan.with_suffix(".json")
        record: dict[str, Any] = json.loads(sidecar.read_text())
    if fault == "stale":
        sidecar.write_text(json.dumps(record | {"graph": "0" * 64}))
    elif fault == "altered":
        plan.write_bytes(plan.read_bytes() + b"!")
    elif fault == "others":
        plans.chmod(0o777)
    elif fault == "record":
        del record["profiles"]["ranges"][0]["most"]
        sidecar.write_text(json.dumps(record))
    elif fault == "gone":
        plan.unlink()
    elif fault == "no plan at all":
        plan.write_bytes(b"what is this?")
        sidecar.write_text(json.dumps(record | {"sha256": sha256(b"what is this?").hexdigest()}))
    words = {
        "none": "got no TensorRT plans of .* run: gstk build .* --precision fp32",
        "stale": "is stale: it was built from another encoder",
        "altered": "is not the plan that the file beside it describes",
        "others": "can be written to by others, and a plan is a program",
        "record": "profiles.ranges.most in the file beside a plan",
        "stripped": "build it without --stripped",
        "gone": "cannot read",
        "no plan at all": "tensorrt failed to load the plans of .*magicTag",
    }
    done = engine_run(checked, every_precision.path, "fp32", tmp_path, plans)
    assert done.returncode == 1
    assert re.match(rf"error {ENGINE if fault == 'no plan at all' else PLAN}: .*{words[fault]}", done.stderr), (
        done.stderr
    )


@pytest.mark.parametrize(
    ("settings", "fake", "runs"),
    [
        (Settings(hardware="same-capability"), {"GPU_NAME": "NVIDIA L4"}, True),
        (Settings(hardware="ampere-plus"), {"GPU_NAME": "NVIDIA L4"}, True),
        (Settings(version_compatible=True), {"VERSION": "10.16.1.3"}, True),
        (Settings(version_compatible=True), {"VERSION": "11.4.0.106"}, True),
        (Settings(version_compatible=True), {"VERSION": "10.12.0.9"}, False),
        (Settings(version_compatible=True), {"VERSION": "12.0.0.1"}, False),
    ],
)
def test_what_compatible_plans_run_on(
    checked: Path, every_precision: Bundle, tmp_path: Path, settings: Settings, fake: dict[str, object], runs: bool
) -> None:
    with installed():
        regions = [(32, 48, 32)]
        build_plans(every_precision, "fp32", regions, None, settings=settings, plans=tmp_path / "plans")
    done = engine_run(checked, every_precision.path, "fp32", tmp_path, tmp_path / "plans", **fake)
    assert (done.returncode == 0) == runs, done.stderr


def test_names_are_tensorrts() -> None:
    """Each method of TensorRT that the stand-in has, and so the engine may use, is one that both versions have."""
    python = {
        "getTensorDataType": "get_tensor_dtype",
        "getDeviceMemorySizeForProfileV2": "get_device_memory_size_for_profile_v2",
        "setDeviceMemoryV2": "set_device_memory",
        "enqueueV3": "execute_async_v3",
        "setEngineHostCodeAllowed": "engine_host_code_allowed",
        "log": "log",
        "getNbIOTensors": "num_io_tensors",
        "getIOTensorName": "get_tensor_name",
        "getNbOptimizationProfiles": "num_optimization_profiles",
    }
    header = (FAKES / "NvInfer.h").read_text()
    old, new = (
        json.loads((ROOT / "tests" / "data" / f"tensorrt_{version}_names.json").read_text())["classes"]
        for version in ("10_13", "11_4")
    )
    seen = 0
    for kind, body in re.findall(r"^class (I\w+) \{(.*?)^\};", header, re.DOTALL | re.MULTILINE):
        name = kind.removeprefix("I") if kind == "IRuntime" else kind
        for method in re.findall(r"virtual [^~\n]*?(\w+)\(", body):
            snake = python.get(method) or re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()
            assert snake in old[name]["members"], f"{kind}.{method}"
            assert snake in new[name], f"{kind}.{method}"
            seen += 1
    assert seen > 12

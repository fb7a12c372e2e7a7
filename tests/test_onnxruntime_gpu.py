"""ONNX Runtime on a GPU, as far as it can be seen without one: what its sessions are asked for, and what is refused.

The runtime's own names are checked by the sessions that run on the processor through the same calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gstk.engines import Device
from gstk.engines import onnxruntime as module
from gstk.engines.onnxruntime import ONNXRuntimeEngine
from gstk.errors import BackendMissing, EngineError

onnxruntime = pytest.importorskip("onnxruntime")
GPU = Device("cuda:1", "NVIDIA H200", (9, 0))


class Session:
    """A session that remembers what it was opened with, and runs on the processor."""

    opened: list[tuple[str, list[tuple[str, dict[str, str]]]]]
    fails = False

    def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.opened.append((Path(path).name, providers))
        self._names = ["CPUExecutionProvider"] if self.fails else [name for name, _ in providers]
        self._real = REAL(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return self._names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


REAL = onnxruntime.InferenceSession


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    kind = type("Recording", (Session,), {"opened": []})
    monkeypatch.setattr(onnxruntime, "InferenceSession", kind)
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(module, "nvidia_gpus", lambda: [Device("cuda:0", "NVIDIA L4", (8, 9)), GPU])
    return kind


def test_a_gpu_is_listed_where_the_build_and_the_driver_have_it(gpu: type[Session]) -> None:
    assert [device.id for device in ONNXRuntimeEngine.devices()] == ["cuda:0", "cuda:1", "cpu"]


def test_cuda_settings(gpu: type[Session], small_export: Any) -> None:
    options = {"memory_limit_mb": 4096, "conv_search": "exhaustive", "tf32": "on"}
    with ONNXRuntimeEngine(small_export.bundle, device="cuda:1", options=options) as engine:
        assert engine.device == GPU
    assert [name for name, _ in gpu.opened] == ["encoder.onnx", "prompt_decoder.onnx"]
    for _, providers in gpu.opened:
        assert [name for name, _ in providers] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
        settings = providers[0][1]
        assert settings["device_id"] == "1"
        assert settings["cudnn_conv_algo_search"] == "EXHAUSTIVE"
        assert settings["gpu_mem_limit"] == str(2 * 2**30)
        assert settings["use_tf32"] == "1"


def test_strict_float32_and_heuristic_search_are_the_default(gpu: type[Session], small_export: Any) -> None:
    ONNXRuntimeEngine(small_export.bundle, device="cuda").close()
    settings = gpu.opened[0][1][0][1]
    assert (settings["cudnn_conv_algo_search"], settings["use_tf32"]) == ("HEURISTIC", "0")
    assert "gpu_mem_limit" not in settings


def test_a_provider_that_does_not_start_is_not_passed_over(gpu: type[Session], small_export: Any) -> None:
    gpu.fails = True
    with pytest.raises(BackendMissing, match=r"cannot start its CUDAExecutionProvider.*--device cpu"):
        ONNXRuntimeEngine(small_export.bundle, device="cuda")


def test_tensorrt_gets_one_explicit_profile_and_a_cache_of_its_own(
    gpu: type[Session], small_export: Any, tmp_path: Path
) -> None:
    options = {"tensorrt": "on", "tensorrt_profile": "8:16:24", "tensorrt_cache": tmp_path}
    with ONNXRuntimeEngine(small_export.bundle, device="cuda:1", options=options) as engine:
        for shape in ((8, 8, 32), (28, 8, 8)):
            with pytest.raises(EngineError, match=r"expected sides in 8\.\.24"):
                engine.encode(np.zeros((1, 1, *shape)))
    (_, encoder), (_, decoder) = gpu.opened
    assert [name for name, _ in encoder][:2] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    settings = encoder[0][1]
    assert settings["trt_profile_min_shapes"] == "image:1x1x8x8x8"
    assert settings["trt_profile_max_shapes"] == "image:1x1x24x24x24"
    assert settings["trt_fp16_enable"] == "False"
    settings = decoder[0][1]
    assert settings["trt_profile_opt_shapes"] == "embedding:1x8x8x8x8,point_coords:1x4x3,point_labels:1x4"
    folder = Path(settings["trt_engine_cache_path"])
    assert folder.parent == tmp_path
    assert folder.is_dir()
    with ONNXRuntimeEngine(small_export.bundle, device="cuda:0", options=options):
        pass  # another GPU, another folder
    assert gpu.opened[2][1][0][1]["trt_engine_cache_path"] != str(folder)


@pytest.mark.parametrize("profile", ["64", "a:b:c", "8:4:16", "8:16:18", "0:8:16", "8:16:4096"])
def test_a_profile_that_is_none_is_named(gpu: type[Session], small_export: Any, profile: str) -> None:
    with pytest.raises(EngineError, match=f"got tensorrt_profile={profile}"):
        ONNXRuntimeEngine(small_export.bundle, device="cuda", options={"tensorrt": True, "tensorrt_profile": profile})


def test_settings_of_another_device_are_refused(gpu: type[Session], small_export: Any) -> None:
    with pytest.raises(EngineError, match="got options for a GPU with device cpu"):
        ONNXRuntimeEngine(small_export.bundle, device="cpu", options={"tf32": "on"})
    with pytest.raises(EngineError, match="got option arena for cuda:0"):
        ONNXRuntimeEngine(small_export.bundle, device="cuda", options={"arena": "on"})
    with pytest.raises(EngineError, match="got 2 threads for cuda:0"):
        ONNXRuntimeEngine(small_export.bundle, device="cuda", threads=2)


def test_a_build_without_tensorrt_says_so(
    gpu: type[Session], small_export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(BackendMissing, match="is a build without TensorRT"):
        ONNXRuntimeEngine(small_export.bundle, device="cuda", options={"tensorrt": True})

"""What devices are here, what a name of one stands for, and what a backend's error means."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gstk.engines import Device, devices, failures, open_engine, preferred, probe, select
from gstk.engines.devices import find_device, nvidia_gpus, read_driver
from gstk.engines.failures import failure, lost_device, refuse_lost_device
from gstk.errors import (
    BackendMissing,
    DeviceError,
    DriverMissing,
    EngineError,
    OutOfMemory,
    WrongArchitecture,
)

GPUS = [Device("cuda:0", "A", (8, 0)), Device("cuda:1", "B", (9, 0))]
CPU = Device("cpu", "C")


class Driver:
    """The functions of the CUDA driver that are asked, as its header has them."""

    def __init__(self, gpus: list[Device], status: int = 0) -> None:
        self.gpus, self.status = gpus, status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = 100 + ordinal
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:  # noqa: N802
        assert length == len(name)
        name.value = self.gpus[device.value - 100].name.encode()
        return 0

    def cuDeviceGetAttribute(self, found: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        found._obj.value = self.gpus[device.value - 100].capability[{75: 0, 76: 1}[attribute]]
        return 0


def test_the_driver_is_asked() -> None:
    assert read_driver(Driver(GPUS)) == tuple(GPUS)
    assert "shows this process no GPU" in str(read_driver(Driver([])))
    assert "does not start (CUDA error 100)" in str(read_driver(Driver(GPUS, 100)))


def test_gpus_of_this_machine_are_those_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_ask_driver", lambda: tuple(GPUS))
    assert nvidia_gpus() == GPUS
    monkeypatch.setattr(devices, "_ask_driver", lambda: "no driver; do this")
    with pytest.raises(DriverMissing, match="no driver; do this"):
        nvidia_gpus()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("auto", GPUS[0]), ("cuda", GPUS[0]), ("cuda:1", GPUS[1]), ("cpu", CPU)],
)
def test_names_of_devices(wanted: str, found: Device) -> None:
    assert find_device(wanted, [*GPUS, CPU], "x") == found


def test_wrong_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in ("intel", "cuda:", "gpu:x", "cuda:-1", "cpu:0", ""):
        with pytest.raises(EngineError, match=f"got device '{wanted}', expected auto, cpu, cuda, cuda:N, gpu or gpu:N"):
            find_device(wanted, [CPU], "x")
    monkeypatch.setattr(devices, "_ask_driver", lambda: "no NVIDIA driver")
    with pytest.raises(BackendMissing, match=r"'cuda', but the x engine has cpu: C here \(no NVIDIA driver\)"):
        find_device("cuda", [CPU], "x")
    with pytest.raises(BackendMissing, match="'cuda:2', but the x engine has cuda:0: A, cuda:1: B, cpu: C"):
        find_device("cuda:2", [*GPUS, CPU], "x")


@pytest.fixture
def no_error_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_lost", [])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # As torch, ONNX Runtime and TensorRT word them.
        ("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.1 GiB", OutOfMemory),
        ("Failed to allocate memory for requested buffer of size 1073741824", OutOfMemory),
        ("/onnxruntime_src/bfc_arena.cc:376 onnxruntime::BFCArena::AllocateRawInternal", OutOfMemory),
        ("std::bad_alloc", OutOfMemory),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemory),
        ("CUDA error: no kernel image is available for execution on the device", WrongArchitecture),
        ("CUDA driver version is insufficient for CUDA runtime version", DriverMissing),
        ("Found no NVIDIA driver on your system", DriverMissing),
        ("CUDA error: an illegal memory access was encountered", DeviceError),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceError),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", DeviceError),
        ("Input shapes do not match", EngineError),
    ],
)
@pytest.mark.usefixtures("no_error_yet")
def test_errors_are_told_apart(text: str, kind: type[EngineError]) -> None:
    found = failure("x", "decode", RuntimeError(f"{text}\nand a stack trace"))
    assert type(found) is kind
    assert str(found).startswith(f"x failed to decode: {text}")
    assert "stack trace" not in str(found)
    assert (lost_device() is not None) == (kind is DeviceError)


def test_memory_error_of_python() -> None:
    assert isinstance(failure("x", "encode", MemoryError()), OutOfMemory)


class Broken:
    def run_with_iobinding(self, binding: Any, run_options: Any) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")

    def io_binding(self) -> Any:
        class Binding:
            def __getattr__(self, name: str) -> Any:
                return lambda *_: None

        return Binding()

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="embedding", type="tensor(float)")]


@pytest.mark.usefixtures("no_error_yet")
def test_after_a_cuda_error_no_engine_of_the_process_uses_the_gpu(
    small_export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    image = np.zeros((1, 1, 8, 8, 8), np.float32)
    engine, other = (open_engine(small_export.bundle, "onnxruntime") for _ in range(2))
    engine.device = other.device = Device("cuda:0", "A")
    monkeypatch.setattr(engine, "_sessions", [Broken(), Broken()])
    with pytest.raises(DeviceError, match=r"CUDA failure 700.*start another process"):
        engine.encode(image)
    for user in (engine, other):
        with pytest.raises(DeviceError, match="this process had a CUDA error"):
            user.encode(image)
    with pytest.raises(DeviceError):
        refuse_lost_device()
    monkeypatch.setattr(select, "nvidia_gpus", lambda: GPUS)
    with pytest.raises(DeviceError):  # no fallback to the processor that nobody asked for
        open_engine(small_export.bundle)
    with open_engine(small_export.bundle, device="cpu") as on_cpu:
        on_cpu.encode(image)


def test_auto_prefers_a_gpu_where_the_driver_shows_one(small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine(small_export.bundle) as engine:
        assert engine.reason == "fastest on a CPU"
    monkeypatch.setattr(select, "nvidia_gpus", lambda: GPUS)
    found = [entry._replace(devices=(*GPUS, CPU)) if entry.name == "onnxruntime" else entry for entry in probe()]
    name, device, why = preferred(found)
    assert (name, device) == ("onnxruntime", GPUS[0])
    assert "GPU" in why
    with open_engine(small_export.bundle) as engine:  # no backend has that GPU after all
        assert engine.device.id == "cpu"
    with pytest.raises(BackendMissing, match="got device 'cuda'"):
        open_engine(small_export.bundle, device="cuda")

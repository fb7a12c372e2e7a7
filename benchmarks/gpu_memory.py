"""Peak memory of a GPU while something runs, as NVIDIA's management library counts it: of everything on the GPU."""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType
from typing import Any

_BUS_BYTES = 64
_INTERVAL_S = 0.002


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class PeakMemory:
    """A context manager; `peak_mb` is what the GPU held at most, beyond what it held before. 0 without a GPU."""

    def __init__(self, device: str) -> None:
        self._handle = _find(device)
        self.peak_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._before = self._used()
        if self._handle is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._handle is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            self.peak_mb = max(self.peak_mb, (self._used() - self._before) / 1e6)

    def _used(self) -> int:
        if self._handle is None:
            return 0
        management, device = self._handle
        memory = _Memory()
        management.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
        return int(memory.used)


def _find(device: str) -> tuple[Any, Any] | None:
    """The library and its handle of a GPU, found by the bus it sits on: the two count GPUs in orders of their own."""
    if not device.startswith("cuda"):
        return None
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
        management: Any = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    bus, handle = ctypes.create_string_buffer(_BUS_BYTES), ctypes.c_void_p()
    index = int(device.partition(":")[2] or 0)
    if driver.cuInit(0) or driver.cuDeviceGetPCIBusId(bus, _BUS_BYTES, index) or management.nvmlInit_v2():
        return None
    if management.nvmlDeviceGetHandleByPciBusId_v2(bus.value, ctypes.byref(handle)):
        return None
    return management, handle

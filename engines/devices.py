"""Which devices are here, asked of the NVIDIA driver itself: no framework is imported to learn that there is no GPU."""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from dataclasses import dataclass
from typing import Any

from gstk.errors import BackendMissing, DriverMissing, EngineError

__all__ = ["DEVICE_NAMES", "Device", "cuda_version", "driver_version", "find_device", "nvidia_gpus"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MANAGEMENT = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
_NAME_BYTES = 256
DEVICE_NAMES = "auto, cpu, cuda, cuda:N, gpu or gpu:N"
"""Names of devices, for messages and options."""
_INSTALL = "install NVIDIA's driver"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Device:
    """Something an engine computes on.

    Attributes:
        id: `cpu`, `cuda:N` for the N-th NVIDIA GPU that CUDA shows this process, or `gpu:N` for the N-th GPU of
            OpenVINO's, such as Intel's graphics.
        name: what its maker calls it; empty where that is not known.
        capability: compute capability of an NVIDIA GPU, (0, 0) otherwise.
    """

    id: str
    name: str = ""
    capability: tuple[int, int] = (0, 0)

    @property
    def is_gpu(self) -> bool:
        return self.id != "cpu"

    @property
    def kind(self) -> str:
        """`cpu`, `cuda` or `gpu`."""
        return self.id.partition(":")[0]

    @property
    def index(self) -> int:
        """Of a GPU, as CUDA counts; 0 for the processor."""
        return int(self.id.partition(":")[2] or 0)

    def __str__(self) -> str:
        return f"{self.id}: {self.name}" if self.name else self.id


def nvidia_gpus() -> list[Device]:
    """The NVIDIA GPUs that this process may use, in CUDA's order. The driver is asked once.

    Raises:
        DriverMissing: no driver, or one that does not start, or no GPU.
    """
    found = _ask_driver()
    if isinstance(found, str):
        raise DriverMissing(found)
    return list(found)


def find_device(wanted: str, devices: list[Device], backend: str) -> Device:
    """The device that a name stands for.

    Args:
        wanted: `auto` for the first, `cpu`, `cuda` for the first NVIDIA GPU, `cuda:N`, `gpu` for OpenVINO's first, or
            `gpu:N`.
        devices: what the backend can compute on here, the best first.
        backend: its name, for the message.

    Raises:
        EngineError: not a device's name.
        BackendMissing: a device that is not among them.
    """
    kind = wanted.partition(":")[0]
    if not re.fullmatch(r"auto|cpu|(cuda|gpu)(:\d+)?", wanted):
        raise EngineError(f"got device {wanted!r}, expected {DEVICE_NAMES}")
    for device in devices:
        if wanted in ("auto", device.id, device.kind):
            return device
    has = ", ".join(map(str, devices)) or "none"
    why = ""
    if kind == "cuda":
        found = _ask_driver()
        why = f" ({found})" if isinstance(found, str) else ""
    elif kind == "gpu":
        why = " (gpu is OpenVINO's name for Intel graphics, which need their compute driver; NVIDIA's GPUs are cuda)"
    raise BackendMissing(f"got device {wanted!r}, but the {backend} engine has {has} here{why}; take one of these")


def cuda_version() -> tuple[int, int]:
    """Newest CUDA that the NVIDIA driver can run, (0, 0) without a driver."""
    try:
        driver: Any = ctypes.CDLL(_LIBRARY)
    except OSError:
        return 0, 0
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)):
        return 0, 0
    return number.value // 1000, number.value % 1000 // 10


def driver_version() -> str:
    """What NVIDIA calls the driver, such as `580.95.05`; empty where it does not say."""
    try:
        management: Any = ctypes.CDLL(_MANAGEMENT)
    except OSError:
        return ""
    text = ctypes.create_string_buffer(_NAME_BYTES)
    if management.nvmlInit_v2():
        return ""
    try:
        return "" if management.nvmlSystemGetDriverVersion(text, _NAME_BYTES) else text.value.decode(errors="replace")
    finally:
        management.nvmlShutdown()


def memory_bytes() -> int:
    """Memory of this machine."""
    import psutil

    return int(psutil.virtual_memory().total)


@functools.cache
def _ask_driver() -> tuple[Device, ...] | str:
    """The GPUs, or why there are none."""
    try:
        driver: Any = ctypes.CDLL(_LIBRARY)
    except OSError:
        return f"no NVIDIA driver ({_LIBRARY} is not there); {_INSTALL}"
    return read_driver(driver)


def read_driver(driver: Any) -> tuple[Device, ...] | str:
    """See `_ask_driver`.

    Args:
        driver: the CUDA driver's library, or what has its functions.
    """
    status = driver.cuInit(0)
    count = ctypes.c_int()
    if not status:
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return f"the NVIDIA driver does not start (CUDA error {status}); {_INSTALL} anew, or give this process a GPU"
    if not count.value:
        return "the NVIDIA driver shows this process no GPU; look at CUDA_VISIBLE_DEVICES and nvidia-smi"
    found = []
    for index in range(count.value):
        handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        driver.cuDeviceGet(ctypes.byref(handle), index)
        driver.cuDeviceGetName(name, _NAME_BYTES, handle)
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, handle)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, handle)
        found.append(Device(f"cuda:{index}", name.value.decode(errors="replace"), (major.value, minor.value)))
    return tuple(found)

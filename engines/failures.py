"""Translates errors of backends into gstk's: each backend has its own words for full memory, a lost device or an
unsupported GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gstk.core.foreign_text import reason_of
from gstk.errors import DeviceError, DriverMissing, EngineError, OutOfMemory, WrongArchitecture

__all__ = ["failure", "lost_device", "memory_errors", "refuse_lost_device"]

_MORE_MEMORY = "take smaller regions or fewer objects at once, an fp16 or int8 bundle, or free memory"
_KINDS: tuple[tuple[type[EngineError], str, str], ...] = (
    (
        WrongArchitecture,
        r"no kernel image|unsupported (?:SM|GPU|arch)|sm_\d+ is not (?:compatible|supported)|INVALID_?DEVICE_?FUNCTION|"
        r"compute capability.{0,40}not supported|requires device with|"
        r"plan file.{0,60}(?:different|not compatible|incompatible)",
        "the backend was not built for this GPU; install a build for it, or take another --backend",
    ),
    (
        OutOfMemory,
        r"out of memory|OUT_?OF_?MEMORY|bad_alloc|BFCArena|failed to allocate|cannot allocate|not enough memory|"
        r"MEMORY_?ALLOCATION|ALLOC_FAILED|failed to map segment",
        _MORE_MEMORY,
    ),
    (
        DriverMissing,
        r"driver version is insufficient|INSUFFICIENT_?DRIVER|no CUDA-capable device|NO_?DEVICE\b|"
        r"no NVIDIA driver|libcuda\.so",
        "install the NVIDIA driver, or a newer one, or take --device cpu",
    ),
    (
        DeviceError,
        r"\bCUDA\b.{0,40}(?:error|failure)|cudaError|CUDA_ERROR|CUDNN|CUBLAS|illegal memory access|device-side assert|"
        r"launch failure|\bCUDA (?:runtime|driver) \(|misaligned address",
        "start another process; this one does not use the GPU again",
    ),
)
_NO_ROOM = "failed to map segment|cannot allocate memory|Cannot allocate memory"
_LENGTH = 300
_lost: list[str] = []


def failure(backend: str, task: str, error: BaseException) -> EngineError:
    """The gstk error for an error of a backend.

    After a CUDA error the context is corrupt: in every engine of the process later calls fail or give wrong results.
    From then on `refuse_lost_device` raises.

    Args:
        backend: its name.
        task: what it was doing, such as `encode a region of (64, 64, 64)`.
        error: what it raised.

    Returns:
        OutOfMemory, DeviceError, DriverMissing, WrongArchitecture, or a plain EngineError.
    """
    reason = reason_of(error, _LENGTH)
    text = f"{type(error).__name__}: {error}"
    for kind, pattern, remedy in _KINDS:
        if re.search(pattern, text, re.IGNORECASE) or (kind is OutOfMemory and isinstance(error, MemoryError)):
            found = kind(f"{backend} failed to {task}: {reason}; {remedy}")
            if kind is DeviceError:
                _lost.append(reason)
            return found
    return EngineError(f"{backend} failed to {task}: {reason}")


@contextmanager
def memory_errors(task: str) -> Iterator[None]:
    """A block, or a function that this decorates, whose errors for want of memory become an OutOfMemory.

    Args:
        task: what it does, such as `take the image`.

    Raises:
        OutOfMemory: in place of a MemoryError, and where a library that is loaded late finds no room.
    """
    try:
        yield
    except (MemoryError, ImportError, RuntimeError) as error:
        line = next((line for line in str(error).splitlines() if re.search(_NO_ROOM, line)), None)
        if line is None and not isinstance(error, MemoryError):
            raise
        reason = reason_of(line or error, _LENGTH)
        raise OutOfMemory(f"there is too little memory to {task} ({reason}); {_MORE_MEMORY}") from None


def lost_device() -> str | None:
    """The CUDA error that this process had; None where it had none."""
    return _lost[0] if _lost else None


def refuse_lost_device() -> None:
    """Raises if this process had a CUDA error before.

    Raises:
        DeviceError: there was one.
    """
    if _lost:
        raise DeviceError(f"this process had a CUDA error ({_lost[0]}); start another process to use the GPU again")

"""Memory of this process and machine, as Linux tells; 0 or no limit where it does not."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["forget_peak", "free_bytes", "peak_bytes", "resident_bytes"]


def resident_bytes() -> int:
    """Resident memory of this process; 0 where it is not known."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Most resident memory of this process since `forget_peak`; 0 where it is not known."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Lets `peak_bytes` begin anew; where the system does not, it goes on from the start of the process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def free_bytes() -> int:
    """Memory that programs can still take without swapping."""
    return _field("/proc/meminfo", "MemAvailable") or sys.maxsize


def _status(name: str) -> int:
    return _field("/proc/self/status", name)


def _field(file: str, name: str) -> int:
    """A field in kB of one of the kernel's tables, as bytes; 0 where it is not there."""
    with suppress(OSError):
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0

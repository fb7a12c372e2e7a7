"""Which process on which machine: names by which files of a process that has ended are known."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

__all__ = ["host_token", "process_start", "start_ticks"]

_ENDED = "ZX"
"""States of a process, by proc(5), that has ended but is still listed."""


def process_start(pid: int) -> int | None:
    """A number that tells a process from any other of the same id; None where no such process runs.

    On Linux it counts clock ticks after boot, so it stays the same when the clock is set.
    """
    if Path("/proc/self/stat").exists():
        return start_ticks(pid)
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.Error:
        return None


def start_ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks after boot (Linux alone); None where no such process runs."""
    with suppress(OSError, ValueError, IndexError):
        # proc(5): field 3 is the state and 22 the start, after a name that may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in _ENDED else int(fields[19])
    return None


@functools.cache
def host_token() -> str:
    """Eight hexadecimal digits that are the same for processes that see each other's ids.

    They differ between machines, between boots of a machine, and between containers.
    """
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]

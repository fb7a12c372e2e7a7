"""Memory of this process and machine."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["forget_peak", "free_bytes", "peak_bytes", "resident_bytes"]


def resident_bytes() -> int:
    """Resident memory of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Peak resident memory of this process since `forget_peak`, or since its start if the peak cannot be reset."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return int(info.peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kilobytes elsewhere
    return max(int(info.rss), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def forget_peak() -> None:
    """Resets `peak_bytes`; if the system cannot, the peak remains that since the start of the process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def free_bytes() -> int:
    """Memory that this process can still allocate: within the machine's free memory without swapping, and its limits.

    The limits are those of its control groups (a container, a batch job) and of its address space (`ulimit -v`).
    """
    import psutil

    free = [int(psutil.virtual_memory().available), *_free_of_groups()]
    with suppress(ImportError, AttributeError, OSError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            free.append(most - int(psutil.Process().memory_info().vms))
    return max(0, min(free))


def _free_of_groups() -> list[int]:
    """Free memory under the limit of each of this process's control groups that has one; cgroups(7), both versions."""
    free = []
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers == "":
                root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                root = Path("/sys/fs/cgroup/memory")
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            # In a container the path may be the host's, whose folder does not exist; the root is then the group.
            group = root / name.lstrip("/")
            for place in {root, group, *(parent for parent in group.parents if parent.is_relative_to(root))}:
                found = _free_of_group(place, *names)
                if found is not None:
                    free.append(found)
    return free


def _free_of_group(group: Path, limit: str, usage: str, cached: str) -> int | None:
    try:
        most = int((group / limit).read_text(encoding="utf-8"))  # "max" is no number
        used = int((group / usage).read_text(encoding="utf-8"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        return most - used + int(stat.get(cached, 0))  # cached file pages can be reclaimed
    except (OSError, ValueError):
        return None

"""Memory of this process and machine, with and without Linux's own tables."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from gstk.calibration import memory
from gstk.engines.devices import memory_bytes


@pytest.mark.parametrize("proc", [True, False], ids=["proc", "without proc"])
def test_a_block_counts(proc: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not proc:
        monkeypatch.setattr(memory, "Path", lambda name: tmp_path / "not there" / "at all")
    memory.forget_peak()
    before = memory.resident_bytes()
    # Not from the allocator, which may still have that much from blocks that were freed.
    block = np.frombuffer(mmap.mmap(-1, 40_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    block[:] = 1
    assert memory.resident_bytes() - before > 35_000_000
    assert memory.peak_bytes() >= memory.resident_bytes() - 1_000_000
    assert block.nbytes < memory.free_bytes() < memory_bytes()
    assert memory_bytes() == psutil.virtual_memory().total


GROUP = {
    "unified": ("0::/job/one", "memory.max", "memory.current", "inactive_file"),
    "first": ("4:cpu,memory:/job/one", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@pytest.mark.parametrize("version", GROUP)
@pytest.mark.parametrize("of_host", [False, True], ids=["own path", "path of the host"])
def test_limits_of_control_groups_count(
    version: str, of_host: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line, limit, usage, cached = GROUP[version]
    root = tmp_path / ("sys/fs/cgroup/memory" if version == "first" else "sys/fs/cgroup")
    for folder, most in ((root, "max"), (root / "job", 700_000_000), (root / "job" / "one", 600_000_000)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / usage).write_text("500000000\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cached} 40000000\n")
    if of_host:
        (root / limit).write_text("600000000\n")
        line = line.replace("/job/one", "/elsewhere/on/the/host")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"1:name=systemd:/\n2:pids:/x\n{line}\n")
    monkeypatch.setattr(memory, "Path", lambda name: tmp_path / str(name).lstrip("/"))
    assert memory.free_bytes() == 140_000_000


def test_the_limit_of_the_address_space_counts() -> None:
    code = "import resource, psutil; from gstk.calibration import memory; used = psutil.Process().memory_info().vms\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2); print(memory.free_bytes())"
    pytest.importorskip("resource")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert 200_000_000 < int(run.stdout) <= 300_000_000

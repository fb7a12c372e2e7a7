"""Memory of this process and machine, with and without Linux's own tables."""

from __future__ import annotations

import mmap
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

"""The campaigns of `benchmarks/campaigns`, a few seconds of each; and that each of them sees what it looks for."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "campaigns"))

import killed_commands  # noqa: E402
import memory_limits  # noqa: E402
import plans_in_time  # noqa: E402
import readers  # noqa: E402

NAMES = ("npz", "nifti", "manifest", "bundle", "dicom")
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@on_linux
@pytest.mark.parametrize("name", NAMES)
def test_mutated_inputs_end_in_an_error_of_gstks_or_in_none(scratch: Path, name: str) -> None:
    target = readers.targets(scratch)[name]
    watch, rng = readers.Watch(target, scratch, most_s=float("inf")), random.Random(3)
    for _ in range(50 if name == "dicom" else 300):
        watch(readers.mutate(rng, rng.choice(target.seeds)))


@on_linux
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda: os.system("true"), r"os\.system"),
        (lambda: open(os.devnull, "w").close(), "open '/dev/null'"),
        (lambda: np.ones(5 * 10**8, np.uint8).sum(), "MB for 1 bytes"),
        (lambda: sum(range(10**6)), "s for 1 bytes"),
        (lambda: [][1], "list index"),
    ],
)
def test_a_watch_sees_what_no_input_may_do(scratch: Path, fault: Callable[[], Any], words: str) -> None:
    def read(data: bytes) -> None:
        if data == b"!":
            fault()

    watch = readers.Watch(readers.Target("faulty", read, [b""]), scratch)
    watch(b"")
    watch.most_s = 1e-3 if "s for" in words and "MB" not in words else float("inf")
    gc.collect()  # what earlier tests left, given back meanwhile, would hide what the fault takes
    with pytest.raises((readers.RuleBroken, IndexError), match=words):
        watch(b"!")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="kills groups of processes")
@pytest.mark.parametrize("name", ["prepare", "infer"])
def test_killed_commands_leave_no_half_file_and_the_next_run_goes_on(tmp_path: Path, name: str) -> None:
    context = multiprocessing.get_context("forkserver")
    command = killed_commands.write_inputs(tmp_path, {name})[name]
    killer = killed_commands.Killer(name, command, tmp_path, context, seed=4)
    while killer.kills < killed_commands.FINISHED_EACH:
        killer.step()
    assert killer.finished == 1
    assert killer.failures == []


def test_half_files_are_seen(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", imgs=np.arange(1000))
    assert killed_commands.broken(tmp_path / "whole.npz") == ""
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-200])
    (tmp_path / "half.json").write_text('{"a": [1, ')
    (tmp_path / "half.csv").write_text("a,b\n1,")
    (tmp_path / "half.nii.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0")
    for file in tmp_path.glob("half*"):
        assert killed_commands.broken(file), file


def test_calls_on_a_faulty_engine_are_in_time_and_give_a_mask() -> None:
    for seed in range(20):
        call = plans_in_time.one_call(seed)
        assert not call["problem"], seed
        assert call["share"] <= plans_in_time.LATE, seed


def test_a_late_call_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that runs on after the deadline, and no limit on its calls."""
    monkeypatch.setattr(plans_in_time, "run_at_once", lambda self, call, deadline: call())
    assert max(plans_in_time.one_call(seed)["share"] for seed in range(30)) > plans_in_time.LATE


@on_linux
@pytest.mark.slow
def test_a_click_that_no_memory_holds_is_refused_with_a_remedy(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    command = [sys.executable, memory_limits.__file__, "--click", "space", "onnxruntime", "4000000"]
    found = memory_limits.run(command, {"GSTK_CACHE": str(tmp_path)})
    assert found["outcome"] == "OutOfMemory"
    assert not memory_limits.is_failure("space", found)


@on_linux
@pytest.mark.slow
def test_a_click_with_little_memory_ends(tmp_path: Path) -> None:
    """SciPy's OpenBLAS, loaded by the first click, once asked for memory without end."""
    pytest.importorskip("onnxruntime")
    command = [sys.executable, memory_limits.__file__, "--click", "space", "onnxruntime", "73136416"]
    found = memory_limits.run(command, {"GSTK_CACHE": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"})
    assert not memory_limits.is_failure("space", found)


@pytest.mark.parametrize("outcome", ["SIGKILL", "other", "hung", "SIGSEGV"])
def test_ends_for_want_of_memory_that_nobody_announced_are_failures(outcome: str) -> None:
    assert all(memory_limits.is_failure(mode, {"outcome": outcome, "words": ""}) for mode in memory_limits.MODES)
    assert memory_limits.is_failure("space", {"outcome": "OutOfMemory", "words": "no remedy"})

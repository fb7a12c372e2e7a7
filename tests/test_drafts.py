"""Folders for files in the making, and what is left of them where their process was killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gstk.core import drafts
from gstk.core.drafts import REPLACED, draft_folder, make_temporary_folder, temporary_folder
from gstk.core.files import atomic_path
from gstk.core.private_files import write_private
from gstk.core.processes import host_token, process_start

WRITES = """
import sys, time
from pathlib import Path
from gstk.core.drafts import draft_folder
with draft_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    for name in sys.argv[2:]:
        (folder / "replaced").mkdir(exist_ok=True)
        (Path(sys.argv[1]) / name).rename(folder / "replaced" / name)
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def nothing_swept_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "_swept", set())


@contextmanager
def writing(folder: Path, *moved_aside: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that is writing in a folder."""
    command = [sys.executable, "-c", WRITES, str(folder), *moved_aside]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        try:
            yield process
        finally:
            process.kill()


def killed_in(folder: Path, *moved_aside: str) -> None:
    with writing(folder, *moved_aside) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()


def left_in(folder: Path) -> list[Path]:
    return sorted(folder.glob(".gstk-*"))


def test_a_draft_is_private_hidden_and_gone_at_the_end(tmp_path: Path) -> None:
    with draft_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".gstk-")
        if os.name == "posix":
            assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "inside").write_text("x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", ["atomic", "private", "draft"])
def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path, write: str) -> None:
    killed_in(tmp_path)
    assert len(left_in(tmp_path)) == 1
    if write == "atomic":
        with atomic_path(tmp_path / "mask.txt") as partial:
            partial.write_text("whole")
    elif write == "private":
        write_private(tmp_path / "graph", b"whole")
    else:
        with draft_folder(tmp_path):
            pass
    assert not left_in(tmp_path)


def test_what_a_process_that_runs_is_writing_stays(tmp_path: Path) -> None:
    with writing(tmp_path), draft_folder(tmp_path) as own:
        (other,) = set(left_in(tmp_path)) - {own}
        assert (other / "half").read_text() == "half"
    with draft_folder(tmp_path) as own, draft_folder(tmp_path):
        assert own.is_dir()


def test_an_id_that_another_process_has_by_now_is_not_the_owner(tmp_path: Path) -> None:
    ours = process_start(os.getpid())
    assert ours is not None
    dead = tmp_path / f".gstk-{host_token()}-{os.getpid()}-{ours + 1}-{'0' * 12}"
    dead.mkdir()
    with draft_folder(tmp_path):
        assert not dead.exists()


def test_another_machine_s_drafts_stay_for_a_week_after_the_last_change(tmp_path: Path) -> None:
    names = {age_d: tmp_path / f".gstk-01234567-1-1-{age_d:012d}" for age_d in (1, 8, 9)}
    for age_d, folder in names.items():
        folder.mkdir()
        (folder / "part").write_text("x")
        for path in (folder / "part", folder):
            if age_d < 9 or path != folder / "part":
                os.utime(path, (time.time() - age_d * 86400,) * 2)
    with draft_folder(tmp_path):
        pass
    assert set(left_in(tmp_path)) == {names[1], names[9]}


def test_names_of_others_and_links_stay(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    work = tmp_path / "work"
    work.mkdir()
    dead = f"{host_token()}-{os.getpid()}-1-{'0' * 12}"
    (work / f".gstk-{dead}").symlink_to(elsewhere)
    (work / f"gstk-{dead}.bak").mkdir()
    (work / ".gstk-results").mkdir()
    (work / f".gstk-{dead[:-1]}1").write_text("a file")
    before = {path.name for path in work.iterdir()}
    with draft_folder(work):
        pass
    assert {path.name for path in work.iterdir()} == before
    assert (elsewhere / "precious").exists()


def test_what_was_moved_aside_gets_its_name_back_where_nothing_took_it(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("old")
    killed_in(tmp_path, "bundle")
    assert not (tmp_path / "bundle").exists()
    with draft_folder(tmp_path):
        assert (tmp_path / "bundle" / "manifest.json").read_text() == "old"

    killed_in(tmp_path, "bundle")
    (tmp_path / "bundle").mkdir()
    drafts._swept.clear()
    with draft_folder(tmp_path):
        assert not any((tmp_path / "bundle").iterdir())
    assert not left_in(tmp_path)
    assert REPLACED == "replaced"  # as in the process above


def test_temporary_folders_lie_where_the_system_keeps_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / f"gstk-{host_token()}-{os.getpid()}-1-{'0' * 12}"
    dead.mkdir()
    with temporary_folder() as folder:
        assert folder.parent == tmp_path
        assert not dead.exists()
    assert not list(tmp_path.iterdir())
    assert make_temporary_folder().is_dir()


def test_a_process_is_known_by_its_start() -> None:
    start = process_start(os.getpid())
    assert start == process_start(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert process_start(other.pid) is not None
        other.kill()
        for _ in range(100):  # not waited for yet, it is listed, but has ended
            if process_start(other.pid) is None:
                break
            time.sleep(0.05)
        assert process_start(other.pid) is None
    assert process_start(2**22 + 1) is None
    assert re.fullmatch("[0-9a-f]{8}", host_token())

"""The journal of results: lines of several processes at once, and lines that were cut off."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from gstk.batch.journal import JOURNAL, Entry, Journal
from gstk.errors import OutputError


def entry(mask: str, run: str = "r") -> Entry:
    return Entry(mask, {mask: "0" * 64}, f"/scans/{mask}", {"input": "1", "classes": ["liver"]}, run, {"objects": []})


def add_many(folder: Path, number: int) -> None:
    journal = Journal(folder)
    for index in range(30):
        journal.add(entry(f"{number}-{index}.nii.gz"))


def test_lines_of_several_processes_are_all_there(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=add_many, args=(tmp_path, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    journal = Journal(tmp_path)
    assert journal.damaged() == 0
    for number in range(3):
        for index in range(30):
            name = f"{number}-{index}.nii.gz"
            assert journal.entries(name) == [entry(name)]


def test_lines_that_come_later_are_seen(tmp_path: Path) -> None:
    reader, writer = Journal(tmp_path), Journal(tmp_path)
    assert reader.entries("a") == []
    writer.add(entry("a", "first"))
    assert [one.run for one in reader.entries("a")] == ["first"]
    writer.add(entry("ä b", "other"))
    writer.add(entry("a", "second"))
    assert [one.run for one in reader.entries("a")] == ["first", "second"]
    assert [one.run for one in reader.entries("ä b")] == ["other"]


def test_every_cut_of_the_last_line_is_passed_over(tmp_path: Path) -> None:
    Journal(tmp_path).add(entry("a"))
    first = (tmp_path / JOURNAL).read_bytes()
    Journal(tmp_path).add(entry("b"))
    whole = (tmp_path / JOURNAL).read_bytes()
    for length in range(len(first) + 1, len(whole), 7):
        (tmp_path / JOURNAL).write_bytes(whole[:length])
        assert Journal(tmp_path).damaged() == 1
        Journal(tmp_path).add(entry("c"))
        journal = Journal(tmp_path)
        assert [len(journal.entries(name)) for name in "abc"] == [1, 0, 1]
        assert journal.damaged() == 1


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_journal_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        Journal(tmp_path).add(entry("a"))
    with pytest.raises(OutputError, match="cannot read"):
        Journal(tmp_path).entries("a")

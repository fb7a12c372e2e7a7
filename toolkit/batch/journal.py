"""The journal of a results folder: one line of JSON for each result, with what it was made of and its files' hashes.

A line is written before the files get their names, so that no result lacks one, whenever the process ends. A line
whose files are missing, or differ, says that the case is not finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from gstk.errors import OutputError

__all__ = ["JOURNAL", "Entry", "Journal"]

JOURNAL = ".gstk-journal.jsonl"
"""Its file in the folder of the results."""


@dataclass(frozen=True)
class Entry:
    """What the journal says of one result.

    Attributes:
        mask: file of the label map, relative to the folder, with `/` between its parts.
        files: SHA-256 of each file of the result, by its path relative to the folder.
        source: the input as it was given, for readers; it decides nothing.
        made_of: what the result depends on, as JSON values: hash of the input, settings, bundle, version.
        run: the run that made it.
        result: what `InferResult` says of it, as JSON values.
    """

    mask: str
    files: Mapping[str, str]
    source: str
    made_of: Mapping[str, Any]
    run: str
    result: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """The journal of one folder. Several processes, on several machines, may add to it at the same time."""

    def __init__(self, folder: Path) -> None:
        """Reads nothing yet.

        Args:
            folder: the folder of the results.
        """
        self.file = folder / JOURNAL
        self._entries: dict[str, list[Entry]] = {}
        self._offset = 0
        self._damaged = 0

    def entries(self, mask: str) -> list[Entry]:
        """What it says now of one result, oldest first.

        Raises:
            OutputError: the journal cannot be read.
        """
        self._read_on()
        return self._entries.get(mask, [])

    def damaged(self) -> int:
        """The number of its lines that cannot be read and are passed over.

        Raises:
            OutputError: the journal cannot be read.
        """
        return self._read_on() + self._damaged

    def add(self, entry: Entry) -> None:
        """Adds a line; it is on the disk when this returns.

        Raises:
            OutputError: the disk is full, or the folder cannot be written to.
        """
        line = json.dumps(asdict(entry), ensure_ascii=True, allow_nan=False).encode() + b"\n"
        try:
            with open(self.file, "ab+", buffering=0) as stream, _locked(stream):
                end = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, end - 1))
                if stream.read(1) not in (b"", b"\n"):  # the last line was cut off by the end of its process
                    line = b"\n" + line
                if stream.write(line) != len(line):
                    raise OSError(None, "the disk took a part of a line")
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self.file}: {error.strerror or error}; check that its folder can be written to"
            ) from error

    def _read_on(self) -> int:
        """Reads the lines that are new; returns 1 if an unfinished one follows them."""
        try:
            with open(self.file, "rb") as stream:
                stream.seek(self._offset)
                content = stream.read()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise OutputError(f"cannot read {self.file}: {error.strerror or error}; check the path") from error
        *lines, rest = content.split(b"\n")
        self._offset += len(content) - len(rest)
        for line in filter(None, lines):
            entry = _parse(line)
            if entry is None:
                self._damaged += 1
            else:
                self._entries.setdefault(entry.mask, []).append(entry)
        return int(bool(rest))


def _parse(line: bytes) -> Entry | None:
    try:
        entry = Entry(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (entry.mask, entry.source, entry.run, *entry.files) if isinstance(entry.files, dict) else (None,)
    maps = (entry.made_of, entry.result)
    sound = all(isinstance(text, str) for text in texts) and all(isinstance(one, dict) for one in maps)
    return entry if sound and entry.mask in entry.files else None


@contextmanager
def _locked(stream: IO[bytes]) -> Iterator[None]:
    """Lets one process at a time write, also over NFS, where appended lines could otherwise overwrite each other."""
    try:
        import fcntl

        fcntl.lockf(stream, fcntl.LOCK_EX)
    except (ImportError, OSError):  # Windows, or a file system without locks
        pass
    yield

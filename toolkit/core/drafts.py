"""Folders for files in the making: gone when their block ends, and swept away later where their process was killed.

A folder's name holds the machine, the id and the start of the process that made it. A later run of the same user that
makes one beside it removes those whose process has ended; what another machine made, once nothing in it has changed
for a week.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gstk.core.processes import host_token, process_start

__all__ = ["REPLACED", "draft_folder", "make_temporary_folder", "temporary_folder"]

REPLACED = "replaced"
"""Folder in a draft that holds what stood under a final name while something else is put there."""

_NAME = re.compile(r"\.?gstk-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{12}")
_FORGOTTEN_S = 7 * 24 * 3600
_swept: set[tuple[int, str]] = set()


@contextmanager
def draft_folder(beside: Path) -> Iterator[Path]:
    """Makes a hidden folder, which only this user may look into, in the folder `beside`; removes it at the end.

    Raises:
        OSError: it cannot be made.
    """
    folder = _make(beside, ".gstk-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Makes a folder for this user alone where the system keeps temporary files; removes it at the end.

    Raises:
        OSError: it cannot be made.
    """
    folder = make_temporary_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_temporary_folder() -> Path:
    """Makes the folder of `temporary_folder`, for a caller who removes it.

    Raises:
        OSError: it cannot be made.
    """
    return _make(Path(tempfile.gettempdir()), "gstk-")


def _make(place: Path, prefix: str) -> Path:
    _sweep(place)
    pid = os.getpid()
    folder = place / f"{prefix}{host_token()}-{pid}-{process_start(pid) or 0}-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    return folder


def _sweep(place: Path) -> None:
    """Removes what processes that were killed left in a folder, once in the life of this process."""
    key = (os.getpid(), os.path.realpath(place))
    if key in _swept or _NAME.fullmatch(os.path.basename(key[1])):  # nobody else writes in a draft
        return
    _swept.add(key)
    with suppress(OSError), os.scandir(place) as entries:
        names = [(entry, _NAME.fullmatch(entry.name)) for entry in entries]
        for entry, name in names:
            with suppress(OSError):
                if name and entry.is_dir(follow_symlinks=False) and _is_mine(entry) and _is_left(entry, name):
                    _put_back(Path(entry), place)
                    shutil.rmtree(entry, ignore_errors=True)


def _is_mine(entry: os.DirEntry[str]) -> bool:
    return not hasattr(os, "geteuid") or entry.stat(follow_symlinks=False).st_uid == os.geteuid()


def _is_left(entry: os.DirEntry[str], name: re.Match[str]) -> bool:
    if name["host"] == host_token() and int(name["start"]):
        return process_start(int(name["pid"])) != int(name["start"])
    folder = Path(entry)
    changed = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time() - changed > _FORGOTTEN_S


def _put_back(draft: Path, place: Path) -> None:
    """Gives back its name to what was moved aside for a successor that never came."""
    aside = draft / REPLACED
    for kept in aside.iterdir() if aside.is_dir() else ():
        if not os.path.lexists(place / kept.name):
            kept.rename(place / kept.name)

"""Files that only their owner may change, for compiled graphs and plans: these are programs that will be run."""

from __future__ import annotations

import os
from pathlib import Path

from gstk.core.drafts import draft_folder
from gstk.core.files import sync

__all__ = ["stranger", "user_cache", "write_private"]

_OTHERS_WRITE = 0o022
_ROOT = 0


def write_private(file: Path, *parts: bytes) -> None:
    """Writes a file whole or not at all, readable by its owner alone; its folder is made where it is missing.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; an older file stays as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with draft_folder(file.parent) as folder:
        draft = folder / file.name
        with open(draft, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            for part in parts:
                stream.write(part)
        sync(draft)
        draft.replace(file)


def stranger(path: Path) -> str | None:
    """Why another user could have written a file or folder; None where only this user or the administrator can.

    Windows keeps user folders apart by itself; there the answer is always None.
    """
    if not hasattr(os, "geteuid"):
        return None
    status = path.stat()
    if status.st_uid not in (os.geteuid(), _ROOT):
        return f"{path} belongs to user {status.st_uid}"
    if status.st_mode & _OTHERS_WRITE:
        return f"{path} can be written to by others (mode {status.st_mode & 0o777:o})"
    return None


def user_cache() -> Path:
    """The user's cache folder: `$XDG_CACHE_HOME`, or the system's place for caches."""
    from platformdirs import user_cache_path

    return user_cache_path()

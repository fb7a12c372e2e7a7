"""Atomic writing of files: a reader never sees half of one."""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from gstk.core.drafts import draft_folder
from gstk.errors import OutputError

__all__ = [
    "StrPath",
    "atomic_path",
    "explain_lost_bytes",
    "is_lfs_pointer",
    "make_folder",
    "publish",
    "refuse_existing",
    "scratch_folder",
    "sha256_of",
    "sync",
]

StrPath: TypeAlias = str | os.PathLike[str]

_LFS_START = b"version https://git-lfs.github.com/spec/"


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Yield a path to write to; what was written there becomes `path` when the block ends without an error.

    The yielded path lies in a scratch folder beside `path` and has the same file name, so suffix-driven writers pick
    the same format. Files written next to it (the data file of a detached .mhd or .nhdr header) move along with it.
    Everything is synced to disk (fsync) before it gets its name, so errors that a full disk, a quota or a network drive
    reports only when a file is closed count, too. On an error nothing is left behind and an older `path` stays; what a
    process that was killed leaves, the next removes (`gstk.core.drafts`).

    A writer that does not report its failures must be checked in the block: `explain_lost_bytes` says what went wrong.

    Args:
        path: the file to write. Its folder must exist.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full, or any other OSError in the block.
    """
    target = Path(path)
    try:
        with draft_folder(target.parent) as scratch:
            partial = scratch / target.name
            yield partial
            for written in sorted(scratch.iterdir()):
                sync(written)
            # The header goes last: until then a reader finds the old pair or nothing.
            for sibling in sorted(scratch.iterdir()):
                if sibling != partial:
                    os.replace(sibling, target.parent / sibling.name)
            os.replace(partial, target)
            sync(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error


@contextmanager
def scratch_folder(folder: StrPath) -> Iterator[Path]:
    """Yield a new folder inside another one, for files that get their names together (`publish`); removed at the end.

    Raises:
        OutputError: the folder cannot be written to; or one that is raised in the block, which then names `folder` in
            place of the new one.
    """
    target = Path(folder)
    with ExitStack() as stack:
        try:
            scratch = stack.enter_context(draft_folder(target))
        except OSError as error:
            raise OutputError(f"cannot write to {target}: {_reason(error)}; give another output folder") from error
        try:
            yield scratch
        except OutputError as error:
            raise OutputError(str(error).replace(str(scratch), str(target))) from error


def publish(files: Mapping[Path, Path], replaced: Iterable[Path] = ()) -> None:
    """Give files of a scratch folder their final names; each replaces an older file of its name.

    Args:
        files: final path by path in the scratch folder, on one file system and on the disk already. They are moved in
            this order, so the file that readers look for goes last.
        replaced: files of an older result that the new one does not have, whether they exist or not. They are removed
            before.

    Raises:
        OutputError: a file cannot be moved or removed.
    """
    for old in replaced:
        try:
            old.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(old, error) from error
    for scratch, target in files.items():
        try:
            os.replace(scratch, target)
            sync(target.parent)
        except OSError as error:
            raise _unwritable(target, error) from error


def sha256_of(path: StrPath) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def make_folder(path: StrPath) -> Path:
    """Create a folder and its parents where they are missing, and return it.

    Raises:
        OutputError: it cannot be created, or a file has its name.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {_reason(error)}; give another output folder") from error
    return folder


def refuse_existing(paths: Iterable[Path], overwrite: bool, otherwise: str) -> None:
    """Refuse to write where there are files already.

    Args:
        paths: what is to be written.
        overwrite: whether they may be replaced.
        otherwise: what to do instead of replacing them, as "another --out folder".

    Raises:
        OutputError: one of them is there, and `overwrite` is False.
    """
    there = [] if overwrite else [path for path in paths if os.path.lexists(path)]
    if there:
        which = f"{there[0]} exists" if len(there) == 1 else f"{there[0]} and {len(there) - 1} more exist"
        raise OutputError(f"{which} already; give --overwrite to replace, or {otherwise}")


def explain_lost_bytes(partial: StrPath) -> OSError | None:
    """Why a file does not hold what a library wrote to it without reporting an error.

    Args:
        partial: the file, still there.

    Returns:
        The error that writing beside it meets now, such as a full disk; None where it meets none.
    """
    probe = Path(partial).with_name(".probe")
    try:
        with probe.open("wb") as stream:
            stream.write(bytes(2**16))
        sync(probe)
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return None


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, where its file system can say so.

    Raises:
        OSError: its bytes cannot be written: the disk is full, or broke.
    """
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def is_lfs_pointer(path: StrPath) -> bool:
    """Whether a file is what Git LFS leaves in place of a large one that was not fetched."""
    try:
        with open(path, "rb") as stream:
            return stream.read(len(_LFS_START)) == _LFS_START
    except OSError:
        return False


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _unwritable(target: Path, error: OSError) -> OutputError:
    remedy = "give a shorter name" if error.errno == errno.ENAMETOOLONG else "check that its folder can be written to"
    return OutputError(f"cannot write {target}: {_reason(error)}; {remedy}")

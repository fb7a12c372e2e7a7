"""Writing files so that a reader never sees half of one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from gstk.errors import OutputError

__all__ = ["StrPath", "atomic_path", "make_folder"]

StrPath: TypeAlias = str | os.PathLike[str]


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Yield a path to write to; what was written there becomes `path` when the block ends without an error.

    The yielded path lies in a scratch folder beside `path` and has the same file name, so suffix-driven writers pick
    the same format. Files written next to it (the data file of a detached .mhd or .nhdr header) move along with it.
    On an error nothing is left behind and an older `path` stays as it was.

    Args:
        path: the file to write. Its folder must exist.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full, or any other OSError in the block.
    """
    target = Path(path)
    scratch: Path | None = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".gstk-", dir=target.parent))
        partial = scratch / target.name
        yield partial
        # The header goes last: until then a reader finds the old pair or nothing.
        for sibling in sorted(scratch.iterdir()):
            if sibling != partial:
                os.replace(sibling, target.parent / sibling.name)
        os.replace(partial, target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {_reason(error)}; check that its folder can be written to"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


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


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__

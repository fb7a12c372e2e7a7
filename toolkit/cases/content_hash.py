"""The hash of a case's content: whether a file, or a folder of DICOM slices, is still what it was."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from gstk.cases.dicom import dicom_files
from gstk.cases.volumes import VOLUME_SUFFIXES
from gstk.core.files import sha256_of
from gstk.errors import CaseError

__all__ = ["content_hash"]

_HEADERS = (".mhd", ".nhdr")
_DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file\s*:)\s*([^\r\n]*?)\s*$", re.IGNORECASE | re.MULTILINE)


def content_hash(path: Path) -> str:
    """Returns the SHA-256 of everything that is read for a case, in hexadecimal digits.

    Args:
        path: an .npz or volume file, a DICOM file, or a folder of DICOM slices. For a header (.mhd, .nhdr) the files
            with the voxels count, too; for a folder or file of DICOM, every DICOM file of the folder, by name and
            content. The name and place of a file or folder do not count.

    Raises:
        CaseError: a file cannot be read.
    """
    try:
        name = path.name.lower()
        if path.is_dir():
            return _combined(dicom_files(path))
        if name.endswith(_HEADERS):
            return _combined([path, *_data_files(path)])
        if name.endswith((".npz", *VOLUME_SUFFIXES)):
            return sha256_of(path)
        return _combined(dicom_files(path.parent), path.name)  # the file names the series that is read
    except OSError as error:
        raise CaseError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def _combined(files: list[Path], start: str = "") -> str:
    lines = [start, *(f"{sha256_of(file)}  {file.name}" for file in files)]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _data_files(header: Path) -> list[Path]:
    """The files with the voxels of a header; where it names them by a list or pattern, all files beside it."""
    found = _DATA_FILE.search(header.read_bytes())
    if found is None:
        return []
    data = header.parent / found.group(1).decode("utf-8", "surrogateescape")
    if data.is_file():
        return [data]
    beside = (file for file in header.parent.iterdir() if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in beside if file != header)

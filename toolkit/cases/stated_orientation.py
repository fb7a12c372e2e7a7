"""Whether a file says how the patient lies: readers give axes of their own where it does not, without a word."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["states_orientation"]

_HEADER_BYTES = 2**16
_ANATOMICAL = re.compile(rb"^space:[ \t]*(left|right|[LR][AP][SI])", re.MULTILINE | re.IGNORECASE)
_DIRECTIONS = re.compile(rb"^space directions:", re.MULTILINE | re.IGNORECASE)
_MATRIX = re.compile(rb"^[ \t]*(TransformMatrix|Rotation|Orientation)[ \t]*=", re.MULTILINE)


def states_orientation(file: Path) -> bool:
    """Whether an NRRD or MetaImage file, or its header file, says along which axes of the patient its axes run."""
    with file.open("rb") as stream:
        start = stream.read(_HEADER_BYTES)
    if start.startswith(b"NRRD"):
        header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
        return bool(_ANATOMICAL.search(header) and _DIRECTIONS.search(header))
    return bool(_MATRIX.search(start.split(b"ElementDataFile", 1)[0]))

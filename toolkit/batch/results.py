"""What became of a case: its masks in numbers, the files that were written, and what was odd."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gstk.session.session import CallReport

__all__ = ["InferResult", "ObjectResult"]


@dataclass(frozen=True)
class ObjectResult:
    """One object's mask in numbers.

    Attributes:
        object_id: its label.
        voxels: size of its mask.
        volume_ml: the same in millilitres.
        seconds: wall time; 0 for one of several classes.
        name: of a class; empty for other objects.
    """

    object_id: int
    voxels: int
    volume_ml: float
    seconds: float
    name: str = ""


@dataclass(frozen=True)
class InferResult:
    """What became of one case.

    Attributes:
        source: the file or folder that was read.
        output, overlay: what was written; None where nothing was.
        objects: one entry an object, in the order of their ids.
        seconds: wall time of the case, reading and writing included.
        warnings: what was odd about it.
        intensities: what was done to the image's, in words.
        report: what its masks were expected to take and took.
        error: why it failed, one line; None where it did not.
    """

    source: Path
    output: Path | None = None
    overlay: Path | None = None
    objects: tuple[ObjectResult, ...] = ()
    seconds: float = 0.0
    warnings: tuple[str, ...] = field(default=())
    intensities: str = ""
    report: CallReport | None = None
    error: str | None = None

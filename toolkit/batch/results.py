"""The result of a case: sizes of its masks, the files that were written, and warnings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gstk.session.call_report import CallReport
from gstk.session.deadline import Budget

__all__ = ["InferResult", "ObjectResult"]


@dataclass(frozen=True)
class ObjectResult:
    """Size and time of one object's mask.

    Attributes:
        object_id: label of the object in the label map.
        voxels: size of the mask in voxels.
        volume_ml: size of the mask in millilitres.
        seconds: wall time; 0 if several classes were segmented at once.
        name: name of the class; empty for an object without a class.
    """

    object_id: int
    voxels: int
    volume_ml: float
    seconds: float
    name: str = ""


@dataclass(frozen=True)
class InferResult:
    """The result of one case.

    Attributes:
        source: the input file or folder.
        output, overlay: files of the mask and of the picture; None if the file was not written.
        objects: one entry for each object, in the order of the ids.
        seconds: wall time of the case, including reading and writing.
        warnings: warnings about the case.
        intensities: description of how the intensities of the image were converted.
        report: the session's report: expected and measured time of the masks.
        budget: time for each object of the case, and the calls that shared it; None where there was no limit.
        error: reason of the failure in one line; None if the case succeeded.
        finished_before: whether an earlier run made the result, which was left as it is; `seconds` is then 0, and there
            is no report.
    """

    source: Path
    output: Path | None = None
    overlay: Path | None = None
    objects: tuple[ObjectResult, ...] = ()
    seconds: float = 0.0
    warnings: tuple[str, ...] = field(default=())
    intensities: str = ""
    report: CallReport | None = None
    budget: Budget | None = None
    error: str | None = None
    finished_before: bool = False

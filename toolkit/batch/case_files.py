"""Plans the output files of each case, and makes sure that no file overwrites another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from string import Formatter
from typing import NamedTuple

from gstk.cases.names import distinct_names, same_name
from gstk.cases.volumes import VOLUME_SUFFIXES
from gstk.core.files import make_folder, refuse_existing
from gstk.errors import OutputError

__all__ = ["FORMATS", "NAME", "CaseFiles", "plan_case_files"]

FORMATS = ("nii.gz", "nii", "nrrd", "seg.nrrd", "mha", "npz")
"""Formats of results that may be asked for."""

NAME = "{stem}_mask"
"""The name of a result without its suffix; `{stem}` is the name of the case without its own."""


_ENDS = ("_labels.json", "_overlay.png")


class CaseFiles(NamedTuple):
    """The files of one case. The mask is always written; the other files only on request or where they are needed.

    Attributes:
        source: the input file or folder.
        mask: file of the label map.
        regular: file of the label map on the regular grid, for an image that was resampled when it was read.
        labels: JSON file with the names and colours of the label map's ids, if the ids have names.
        overlay: picture of the mask over the image.
    """

    source: Path
    mask: Path
    regular: Path
    labels: Path
    overlay: Path


def plan_case_files(
    sources: Sequence[Path],
    folder: Path,
    name: str = NAME,
    format: str | None = None,
    *,
    overlay: bool,
    overwrite: bool,
) -> list[CaseFiles]:
    """Chooses the file names of every case, and creates the folders for them.

    Args:
        sources: the input files and folders, without duplicates.
        folder: output folder.
        name: file name of a result without its suffix; `{stem}` stands for the name of the case.
        format: one of `FORMATS`; None keeps the format of each case, and uses NIfTI for DICOM.
        overlay: whether to write a picture as well.
        overwrite: whether files may exist already.

    Returns:
        The files of each case, in the order of `sources`.

    Raises:
        OutputError: `name` is not a valid file name; or a file would overwrite a case, or, without `overwrite`, any
            other existing file.
    """
    _check_name(name, several=len(sources) > 1)

    if format is not None and format not in FORMATS:
        raise OutputError(f"got the format {format!r}, expected one of {', '.join(FORMATS)}")

    def suffix(path: Path) -> str:
        return _suffix(path) if format is None else f".{format}"

    names = distinct_names(sources, suffix, lambda stem: name.format(stem=stem))
    masks = [folder / path for path in names]
    files = [
        CaseFiles(source, mask, *(mask.with_name(beside + end) for end in (f"_regular{suffix(source)}", *_ENDS)))
        for source, mask, beside in zip(sources, masks, _names_beside(masks, list(map(suffix, sources))), strict=True)
    ]
    kept = {path.resolve() for path in sources}
    for each in files:
        for path in (each.mask, each.regular):
            if path.resolve() in kept:
                raise OutputError(
                    f"the result of {each.source} would overwrite the case {path}; give another --out folder"
                )
    written = [
        path for each in files for path in (each.mask, each.regular, each.labels, *([each.overlay] if overlay else ()))
    ]
    refuse_existing(written, overwrite, "another --out folder or --name; --resume goes on with an interrupted run")
    for path in written:
        make_folder(path.parent)
    return files


def _names_beside(masks: Sequence[Path], suffixes: Sequence[str]) -> list[str]:
    """What the names of the files beside each mask begin with: the mask's name, with its suffix only if needed."""
    plain = [mask.with_name(mask.name.removesuffix(suffix)) for mask, suffix in zip(masks, suffixes, strict=True)]
    counts, written = Counter(map(same_name, plain)), set(map(same_name, masks))
    taken = {name for name, times in counts.items() if times == 1}
    found = []
    for mask, name, suffix in zip(masks, plain, suffixes, strict=True):
        others = (mask.with_name(mask.name + number) for number in chain([""], (f"-{n}" for n in count(2))))
        free = (path for path in others if same_name(path) not in taken)
        tries = chain([name], free) if same_name(name) in taken else free
        beside = next(p for p in tries if same_name(p.with_name(f"{p.name}_regular{suffix}")) not in written)
        taken.add(same_name(beside))
        found.append(beside.name)
    return found


def _check_name(name: str, several: bool) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(name) if field is not None}
        called = name.format(stem="ct")
    except (ValueError, KeyError, IndexError, AttributeError):
        fields, called = {"?"}, ""
    if fields - {"stem"} or not called or called in (".", "..") or set(called) & set("/\\\0"):
        raise OutputError(f"got the name {name!r}, expected a file name, with {{stem}} for that of its case")
    suffix = next((s for s in (".seg.nrrd", ".npz", *VOLUME_SUFFIXES) if called.lower().endswith(s)), None)
    if suffix is not None:
        raise OutputError(f"got the name {name!r}, expected it without {suffix}; the format of a result is added")
    if several and not fields:
        raise OutputError(f"got the one name {name!r} for several cases, expected {{stem}} in it")


def _suffix(path: Path) -> str:
    """The file suffix of a case's result: the suffix of the case's own file, or the NIfTI suffix for DICOM."""
    return next((s for s in (".npz", *VOLUME_SUFFIXES) if path.name.lower().endswith(s)), ".nii.gz")

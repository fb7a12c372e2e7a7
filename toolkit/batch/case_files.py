"""Which files are written for each case, and that none of them takes the place of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import NamedTuple

from gstk.cases.names import distinct_names
from gstk.cases.volumes import VOLUME_SUFFIXES, regular_mask_path
from gstk.core.files import make_folder, refuse_existing
from gstk.errors import OutputError

__all__ = ["FORMATS", "NAME", "CaseFiles", "plan_case_files"]

FORMATS = ("nii.gz", "nii", "nrrd", "seg.nrrd", "mha", "npz")
"""Formats of results that may be asked for."""

NAME = "{stem}_mask"
"""The name of a result without its suffix; `{stem}` is the name of the case without its own."""


class CaseFiles(NamedTuple):
    """The files of one case. Those beside the mask are written only where they are asked for or needed.

    Attributes:
        source: the case.
        mask: its label map.
        regular: the label map on the regular grid, of an image that was resampled when it was read.
        labels: JSON that names and colours the label map's ids, where they have names.
        overlay: a picture.
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
    """Names the files of every case, and makes the folders for them.

    Args:
        sources: the cases, without repetition.
        folder: where the files go.
        name: of a result without its suffix, with `{stem}` for the name of its case.
        format: one of `FORMATS`; None is that of each case, and NIfTI for DICOM.
        overlay: whether a picture is written, too.
        overwrite: whether files of an earlier run are replaced.

    Returns:
        The files of each case, in order.

    Raises:
        OutputError: the name is none; a file would take the place of a case, or, without `overwrite`, of another file.
    """
    _check_name(name, several=len(sources) > 1)

    if format is not None and format not in FORMATS:
        raise OutputError(f"got the format {format!r}, expected one of {', '.join(FORMATS)}")

    def suffix(path: Path) -> str:
        return _suffix(path) if format is None else f".{format}"

    def called(stem: str) -> str:
        return name.format(stem=stem)

    masks, jsons, pictures = (
        [folder / path for path in distinct_names(sources, suffix_of, called)]
        for suffix_of in (suffix, lambda _: "_labels.json", lambda _: "_overlay.png")
    )
    files = [
        CaseFiles(source, mask, regular_mask_path(mask), *others)
        for source, mask, *others in zip(sources, masks, jsons, pictures, strict=True)
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
    refuse_existing(written, overwrite, "another --out folder or --name")
    for each in files:
        make_folder(each.mask.parent)
    return files


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
    """Of the result of a case: that of its file, and NIfTI's for DICOM."""
    return next((s for s in (".npz", *VOLUME_SUFFIXES) if path.name.lower().endswith(s)), ".nii.gz")

"""Names of results: one for each case, never the same for two."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, count
from pathlib import Path

from gstk.cases.volumes import case_name

__all__ = ["distinct_names", "same_name"]


def distinct_names(
    paths: Sequence[Path], ending_of: Callable[[Path], str], name_of: Callable[[str], str] = str
) -> list[Path]:
    """A relative path for the result of each case.

    Args:
        paths: the cases, without repetition.
        ending_of: the suffix of each case's result, such as ".npz".
        name_of: what the result of a case is called without the suffix, by the name of the case.

    Returns:
        Names and suffixes alone where they differ. Where some are the same (a cohort of p1/ct.nii.gz,
        p2/ct.nii.gz), every name comes with the folders below the one that all cases share. Names that are still the
        same (a.nii.gz and a.nrrd in one folder) become the case's full file name, with a number where even that is not
        enough.
        Names that differ in upper and lower case alone, or in how an accent is encoded, are the same on some systems,
        and count as the same.
    """
    endings = [ending_of(path) for path in paths]
    names = [Path(name_of(case_name(path)) + ending) for path, ending in zip(paths, endings, strict=True)]
    if not _repeated(names):
        return names
    folders = [path.absolute().parent for path in paths]
    shared = os.path.commonpath(folders)
    names = [Path(os.path.relpath(folder, shared)) / name for folder, name in zip(folders, names, strict=True)]
    again, distinct = _repeated(names), list(names)
    taken = {same_name(name) for name in names} - again
    for index, (path, name, ending) in enumerate(zip(paths, names, endings, strict=True)):
        if same_name(name) in again:
            tries = (
                name.with_name(name_of(path.name + number) + ending)
                for number in chain([""], (f"-{n}" for n in count(2)))
            )
            distinct[index] = next(name for name in tries if same_name(name) not in taken)
            taken.add(same_name(distinct[index]))
    return distinct


def same_name(path: Path) -> str:
    """What is equal for two paths that some file system takes as the same: upper and lower case, composed letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())


def _repeated(names: Sequence[Path]) -> set[str]:
    return {key for key, times in Counter(map(same_name, names)).items() if times > 1}

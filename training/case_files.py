"""The cases that a run trains on: folders, lists, and shares of sources. Without torch, so that mistakes show early."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from gstk.cases.npz import SpacingOrder, looks_reversed, read_geometry
from gstk.core.safe_npz import npz_shape, read_npz
from gstk.errors import GstkError, TrainingError
from gstk.training.recipe import Recipe

__all__ = ["PHANTOMS", "check_cases", "check_spacing", "find_cases", "groups_of", "read_list"]

PHANTOMS = "phantoms"
"""The share of `DataRecipe.shares` that is generated."""


def find_cases(folder: Path) -> list[Path]:
    """The .npz files of a folder and of those in it, sorted.

    Raises:
        TrainingError: there is no such folder, or no .npz file in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"got {folder}, expected a folder of .npz cases; gstk prepare makes them")
    found = sorted(path for path in folder.rglob("*.npz") if path.is_file())
    if not found:
        raise TrainingError(f"got {folder} without an .npz file, expected cases; gstk prepare makes them")
    return found


def read_list(path: Path, folder: Path) -> list[Path]:
    """The cases that a list names, one path a line, relative to `folder`; empty lines and lines with # are left out.

    Raises:
        TrainingError: the list cannot be read, is empty, or names what is not in the folder.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"cannot read the list {path}: {error}") from None
    cases = [folder / line for line in lines if line and not line.startswith("#")]
    strange = [case for case in cases if not case.is_file() or not case.resolve().is_relative_to(folder.resolve())]
    if strange or not cases:
        what = f"{strange[0].relative_to(folder)}, which is not there" if strange else "no case"
        raise TrainingError(f"got {what} in the list {path}, expected paths of .npz files in {folder}")
    return cases


def check_spacing(cases: Sequence[Path], spacing_order: str) -> str | None:
    """A warning where the spacing of cases looks reversed, or is missing; None where it does not.

    Headers alone are read; a case that cannot be read is the training's to report.

    Args:
        cases: .npz files.
        spacing_order: `DataRecipe.spacing_order`.
    """
    order: SpacingOrder = "xyz" if spacing_order == "xyz" else "zyx"
    reversed_cases, without = [], []
    for case in cases:
        try:
            shape = npz_shape(case, "imgs")
            spacing = read_npz(case, ("spacing",)).get("spacing")
            if shape is None or len(shape) != 3:
                continue
            if spacing is None:
                without.append(case)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                geometry = read_geometry(shape, spacing, order, case.name)
        except GstkError:
            continue
        if looks_reversed(geometry):
            reversed_cases.append(case)
    if reversed_cases:
        other = "xyz" if order == "zyx" else "zyx"
        return (
            f"the spacing of {len(reversed_cases)} of {len(cases)} cases, read as ({', '.join(order)}), looks "
            f"reversed, first that of {reversed_cases[0].name}; if it is, use --spacing-order {other}"
        )
    if without:
        return f"{len(without)} of {len(cases)} cases have no 'spacing'; 1 mm along each axis is assumed"
    return None


def check_cases(recipe: Recipe, cases: Sequence[Path], validation: Sequence[Path]) -> list[Path]:
    """The cases to train on: those that are not scored on.

    Raises:
        TrainingError: there is none; there are some, and the recipe generates its data; or `data.shares` does not fit.
    """
    held_out = {path.resolve() for path in validation}
    left = [path for path in cases if path.resolve() not in held_out]
    if recipe.data.source == "cases" and not left:
        raise TrainingError("got no case to train on, expected .npz files that are not all in the validation list")
    if recipe.data.source == "phantoms" and (cases or validation):
        raise TrainingError("got cases for a recipe that generates its data, expected none, or data.source = 'cases'")
    if left and recipe.data.shares:
        groups_of(left, recipe.data.shares)
    return left


def groups_of(paths: Sequence[Path], shares: Mapping[str, float]) -> list[tuple[float, list[Path]]]:
    """The cases of each share of `DataRecipe.shares`, with its weight; no case stands for generated volumes.

    Raises:
        TrainingError: a case that matches no pattern, or a pattern that matches no case.
    """
    groups: dict[str, list[Path]] = {pattern: [] for pattern in shares}
    for path in paths:
        pattern = next((p for p in shares if p != PHANTOMS and fnmatchcase(path.stem, p)), None)
        if pattern is None:
            raise TrainingError(
                f"got {path.name}, which matches nothing in data.shares; add a pattern, or leave it out"
            )
        groups[pattern].append(path)
    empty = [pattern for pattern, found in groups.items() if not found and pattern != PHANTOMS]
    if empty:
        raise TrainingError(f"got data.shares for {empty[0]}, which no case to train on matches; leave it out")
    return [(shares[pattern], found) for pattern, found in groups.items()]

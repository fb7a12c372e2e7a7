"""A coreset: a random share of the cases, as a list that `gstk train --cases` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gstk.core.files import atomic_path
from gstk.errors import TrainingError
from gstk.training.case_files import find_cases

__all__ = ["choose_coreset", "write_list"]


def choose_coreset(folder: Path, fraction: float, seed: int) -> list[Path]:
    """Draws cases without replacement, each as likely as any; at least one.

    Args:
        folder: searched for .npz files, with the folders in it.
        fraction: of the cases, in (0, 1].
        seed: the same seed and the same files give the same cases.

    Returns:
        Their paths, sorted.

    Raises:
        TrainingError: there is no case, or the fraction is none.
    """
    if not 0 < fraction <= 1:
        raise TrainingError(f"got the fraction {fraction}, expected above 0 and at most 1")
    cases = find_cases(folder)
    count = max(1, round(fraction * len(cases)))
    chosen = np.random.default_rng(seed).choice(len(cases), count, replace=False)
    return [cases[i] for i in sorted(chosen)]


def write_list(path: Path, cases: list[Path], folder: Path, remark: str) -> None:
    """Writes paths relative to `folder`, one a line, whole or not at all.

    Raises:
        OutputError: the list cannot be written.
    """
    lines = [f"# {remark}", *(case.relative_to(folder).as_posix() for case in cases)]
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")

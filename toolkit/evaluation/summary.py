"""Means over cases by modality: the tables of a challenge report, as CSV files and as data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gstk.core.files import atomic_path
from gstk.evaluation.case_scores import COLUMNS, CaseScores

__all__ = ["ALL", "RANKED", "ModalityMeans", "by_modality", "modality", "read_metrics", "write_csv", "write_metrics"]

RANKED = ("DSC_AUC", "NSD_AUC", "DSC_Final", "NSD_Final")
"""The four metrics that the challenge ranks by."""
ALL = "All"

_MODALITIES = {"ct": "CT", "mr": "MRI", "mri": "MRI", "microscopy": "Microscopy", "pet": "PET", "us": "Ultrasound"}
_ORDER = ("CT", "MRI", "Microscopy", "PET", "Ultrasound")


class ModalityMeans(NamedTuple):
    """Means over the cases of one modality.

    Attributes:
        modality: the challenge's name of the modality.
        cases: number of cases.
        means: mean of each metric in `RANKED`.
        seconds: mean time of the segmenter for a case.
        seconds_per_class: mean time of the segmenter for a class.
    """

    modality: str
    cases: int
    means: dict[str, float]
    seconds: float
    seconds_per_class: float


def modality(case_name: str) -> str:
    """Modality at the start of a case's name: "CT" for "CT_liver_003", "MRI" for "MR_prostate"; "Other" if unknown."""
    prefix, underscore, _ = case_name.partition("_")
    return _MODALITIES.get(prefix.lower(), prefix if underscore and prefix else "Other")


def by_modality(rows: Iterable[Mapping[str, Any]]) -> list[ModalityMeans]:
    """Means of the official rows: of each modality in the order of the challenge's tables, then of all cases.

    Args:
        rows: rows from `CaseScores.official` or `read_metrics`.

    Returns:
        The means; empty if there are no rows.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    everything = list(rows)
    for row in everything:
        groups.setdefault(modality(row["CaseName"].removesuffix(".npz")), []).append(row)
    names = sorted(groups, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    by_modality = [_means(name, groups[name]) for name in names]
    return [*by_modality, _means(ALL, everything)] if everything else []


def write_metrics(path: Path, scores: Sequence[CaseScores]) -> None:
    """Writes the official CSV, with one row for each case that has a reference."""
    write_csv(path, COLUMNS, [list(one.official().values()) for one in scores if one.classes])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of an official CSV; numeric columns are converted to numbers.

    Raises:
        ValueError: a column is missing, or a value is not a number.
        OSError: the file cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in ("CaseName", *RANKED) if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"no column {missing[0]}")
        return [{k: v if k == "CaseName" else float(v) for k, v in row.items()} for row in reader]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as a CSV file, atomically and with full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with atomic_path(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


def _means(name: str, rows: Sequence[Mapping[str, Any]]) -> ModalityMeans:
    seconds = sum(row["TotalRunningTime"] for row in rows)
    return ModalityMeans(
        name,
        len(rows),
        {metric: float(np.mean([row[metric] for row in rows])) for metric in RANKED},
        seconds / len(rows),
        seconds / max(1, sum(row["num_class"] for row in rows)),
    )

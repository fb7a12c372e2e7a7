"""`gstk compare`: paired comparison of two evaluations of the same cases, with confidence intervals and a test."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.core.files import StrPath
from gstk.errors import EvaluationError
from gstk.evaluation.runner import Evaluation, load_evaluation
from gstk.evaluation.summary import RANKED, ModalityMeans, by_modality, read_metrics

__all__ = ["Comparison", "PairedDifference", "compare"]

CONFIDENCE = 0.95
RESAMPLES = 9999
_TIME = "TotalRunningTime"


@dataclass(frozen=True)
class PairedDifference:
    """The difference B - A of one metric over the cases that are in both evaluations.

    Attributes:
        metric: column of the metric in the CSV.
        mean_a, mean_b: mean of A and of B over the cases.
        difference: mean of B - A over the cases.
        low, high: 95 % bootstrap interval (BCa) of the mean difference; both equal it if all differences are equal.
        p_value: p-value of Wilcoxon's two-sided signed-rank test; 1 if all differences are 0.
        better, worse: number of cases in which the value of B is above that of A, and below it.
    """

    metric: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    better: int
    worse: int


@dataclass(frozen=True)
class Comparison:
    """The paired comparison of two evaluations.

    Attributes:
        method_a, method_b: names of the methods.
        cases: names of the cases that are in both evaluations.
        only_a, only_b: names of the cases that are in one evaluation only; they are not compared.
        metrics: differences of the ranked metrics, and then of the time.
        means_a, means_b: means by modality over the paired cases.
        time_ratio: geometric mean over the cases of B's time divided by A's, with its interval; None if a time is 0.
    """

    method_a: str
    method_b: str
    cases: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    metrics: tuple[PairedDifference, ...]
    means_a: tuple[ModalityMeans, ...]
    means_b: tuple[ModalityMeans, ...]
    time_ratio: tuple[float, float, float] | None

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        means = {"means_a": self.means_a, "means_b": self.means_b}
        return {**asdict(self), **{name: [m._asdict() for m in listed] for name, listed in means.items()}}


def compare(folder_a: StrPath, folder_b: StrPath, seed: int = 0, timed: bool = True) -> Comparison:
    """Compares two folders of `gstk evaluate`, or two CSV files of the official evaluator.

    Args:
        folder_a, folder_b: the two evaluations; B is compared with A.
        seed: random seed of the bootstrap.
        timed: whether a case over the challenge's time limit scores 0; if False, folders are compared by the measured
            scores.

    Raises:
        EvaluationError: a folder or file is not an evaluation, or fewer than two cases are in both.
    """
    (method_a, rows_a), (method_b, rows_b) = _rows(Path(folder_a), timed), _rows(Path(folder_b), timed)
    if method_a == method_b:
        method_a, method_b = f"{method_a} (A)", f"{method_b} (B)"
    cases = sorted(set(rows_a) & set(rows_b))
    if len(cases) < 2:
        raise EvaluationError(f"got {len(cases)} cases that both {folder_a} and {folder_b} hold, expected two or more")
    rng = np.random.default_rng(seed)
    pairs = {metric: _values(rows_a, rows_b, cases, metric) for metric in (*RANKED, _TIME)}
    times_a, times_b = pairs[_TIME]
    ratio = None
    if (times_a > 0).all() and (times_b > 0).all():
        logs = np.log(times_b / times_a)
        low, high = _interval(logs, rng)
        ratio = (float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)))
    return Comparison(
        method_a,
        method_b,
        tuple(cases),
        tuple(sorted(set(rows_a) - set(rows_b))),
        tuple(sorted(set(rows_b) - set(rows_a))),
        tuple(_difference(metric, *values, rng) for metric, values in pairs.items()),
        tuple(by_modality(rows_a[name] for name in cases)),
        tuple(by_modality(rows_b[name] for name in cases)),
        ratio,
    )


def _rows(path: Path, timed: bool) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """The name of the method, and its official rows by case name."""
    if path.is_file():
        if not timed:
            raise EvaluationError(f"got the CSV {path}, expected a folder of gstk evaluate: a CSV holds timed scores")
        try:
            rows = read_metrics(path)
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path} is no CSV of the official evaluator: {error}") from None
        return path.stem.removesuffix("_metrics"), {row["CaseName"]: row for row in rows}
    evaluation: Evaluation = load_evaluation(path)
    official = (one.official(timed) for one in evaluation.scored)
    return evaluation.method, {row["CaseName"]: row for row in official}


def _values(
    rows_a: Mapping[str, Mapping[str, Any]], rows_b: Mapping[str, Mapping[str, Any]], cases: list[str], metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = (np.array([rows[name][metric] for name in cases], float) for rows in (rows_a, rows_b))
    return first, second


def _difference(
    metric: str, first: NDArray[np.float64], second: NDArray[np.float64], rng: np.random.Generator
) -> PairedDifference:
    from scipy.stats import wilcoxon

    differences = second - first
    low, high = _interval(differences, rng)
    p_value = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    mean = float(differences.mean())
    return PairedDifference(metric, float(first.mean()), float(second.mean()), mean, low, high, p_value, better, worse)


def _interval(values: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """The bootstrap interval of the mean."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean
    options = {"n_resamples": RESAMPLES, "confidence_level": CONFIDENCE, "rng": rng}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap((values,), np.mean, method="BCa", **options).confidence_interval
        if not np.isfinite(interval).all():  # BCa is undefined for few values that are almost all equal
            interval = bootstrap((values,), np.mean, method="percentile", **options).confidence_interval
    return float(interval.low), float(interval.high)

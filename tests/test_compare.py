"""Paired comparison against SciPy by hand, and what it says in cases that have a known answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Run
from scipy import stats

from gstk.errors import EvaluationError
from gstk.evaluation.case_scores import COLUMNS
from gstk.evaluation.compare import compare
from gstk.evaluation.summary import write_csv


def write(path: Path, dsc: dict[str, float], seconds: float = 2.0) -> Path:
    rows = []
    for name, value in dsc.items():
        row = dict.fromkeys(COLUMNS, 1.0) | {"CaseName": f"{name}.npz", "TotalRunningTime": seconds}
        rows.append([*(row | {"DSC_AUC": 4 * value, "DSC_Final": value}).values()])
    write_csv(path, COLUMNS, rows)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    rng = np.random.default_rng(1)
    names = [f"{m}_{i}" for i in range(15) for m in ("CT", "PET")]
    first = rng.uniform(0.3, 0.8, 30)
    difference = rng.normal(0.03, 0.05, 30)
    a = write(tmp_path / "a_metrics.csv", dict(zip(names, first, strict=True)))
    second = dict(zip(names, first + difference, strict=True))
    return a, write(tmp_path / "b_metrics.csv", {**second, "US_0": 0.5}, seconds=5.0), difference


def test_differences_intervals_and_test(pair: tuple[Path, Path, np.ndarray]) -> None:
    a, b, difference = pair
    found = compare(a, b)
    assert (found.method_a, found.method_b) == ("a", "b")
    assert len(found.cases) == 30
    assert (found.only_a, found.only_b) == ((), ("US_0.npz",))
    final = next(d for d in found.metrics if d.metric == "DSC_Final")
    assert final.difference == pytest.approx(difference.mean())
    assert final.mean_b - final.mean_a == pytest.approx(final.difference)
    assert final.p_value == pytest.approx(stats.wilcoxon(difference).pvalue)
    # The bootstrap's interval is near Student's, for values that are nearly normal.
    low, high = stats.t.interval(0.95, 29, difference.mean(), stats.sem(difference))
    assert final.low == pytest.approx(low, abs=0.004)
    assert final.high == pytest.approx(high, abs=0.004)
    assert (final.better, final.worse) == ((difference > 0).sum(), (difference < 0).sum())
    assert found.time_ratio == pytest.approx((2.5, 2.5, 2.5))
    assert [m.modality for m in found.means_a] == ["CT", "PET", "All"]
    assert compare(a, b) == found
    back = next(d for d in compare(b, a).metrics if d.metric == "DSC_Final")
    assert back.difference == pytest.approx(-final.difference)


def test_an_evaluation_and_itself(pair: tuple[Path, Path, np.ndarray]) -> None:
    found = compare(pair[0], pair[0])
    assert (found.method_a, found.method_b) == ("a (A)", "a (B)")
    for d in found.metrics:
        assert (d.difference, d.low, d.high, d.p_value, d.better, d.worse) == (0, 0, 0, 1, 0, 0)
    assert found.time_ratio == (1, 1, 1)


def test_coverage_of_the_interval() -> None:
    """About 95 of 100 intervals hold the true mean difference; far fewer would mean that they lie."""
    from gstk.evaluation.compare import _interval

    rng = np.random.default_rng(3)
    held = 0
    for _ in range(60):
        low, high = _interval(rng.normal(0.2, 1.0, 25), rng)
        held += low <= 0.2 <= high
    assert held >= 50


def test_what_is_refused(pair: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="two or more"):
        compare(pair[0], write(tmp_path / "c.csv", {"CT_0": 0.5}))
    with pytest.raises(EvaluationError, match="timed"):
        compare(*pair[:2], timed=False)
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    with pytest.raises(EvaluationError, match="CaseName"):
        compare(pair[0], tmp_path / "d.csv")
    with pytest.raises(EvaluationError, match=r"run\.json"):
        compare(pair[0], tmp_path)


def test_the_command(run: Run, pair: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    outcome = run("compare", *pair[:2], "-o", tmp_path / "c.json")
    assert outcome.code == 0, outcome.err
    assert "DSC_Final" in outcome.out
    assert "2.5 times" in outcome.out
    assert "1 cases are only in b: US_0.npz" in outcome.err
    values = json.loads((tmp_path / "c.json").read_text())
    assert values["means_a"][0]["modality"] == "CT"
    assert values["metrics"][0]["metric"] == "DSC_AUC"

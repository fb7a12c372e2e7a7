"""The learning curve of a training, of what `validation_split.py` wrote: one JSON of all, and a plot.

    python benchmarks/learning_curve.py RESULT.json [RESULT.json ...] --out benchmarks/results/learning_curve.json
        --plot docs/learning_curve.png

Shown is the network alone in the windows of a session. Intervals are 95 %, a bootstrap over the cases of the difference
from the first checkpoint, windows of a case together.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

DRAWS = 5000


def difference(first: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """AUC over the clicks against the first checkpoint: mean over the cases, and its interval."""

    def aucs(of: dict[str, Any]) -> NDArray[np.float64]:
        return np.array([np.trapezoid(np.array(objects), axis=1).mean() for objects in of["cases"].values() if objects])

    each = aucs(run) - aucs(first)
    rng = np.random.default_rng(0)
    means = [rng.choice(each, len(each)).mean() for _ in range(DRAWS)]
    return {"auc_difference": float(each.mean()), "interval": np.percentile(means, [2.5, 97.5]).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    arguments = parser.parse_args()
    reports = [json.loads(path.read_text()) for path in arguments.results]
    runs = [run for report in reports for run in report["runs"]]
    windows = sorted((run for run in runs if run["start"] == "windows"), key=lambda run: run["step"] or 0)
    for run in windows:
        run |= difference(windows[0], run)
    kept = {
        "machine": reports[0]["machine"],
        "cases": sorted({case for r in reports for case in r["cases"]}),
        "runs": runs,
    }
    arguments.out.write_text(json.dumps(kept, indent=1) + "\n")
    steps = [run["step"] or 0 for run in windows]
    figure, (clicks, sources) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for click, mark in ((0, "o"), (1, "s"), (4, "^")):
        clicks.plot(steps, [run["mean"][click] for run in windows], marker=mark, label=f"after click {click + 1}")
    clicks.set(
        xlabel="steps on real volumes", ylabel="Dice, mean over sources", title="Network alone, validation split"
    )
    clicks.legend()
    for source in windows[0]["by_source"]:
        values = [np.trapezoid(run["by_source"][source]) for run in windows]
        sources.plot(steps, values, marker=".", label=source)
    sources.set(xlabel="steps on real volumes", ylabel="AUC over five clicks (at most 4)", title="By source")
    sources.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(arguments.plot, dpi=110)


if __name__ == "__main__":
    main()

"""The learning curve of a training, of what `validation_split.py --windows` wrote: one JSON of all, and a plot.

    python benchmarks/learning_curve.py RESULT.json [RESULT.json ...] --seen 0 3600 9800 [...] [--annealed 2 5]
        [--more 500000] --out benchmarks/results/learning_curve.json --plot docs/learning_curve.png

Shown is the network alone in windows of a session. `--seen` says how many windows each checkpoint was trained on, in
the order of the results. Intervals are 95 %, a bootstrap over the cases of the difference from the first checkpoint,
windows of a case together. `--annealed` names two checkpoints, counted from 0, whose learning rate was brought down to
nothing: a line through them, over the logarithm of the windows, is what `--more` windows would bring.
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


def extrapolated(first: dict[str, Any], second: dict[str, Any], seen: int) -> dict[str, float]:
    """AUC and Dice after the first click where so many windows are seen, on a line over the logarithm of them."""
    share = np.log(seen / second["seen"]) / np.log(second["seen"] / first["seen"])

    def along(a: float, b: float) -> float:
        return float(b + share * (b - a))

    ends = first["mean"], second["mean"]
    return {
        "seen": seen,
        "auc": along(first["auc"], second["auc"]),
        "after_one_click": along(ends[0][0], ends[1][0]),
        "after_five": along(ends[0][-1], ends[1][-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--seen", type=int, nargs="+", required=True)
    parser.add_argument("--annealed", type=int, nargs=2)
    parser.add_argument("--more", type=int, default=500_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    arguments = parser.parse_args()
    reports = [json.loads(path.read_text()) for path in arguments.results]
    runs = [run for report in reports for run in report["runs"]]
    for run, seen in zip(runs, arguments.seen, strict=True):
        run |= difference(runs[0], run) | {"seen": seen}
    kept = {
        "machine": reports[0]["machine"],
        "cases": sorted({case for r in reports for case in r["cases"]}),
        "runs": runs,
    }
    if arguments.annealed:
        kept["more"] = extrapolated(runs[arguments.annealed[0]], runs[arguments.annealed[1]], arguments.more)
        print(kept["more"])
    arguments.out.write_text(json.dumps(kept, indent=1) + "\n")
    windows = sorted(runs, key=lambda run: run["seen"])
    steps = [run["seen"] / 1000 for run in windows]
    figure, (clicks, sources) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for click, mark in ((0, "o"), (1, "s"), (4, "^")):
        clicks.plot(steps, [run["mean"][click] for run in windows], marker=mark, label=f"after click {click + 1}")
    clicks.set(
        xlabel="thousand windows trained on", ylabel="Dice, mean over sources", title="Network alone, validation split"
    )
    clicks.legend()
    for source in windows[0]["by_source"]:
        values = [np.trapezoid(run["by_source"][source]) for run in windows]
        sources.plot(steps, values, marker=".", label=source)
    sources.set(xlabel="thousand windows trained on", ylabel="AUC over five clicks (at most 4)", title="By source")
    sources.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(arguments.plot, dpi=110)


if __name__ == "__main__":
    main()

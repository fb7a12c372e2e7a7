"""Which clicks should stage 2 train with? One network fine-tuned by each sampler, several seeds, scored on real cases.

    python benchmarks/ablation_sampling.py CASES --init STAGE1.pt --work DIR [--steps 400] [--seeds 3]
        [--out benchmarks/results/ablation_sampling.json] [--plot docs/ablation_sampling.png]

Every run begins with the same weights; with the same seed they see the same generated volumes, clicked differently.
Scores are those of `benchmarks/real_cases.py`: five clicks by the official rule, no box. The weights that all begin
with are scored too. Runs that are done are not done again. Intervals are 95 %: a bootstrap over the cases of their mean
over the seeds, and for differences between samplers one over the cases' differences.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from real_cases import score_case
from rich.console import Console
from rich.progress import track
from rich.table import Table

import gstk
from gstk.export.export import export_bundle
from gstk.training.recipe import Recipe, load_recipe
from gstk.training.sampling import SAMPLERS
from gstk.training.train import train

DRAWS = 10_000


def fine_tuned(recipe: Recipe, sampler: str, seed: int, init: Path, folder: Path) -> Path:
    """The model of one run, trained where it is not there yet."""
    stage = replace(recipe.stage2, sampler=sampler)
    chosen = replace(recipe, seed=seed, stage2=stage, validation=replace(recipe.validation, cases=0))
    return train(chosen, folder, stages=[2], init=init, resume=folder.exists())


def scored(model: Path, cases: list[Path], roi: tuple[int, int, int], file: Path) -> dict[str, list[float]]:
    """Dice after each click, by case; kept in a file."""
    if not file.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            export_bundle(model, Path(scratch) / "bundle", name=model.parent.name, licence="none", default_roi=roi)
            with gstk.open(Path(scratch) / "bundle") as session:
                console = Console(stderr=True)
                results = [score_case(session, gstk.load_case(c), "clicks") for c in track(cases, console=console)]
        file.write_text(json.dumps({r["case"]: r["dsc"] for r in results}, indent=1) + "\n")
    read: dict[str, list[float]] = json.loads(file.read_text())
    return read


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of the bootstrap of the mean."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def summary(runs: np.ndarray) -> dict[str, Any]:
    """Of Dice [seeds, cases, clicks]."""
    per_case = runs.mean(axis=0)
    auc = np.trapezoid(per_case, axis=1)
    return {
        "dsc": per_case.mean(axis=0).tolist(),
        "dsc_final": float(per_case[:, -1].mean()),
        "dsc_final_interval": interval(per_case[:, -1]),
        "dsc_auc": float(auc.mean()),
        "dsc_auc_interval": interval(auc),
        "dsc_final_of_seeds": runs[:, :, -1].mean(axis=1).tolist(),
        "dsc_auc_of_seeds": np.trapezoid(runs, axis=2).mean(axis=1).tolist(),
    }


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = list(results["samplers"])
    clicks = np.arange(1, 6)
    axes[0].plot(clicks, results["start"]["dsc"], color="0.6", linestyle="--", label="before stage 2")
    for place, name in enumerate(names):
        found = results["samplers"][name]
        axes[0].plot(clicks, found["dsc"], marker="o", markersize=4, label=name)
        low, high = found["dsc_auc_interval"]
        axes[1].plot([low, high], [place, place], color=f"C{place}")
        axes[1].plot(found["dsc_auc_of_seeds"], [place] * len(found["dsc_auc_of_seeds"]), "|", color=f"C{place}", ms=12)
        axes[1].plot(found["dsc_auc"], place, "o", color=f"C{place}")
    axes[0].set(xlabel="clicks on each object", ylabel="mean Dice, 20 real cases", xticks=clicks)
    axes[0].legend(frameon=False)
    axes[1].axvline(results["start"]["dsc_auc"], color="0.6", linestyle="--")
    axes[1].set(xlabel="DSC_AUC: mean, 95 % over cases, each seed", yticks=range(len(names)), yticklabels=names)
    axes[1].margins(y=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    base = load_recipe(arguments.recipe)
    recipe = replace(
        base,
        data=replace(base.data, growth_patches=0),
        stage2=replace(base.stage2, steps=arguments.steps, warmup_steps=arguments.steps // 20),
        loop=replace(base.loop, ema_decay=0.99),
    )
    side = round(max(recipe.data.zoom_voxels) ** (1 / 3) / 16) * 16
    roi = (max(64, side),) * 3
    cases = sorted(arguments.cases.glob("*.npz"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    before = scored(arguments.init, cases, roi, arguments.work / "start.json")
    found: dict[str, list[dict[str, list[float]]]] = {}
    for seed in range(arguments.seeds):
        for sampler in SAMPLERS:
            folder = arguments.work / f"{sampler}-{seed}"
            model = fine_tuned(recipe, sampler, seed, arguments.init, folder)
            found.setdefault(sampler, []).append(scored(model, cases, roi, folder / "scores.json"))
    runs = {name: np.array([list(of_seed.values()) for of_seed in seeds]) for name, seeds in found.items()}
    differences = {}
    for first in SAMPLERS:
        for second in SAMPLERS[SAMPLERS.index(first) + 1 :]:
            gap = np.trapezoid(runs[second] - runs[first], axis=2).mean(axis=0)
            differences[f"{second} - {first}"] = {"dsc_auc": float(gap.mean()), "interval": interval(gap)}
    results = {
        "machine": describe("torch", "monai", "openvino"),
        "recipe": recipe.to_dict(),
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "cases": len(cases),
        "start": summary(np.array([list(before.values())])),
        "samplers": {name: summary(values) for name, values in runs.items()},
        "differences": differences,
    }
    table = Table("clicks of stage 2", "click 1", "click 5", "DSC_AUC", "95 % over cases", "of each seed")
    for name, row in [("none (start)", results["start"]), *results["samplers"].items()]:
        low, high = row["dsc_auc_interval"]
        seeds = " ".join(f"{v:.3f}" for v in row["dsc_auc_of_seeds"])
        table.add_row(
            name,
            f"{row['dsc'][0]:.3f}",
            f"{row['dsc'][-1]:.3f}",
            f"{row['dsc_auc']:.3f}",
            f"{low:.2f}..{high:.2f}",
            seeds,
        )
    Console(width=120).print(table)
    for name, gap in differences.items():
        print(f"{name}: DSC_AUC {gap['dsc_auc']:+.3f} ({gap['interval'][0]:+.3f} to {gap['interval'][1]:+.3f})")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()

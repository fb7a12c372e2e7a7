"""Dice of a bundle on labelled cases, by the official click protocol; prints a table and writes JSON.

    python benchmarks/real_cases.py CASES [--bundle tiny] [--start clicks|boxes] [--precision int8] [--refine yes|no]
        [--out NAME.json]

Five rounds; in each, every class gets one click at the centre of its largest error (`core.click_rule`). With `--start
boxes` a round 0 gives the case's boxes first. Scores are means over the classes of a case. DSC_AUC is the trapezoid
over the five rounds of clicks (at most 4), DSC_Final the last round's mean.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from rich.console import Console
from rich.progress import track
from rich.table import Table

import gstk
from gstk.core.prompts import ObjectPrompts
from gstk.evaluation.protocol import click_by_click

ROUNDS = 5


def score_case(session: gstk.Session, case: gstk.Case, start: str) -> dict[str, Any]:
    assert case.labels is not None
    began = time.perf_counter()
    encodes = session.encodes
    boxes = {k: ObjectPrompts(box=p.box) for k, p in case.prompts.items()} if start == "boxes" else None
    scores = click_by_click(session, case.image, case.geometry.spacing_mm, case.labels, ROUNDS, start=boxes)
    return {
        "case": case.name,
        "shape": list(case.geometry.shape),
        "classes": len(scores.classes),
        "dsc_box": None if scores.start is None else float(np.mean(scores.start)),
        "dsc": scores.means,
        "dsc_per_class": scores.rounds[-1],
        "auc": float(np.trapezoid(scores.means)),
        "final": scores.means[-1],
        "encodes": session.encodes - encodes,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--start", choices=("clicks", "boxes"), default="clicks")
    parser.add_argument("--refine", choices=("yes", "no"), help="the bundle's own choice otherwise")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    console = Console(width=120)
    results = []
    refine = None if arguments.refine is None else arguments.refine == "yes"
    with gstk.open(arguments.bundle, arguments.backend, precision=arguments.precision, refine=refine) as session:
        for path in track(sorted(arguments.cases.glob("*.npz")), console=Console(stderr=True)):
            results.append(score_case(session, gstk.load_case(path), arguments.start))
    table = Table("case", "classes", "box", *(f"click {i + 1}" for i in range(ROUNDS)), "AUC", "encodes", "s")
    for r in results:
        box = "" if r["dsc_box"] is None else f"{r['dsc_box']:.3f}"
        scores = [f"{v:.3f}" for v in r["dsc"]]
        table.add_row(
            r["case"], str(r["classes"]), box, *scores, f"{r['auc']:.2f}", str(r["encodes"]), f"{r['seconds']:.1f}"
        )
    mean = np.mean([r["dsc"] for r in results], axis=0)
    auc, seconds = float(np.mean([r["auc"] for r in results])), sum(r["seconds"] for r in results)
    table.add_section()
    table.add_row("mean", "", "", *(f"{v:.3f}" for v in mean), f"{auc:.2f}", "", f"{seconds:.0f}")
    console.print(table)
    if arguments.out:
        summary = {"dsc": mean.tolist(), "dsc_final": float(mean[-1]), "dsc_auc": auc}
        report = {
            "machine": describe("openvino", "onnxruntime"),
            "bundle": str(arguments.bundle),
            "backend": arguments.backend,
            "precision": arguments.precision,
            "start": arguments.start,
            "mean": summary,
            "cases": results,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

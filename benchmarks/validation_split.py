"""Checkpoints of a training on cases that it was not trained on: the network alone, and through a session with extras.

    python benchmarks/validation_split.py CASES LIST CHECKPOINT [CHECKPOINT ...] [--objects 2] [--out NAME.json]
    python benchmarks/validation_split.py CASES LIST CHECKPOINT [CHECKPOINT ...] --windows 4 [--out NAME.json]

Five clicks on each object by the official rule, and the same from the object's own box. With `--windows`, the network
alone in so many windows of each case, as a session lays them around a click, a box or a wrong mask, the same for every
checkpoint: a fifth of the time, and differences are paired. `tiny` in the place of a
checkpoint is the built-in bundle. Means are over sources (the name up to its digits), so that none outweighs the rest.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from monai.networks.nets.vista3d import VISTA3D
from rich.console import Console
from rich.table import Table

from gstk.core.bundle import Bundle, find_bundle
from gstk.core.click_rule import next_click, seeded_choice
from gstk.core.prompts import Box, ObjectPrompts
from gstk.core.window import WindowPolicy
from gstk.evaluation.protocol import click_by_click
from gstk.export.weights import network_of_bundle
from gstk.session.extras.image_guidance import ImageGuidance
from gstk.session.session import Session
from gstk.training.case_files import read_list
from gstk.training.checkpoint import load_extra, load_network
from gstk.training.cutting import cut_patches
from gstk.training.data import read_volume
from gstk.training.precision import autocast_dtype
from gstk.training.recipe import DataRecipe
from gstk.training.validation import NetworkEngine

CLICKS = 5
MULTIPLE, VOXELS = 8, 64**3


def network_of(name: str) -> tuple[VISTA3D, dict[str, Any]]:
    if Path(name).is_file():
        training = load_extra(name).get("training", {})
        return load_network(name), {"step": training.get("step"), "stage": training.get("stage")}
    bundle = Bundle.open(find_bundle(name))
    return network_of_bundle(bundle), {"step": 0, "stage": 0}


def score(session: Session, path: Path, objects: int, boxed: bool) -> list[list[float]]:
    """Dice of each object after the box, where there is one, and after each click."""
    volume = read_volume(path)
    sizes = np.bincount(volume.labels.ravel())
    sizes[0] = 0
    rng = np.random.default_rng(sum(path.name.encode()))
    classes = sorted(int(k) for k in rng.permutation(np.flatnonzero(sizes))[:objects])
    truth = np.where(np.isin(volume.labels, classes), volume.labels, 0)
    start = None
    if boxed:
        start = {}
        for k in classes:
            voxels = np.argwhere(truth == k)
            start[k] = ObjectPrompts(box=Box.from_corners([voxels.min(axis=0).tolist(), voxels.max(axis=0).tolist()]))
    scored = click_by_click(session, np.asarray(volume.image), volume.spacing_mm, truth, CLICKS, classes, start=start)
    rounds = scored.rounds if scored.start is None else [scored.start, *scored.rounds]
    return [list(column) for column in zip(*rounds, strict=True)]


def score_windows(network: VISTA3D, path: Path, count: int, dtype: torch.dtype | None) -> list[list[float]]:
    """Dice of an object of each window after each click; the windows depend on the case's name alone."""
    recipe = DataRecipe(
        cut="zoom",
        patches_per_case=count,
        max_objects=1,
        zoom_voxels=(40**3, 40**3),
        zoom_sides=(40, 48, 56, 64),
        session_share=1.0,
        session_voxels=(40**3, 64**3),
    )
    patches = cut_patches(read_volume(path), recipe, np.random.default_rng(sum(path.name.encode())))
    scores = []
    with NetworkEngine(network, MULTIPLE, torch.device("cpu"), dtype) as engine:
        for patch in patches:
            truth, mask = patch.labels == patch.classes[0], np.zeros(patch.labels.shape, bool)
            embedding, clicks, dices = engine.encode(patch.image[None, None]), [], []
            for _ in range(CLICKS):
                click = next_click(mask, truth, seeded_choice)
                if click is not None:
                    clicks.append(click)
                coords = np.array([[c.zyx for c in clicks]], np.float32)
                labels = np.array([[int(c.foreground) for c in clicks]], np.int64)
                mask = engine.decode(embedding, coords, labels)[0, 0] > 0
                dices.append(float(2 * (mask & truth).sum() / max(1, mask.sum() + truth.sum())))
            scores.append(dices)
    return scores


def summary(cases: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Means over sources of the means over their objects."""
    sources: dict[str, list[list[float]]] = defaultdict(list)
    for name, objects in cases.items():
        sources[re.sub(r"[-_]?\d.*", "", name)] += objects
    by_source = {source: np.mean(objects, axis=0) for source, objects in sorted(sources.items())}
    mean = np.mean(list(by_source.values()), axis=0)
    changes = np.diff([o for objects in cases.values() for o in objects], axis=1)
    return {
        "mean": mean.tolist(),
        "auc": float(np.trapezoid(mean[-CLICKS:])),
        "by_source": {source: values.tolist() for source, values in by_source.items()},
        "lowered_by_more_than_0.05": (changes < -0.05).sum(axis=0).tolist(),
        "objects": len(changes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--objects", type=int, default=2, help="of a case, drawn at random")
    parser.add_argument("--every", type=int, default=1, help="so many cases of the list are one that is scored")
    parser.add_argument("--windows", type=int, help="of a case; the network alone in them")
    parser.add_argument("--starts", default="clicks,boxes")
    parser.add_argument("--refine", default="no,yes")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    paths = read_list(arguments.list, arguments.cases)[:: arguments.every]
    device = torch.device("cpu")
    dtype = autocast_dtype("auto", device)
    policy = WindowPolicy(max_voxels=VOXELS, multiple=MULTIPLE, min_side=2 * MULTIPLE)
    runs = []
    table = Table("checkpoint", "step", "start", "extras", "Dice after the box, each click", "AUC", "lowered", "s")
    for name in arguments.checkpoints:
        network, about = network_of(name)
        if arguments.windows:
            began = time.perf_counter()
            cases = {p.stem: score_windows(network, p, arguments.windows, dtype) for p in paths}
            found = summary(cases)
            runs.append({"checkpoint": Path(name).name, **about, "start": "windows", **found, "cases": cases})
            means = " ".join(f"{v:.3f}" for v in found["mean"])
            Console(width=150).print(
                f"{name}: {means}  AUC {found['auc']:.3f}  lowered {found['lowered_by_more_than_0.05']} of "
                f"{found['objects']}  {time.perf_counter() - began:.0f} s"
            )
            continue
        with NetworkEngine(network, MULTIPLE, device, dtype) as engine:
            for refine in arguments.refine.split(","):
                session = Session(engine, policy, ImageGuidance() if refine == "yes" else None, owns_engine=False)
                for start in arguments.starts.split(","):
                    began = time.perf_counter()
                    cases = {p.stem: score(session, p, arguments.objects, start == "boxes") for p in paths}
                    found = summary(cases)
                    run = {"checkpoint": Path(name).name, **about, "start": start, "extras": refine == "yes"}
                    runs.append({**run, **found, "cases": cases})
                    means = " ".join(f"{v:.3f}" for v in found["mean"])
                    lowered = " ".join(map(str, found["lowered_by_more_than_0.05"]))
                    seconds = f"{time.perf_counter() - began:.0f}"
                    step = f"{about['stage']}/{about['step']}"
                    table.add_row(Path(name).name, step, start, refine, means, f"{found['auc']:.3f}", lowered, seconds)
                    Console(width=150).print(f"{name} {start} {refine}: {means}  AUC {found['auc']:.3f}")
    if not arguments.windows:
        Console(width=150).print(table)
    if arguments.out:
        report = {"machine": describe("torch"), "cases": [p.name for p in paths], "runs": runs}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

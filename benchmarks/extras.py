"""What each of the image extras is worth: Dice of a bundle through a session, with one of them left out at a time.

    python benchmarks/extras.py CASES LIST [--bundle tiny] [--start boxes|clicks] [--objects 1]
        [--leave-out NAME ...] [--out NAME.json]

LIST names the cases, one a line, that the bundle was not trained on. Five clicks on each object by the official rule.
Means are over sources (the name up to its digits), as in `validation_split.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from machine import describe
from rich.console import Console
from rich.progress import track
from rich.table import Table
from validation_split import MULTIPLE, VOXELS, network_of, score, summary

from gstk.core.window import WindowPolicy
from gstk.session.extras import click_weight, image_refiner, reprompting
from gstk.session.extras.image_guidance import ImageGuidance
from gstk.session.session import Session
from gstk.training.case_files import read_list
from gstk.training.precision import autocast_dtype
from gstk.training.validation import NetworkEngine

LEFT_OUT: dict[str, list[tuple[Any, str, Any]]] = {
    "nothing": [],
    "all": [],
    "box prior": [(image_refiner, "BOX_WEIGHT", np.float32(0))],
    "geodesic score": [(image_refiner, "PATH_WEIGHT", np.float32(0))],
    "appearance": [(image_refiner, "APPEARANCE_WEIGHT", np.float32(0))],
    "reprompting": [(reprompting, "ON", 0), (reprompting, "OFF", 0)],
    "click weight": [(click_weight, "CENTRE", np.float32(0)), (click_weight, "FAR_SHARE", np.float32(1))],
}


@contextmanager
def without(name: str) -> Iterator[None]:
    with ExitStack() as stack:
        for module, constant, value in LEFT_OUT[name]:
            stack.enter_context(mock.patch.object(module, constant, value))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--start", choices=("boxes", "clicks"), default="boxes")
    parser.add_argument("--objects", type=int, default=1, help="most objects of a case")
    parser.add_argument("--leave-out", nargs="*", choices=LEFT_OUT, default=list(LEFT_OUT))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    network, _ = network_of(arguments.bundle)
    policy = WindowPolicy(max_voxels=VOXELS, multiple=MULTIPLE, min_side=2 * MULTIPLE)
    dtype = autocast_dtype("auto", torch.device("cpu"))
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in arguments.leave_out}
    with NetworkEngine(network, MULTIPLE, torch.device("cpu"), dtype) as engine:
        paths = read_list(arguments.list, arguments.cases)
        for path in track(paths, console=Console(stderr=True)):
            for name, cases in found.items():
                with without(name):
                    extra = None if name == "all" else ImageGuidance()
                    session = Session(engine, policy, extra, owns_engine=False)
                    cases[path.stem] = score(session, path, arguments.objects, arguments.start == "boxes")
    report: dict[str, Any] = {"machine": describe(), "bundle": arguments.bundle, "start": arguments.start}
    report |= {"objects": arguments.objects, "left_out": {name: summary(cases) for name, cases in found.items()}}
    table = Table("left out", "Dice", "AUC", "falls above 0.05")
    for name, values in report["left_out"].items():
        dice = " ".join(f"{value:.3f}" for value in values["mean"])
        table.add_row(name, dice, f"{values['auc']:.3f}", str(values["lowered_by_more_than_0.05"]))
    Console().print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

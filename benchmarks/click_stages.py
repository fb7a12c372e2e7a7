"""Seconds of the stages of one click with `tiny`, with and without what is kept from click to click, in turn.

    python benchmarks/click_stages.py CASES [--case CT_totalseg_abdomen] [--rounds 1] [--out FILE.json]

Each object of the case gets its box and then three clicks by the official rule. Every click is made twice, in turn and
with `undo` between: first with the image's fields and the geodesic distances kept from the clicks before (`kept`), then
with both computed anew (`anew`). Both masks have to be the same. Processor seconds count the work of all threads, and
hold where other programs share the machine; medians of all clicks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe

import gstk
from gstk.core.click_rule import next_click
from gstk.core.prompts import ObjectPrompts
from gstk.session import segmenter as segmenting
from gstk.session.extras import image_guidance, image_refiner

CLICKS = 3
STAGES = {
    "decode (network)": (segmenting.TimedEngine, "decode"),
    "image on the grid": (segmenting.ObjectSegmenter, "_sample"),
    "refinement, whole": (image_guidance.ImageGuidance, "refine"),
    "refinement: fields of the image": (image_guidance.ImageGuidance, "_fields_of"),
    "refinement: geodesic distances": (image_refiner, "geodesic_score"),
    "refinement: histograms": (image_refiner, "_histogram"),
    "refinement: box": (image_refiner, "relax_box_prior"),
    "to the volume": (segmenting, "project_on"),
    "click applied": (segmenting, "apply_click"),
}


class Timer:
    """Processor seconds of functions that are wrapped for a while."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = [(owner, name, getattr(owner, name)) for owner, name in STAGES.values()]
        for stage, (owner, name) in STAGES.items():
            setattr(owner, name, self._timed(stage, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[stage] += time.process_time() - began

        return timed


def click(session: gstk.Session, prompts: ObjectPrompts, keeps: bool) -> tuple[dict[str, float], np.ndarray]:
    timer = Timer()
    extra: Any = session._segmenter.extra
    if not keeps:
        extra._fields.clear()
    began, began_s = time.perf_counter(), time.process_time()
    with timer.watching():
        session.set_prompts(prompts)
    timer.seconds["whole click"] = time.process_time() - began_s
    timer.seconds["whole click, wall"] = time.perf_counter() - began
    return timer.seconds, session.mask.copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--case", default="CT_totalseg_abdomen")
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    case = gstk.load_case(arguments.cases / f"{arguments.case}.npz")
    assert case.labels is not None
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    with gstk.open("tiny") as session:
        for _ in range(arguments.rounds):
            for object_id in [k for k, own in case.prompts.items() if own.box][: arguments.objects]:
                session.set_image(case.volume)
                prompts = ObjectPrompts(box=case.prompts[object_id].box)
                session.set_prompts(prompts)
                truth = case.labels == object_id
                for _ in range(CLICKS):
                    point = next_click(session.mask > 0, truth)
                    if point is None:
                        break
                    prompts = ObjectPrompts((*prompts.points, point), prompts.box)
                    masks = []
                    for keeps in (True, False):  # what the other keeps is of this click, which the next one begins with
                        seconds, mask = click(session, prompts, keeps)
                        found[keeps].append(dict(seconds))
                        masks.append(mask)
                        session.undo()
                    assert np.array_equal(*masks)
                    session.set_prompts(prompts)
    stages = ["whole click", "whole click, wall", *STAGES]
    table = {
        s: {"anew_s": median(r.get(s, 0.0) for r in found[False]), "kept_s": median(r.get(s, 0.0) for r in found[True])}
        for s in stages
    }
    pairs = [a["whole click"] / b["whole click"] for a, b in zip(found[False], found[True], strict=True)]
    for stage, row in table.items():
        print(f"{stage:36} {row['anew_s']:.3f} s {row['kept_s']:.3f} s")
    print(f"whole click, median of pairs: {median(pairs):.2f} times as fast; {len(pairs)} clicks")
    if arguments.out:
        report = {
            "machine": describe("openvino"),
            "case": arguments.case,
            "clicks": len(pairs),
            "speedup": median(pairs),
            "stages": table,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The full-size network (random weights) in use: six calls in six processes, and five clicks beside MONAI's pipeline.

    python benchmarks/session_full.py --work FOLDER [--clicks] [--out benchmarks/results/session_full.json]

First a class by the challenge's rules: a box, then five clicks, each call a process that starts, loads and answers,
90 s for all six. The host is calibrated before, as an installation is. Then five clicks in one session with a
region of 96³, beside `point_based_window_inferer`, which encodes a window for each click there is, 15 in all.
FOLDER keeps the bundle (`full_size.py --work FOLDER` makes the same). Takes about 15 minutes on 2 cores, and five for
the clicks alone (`--clicks`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from full_size import PACKAGES, made_in
from machine import describe
from network_time import watched_network
from numpy.typing import NDArray

import gstk
from gstk.cases.npz import save_case
from gstk.core.bundle import Bundle
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.window import WindowPolicy
from gstk.engines import open_engine
from gstk.session.embedding_cache import DEFAULT_LIMIT_BYTES

SIDE = 96
BUDGET_S, CALLS = 90.0, 6
KINDS = {"": False, ", hot region": True}
"""Of a session's graphs: for any region, or for its own alone (`hot_roi`)."""
CLICKS = tuple(Point(zyx, on) for zyx, on in (
    ((48, 48, 48), True), ((40, 48, 60), True), ((60, 30, 48), False), ((48, 60, 40), True), ((30, 48, 48), False)
))  # fmt: skip


def a_volume(shape: tuple[int, int, int], seed: int = 5) -> NDArray[np.uint8]:
    """Smooth noise around a brighter ball."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    noise = ndimage.zoom(rng.random([n // 8 for n in shape], np.float32), 8, order=1)
    grid = np.indices(shape)
    centre = np.array(shape)[:, None, None, None] / 2
    ball = ((grid - centre) ** 2).sum(0) <= (min(shape) / 4) ** 2
    return np.asarray(np.clip(80 * noise + 120 * ball, 0, 255), np.uint8)


def six_calls(bundle: Path, precision: str, work: Path) -> dict[str, Any]:
    """Each call as a process; the previous mask is in the file, as the official evaluator puts it there."""
    shape = (160, 256, 256)
    geometry = gstk.Geometry(shape, (2.0, 1.0, 1.0))
    box = Box.from_corners(((40, 64, 64), (120, 192, 192)))
    clicks = [Point((60 + 8 * n, 100 + 11 * n, 128), n % 3 != 1) for n in range(CALLS - 1)]
    case = gstk.Case("case", a_volume(shape), geometry, {1: ObjectPrompts((), box)})
    inputs, outputs = work / "inputs", work / "outputs"
    inputs.mkdir(exist_ok=True)
    options = ["--bundle", str(bundle), "--precision", precision, "--budget", str(BUDGET_S), "--calls", str(CALLS)]
    plan, calls = "", []
    for number in range(CALLS):
        file = inputs / "case.npz"
        save_case(file, replace(case, prompts={1: ObjectPrompts(tuple(clicks[:number]), box)}))
        if number in (0, CALLS - 1):
            plan += _gstk(work, "plan", str(file), *options)
        began = time.perf_counter()
        said = _gstk(work, "infer", str(file), "--out", str(outputs), *options)
        calls.append({"seconds": time.perf_counter() - began, "said": said.splitlines()})
        with np.load(outputs / "case.npz") as result:
            case = replace(case, prev_mask=result["segs"])
            calls[-1]["voxels"] = int((result["segs"] > 0).sum())
    return {"total_s": sum(call["seconds"] for call in calls), "calls": calls, "plan": plan.splitlines()}


def calibrate(bundle: Path, precision: str, work: Path) -> list[str]:
    return _gstk(work, "calibrate", str(bundle), "--precision", precision).splitlines()


def five_clicks(bundle: str, precision: str, hot: bool) -> dict[str, Any]:
    """In any region, or with graphs that were compiled for this one (`hot_roi`)."""
    image = a_volume((SIDE,) * 3)
    roi = Bundle.open(bundle, verify=False).manifest.roi
    policy = WindowPolicy(SIDE**3, roi.multiple, roi.minimum)
    options = {"hot_roi": (SIDE,) * 3} if hot else None
    engine = open_engine(bundle, "openvino", precision, options=options)
    with watched_network() as network, gstk.Session(engine, policy, cache_bytes=DEFAULT_LIMIT_BYTES) as session:
        session.set_image(image)
        session.add_point(CLICKS[0].zyx)  # once for warming up, as the other has it
        session.set_image(image)
        seconds, of_network, encodes = [], [], session.encodes
        network.take()
        for click in CLICKS:
            began = time.perf_counter()
            session.add_point(click.zyx, click.foreground)
            seconds.append(time.perf_counter() - began)
            of_network.append(network.take())
        return {"seconds": seconds, "of them network": of_network, "encodes": session.encodes - encodes}


def five_clicks_reference(checkpoint: str) -> dict[str, Any]:
    from gstk.training.checkpoint import load_network
    from gstk.training.reference import ReferenceSegmenter

    with ReferenceSegmenter(load_network(checkpoint), (SIDE,) * 3) as segmenter:
        segmenter.set_image(a_volume((SIDE,) * 3), (1.0, 1.0, 1.0))
        segmenter.segment({1: ObjectPrompts(CLICKS[:1])})
        seconds = []
        for count in range(1, len(CLICKS) + 1):
            began = time.perf_counter()
            segmenter.segment({1: ObjectPrompts(CLICKS[:count])})
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "encodes": sum(range(1, len(CLICKS) + 1))}


def _gstk(work: Path, *words: str) -> str:
    """What a command says, without the places of its files."""
    run = subprocess.run([sys.executable, "-m", "gstk", *words], check=True, stdout=subprocess.PIPE, text=True)
    return "".join(line for line in run.stdout.splitlines(keepends=True) if str(work) not in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--clicks", action="store_true", help="the five clicks alone")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(exist_ok=True)
    made_in(work)
    checkpoint, int8 = work / "vista3d132.pt", work / "int8"
    os.environ["GSTK_CACHE"] = str(work / "cache")
    report: dict[str, Any] = {"machine": describe(*PACKAGES), "budget_s": BUDGET_S, "calls": CALLS, "region": SIDE}
    for precision in ("fp32", "int8"):
        print(precision, file=sys.stderr)
        if not arguments.clicks:
            report[f"calibration {precision}"] = calibrate(int8, precision, work)
            report[f"six calls {precision}"] = six_calls(int8, precision, work)
        for kind, hot in KINDS.items():
            report[f"five clicks {precision}{kind}"] = five_clicks(str(int8), precision, hot)
    print("reference", file=sys.stderr)
    report["five clicks reference"] = reference = five_clicks_reference(str(checkpoint))
    report["ratios"] = {}
    for name in (f"{precision}{kind}" for precision in ("fp32", "int8") for kind in KINDS):
        own = report[f"five clicks {name}"]["seconds"]
        report["ratios"][name] = {
            "five clicks": sum(reference["seconds"]) / sum(own),
            "each after the first": [a / b for a, b in zip(reference["seconds"][1:], own[1:], strict=True)],
        }
    print(json.dumps({k: v for k, v in report.items() if k != "machine"}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

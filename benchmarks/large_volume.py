"""A volume of 1024³ uint8: milliseconds to plan it, seconds and memory of a click and of a box; prints and writes JSON.

    python benchmarks/large_volume.py [--side 1024] [--bundle tiny] [--out NAME.json]

Each prompt runs in a process of its own; its memory includes the volume (one byte a voxel) and the mask (two).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray

import gstk
from gstk.calibration import memory
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.window import WindowPolicy
from gstk.session.planner import make_plan

OBJECTS = {"small": 40, "medium": 150, "large": 400}
"""Half lengths of an ellipsoid's longest axis, of 1024 voxels; its others are three quarters and half of that."""


def volume(side: int, half: int) -> NDArray[np.uint8]:
    """A bright ellipsoid in noise, made plane by plane."""
    rng = np.random.default_rng(0)
    image = np.empty((side, side, side), np.uint8)
    y, x = np.indices((side, side), sparse=True)
    for z, plane in enumerate(image):
        plane[:] = rng.integers(20, 90, (side, side), np.uint8)
        inside = (
            ((z - side // 2) / half) ** 2
            + ((y - side // 2) / (0.75 * half)) ** 2
            + ((x - side // 2) / (0.5 * half)) ** 2
        )
        plane[inside <= 1] += 100
    return image


def box_of(side: int, half: int) -> Box:
    reach = np.array([half, int(0.75 * half), int(0.5 * half)])
    return Box.from_corners((side // 2 - reach, side // 2 + reach))


def run(side: int, half: int, boxed: bool, bundle: str, queue: Any) -> None:
    image = volume(side, half)
    prompts = ObjectPrompts(box=box_of(side, half)) if boxed else ObjectPrompts((Point((side // 2,) * 3),))
    with gstk.open(bundle) as session:
        memory.forget_peak()
        times = [time.perf_counter()]
        session.set_image(image)
        times.append(time.perf_counter())
        session.set_prompts(prompts)
        times.append(time.perf_counter())
        voxels = int(np.count_nonzero(session.mask))
        times.append(time.perf_counter())
        seconds = dict(zip(("set_image_s", "prompt_s", "mask_s"), np.diff(times).tolist(), strict=True))
        encodes = session.encodes
    queue.put({**seconds, "encodes": encodes, "mask_voxels": voxels, "peak_gb": memory.peak_bytes() / 1e9})


def planned_ms(side: int, prompts: ObjectPrompts) -> float:
    """Of the slowest of ten plans, without a model and budget: the finest windows."""
    geometry = Geometry((side, side, side), (1.0, 1.0, 1.0))
    slowest = 0.0
    for _ in range(10):
        began = time.perf_counter()
        make_plan(geometry, {1: prompts}, WindowPolicy(max_voxels=128**3, multiple=16, min_side=32))
        slowest = max(slowest, time.perf_counter() - began)
    return 1000 * slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    side = arguments.side
    long = Box.from_corners(((0, side // 2, side // 2), (side - 1, side // 2 + 30, side // 2 + 30)))
    plans = {
        "click": planned_ms(side, ObjectPrompts((Point((9, 9, 9)),))),
        "box": planned_ms(side, ObjectPrompts(box=box_of(side, 4 * side // 10))),
        "long_box": planned_ms(side, ObjectPrompts(box=long)),
    }
    print("planned in ms:", plans)
    spawned = multiprocessing.get_context("spawn")
    runs = []
    for name, share in OBJECTS.items():
        for boxed in (False, True):
            queue = spawned.Queue()
            half = share * side // 1024
            process = spawned.Process(target=run, args=(side, half, boxed, arguments.bundle, queue))
            process.start()
            found = {"object": name, "prompt": "box" if boxed else "click", **queue.get()}
            process.join()
            print(found)
            runs.append(found)
    if arguments.out:
        report = {
            "machine": describe("openvino"),
            "bundle": arguments.bundle,
            "side": side,
            "planned_ms": plans,
            "runs": runs,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Long curved tubes, box and clicks first, with chains of windows and with one window alone; prints and writes JSON.

    python benchmarks/chains.py [--bundle tiny] [--tubes 4] [--out NAME.json]

The volumes are generated: a tube of 16 to 24 voxels across and 400 long that bends through a textured, noisy volume.
Each is clicked by the official protocol, five rounds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray
from scipy import ndimage

import gstk
from gstk.cases.phantoms import smooth_noise
from gstk.core.prompts import Box, ObjectPrompts
from gstk.evaluation.protocol import click_by_click
from gstk.session import tiling as chain

ROUNDS = 5
SHAPE = (400, 200, 200)


def tube(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A volume uint8 (z,y,x) and the label map of the tube in it."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    y, x = np.indices(SHAPE[1:], sparse=True)
    bend, turn, radius = rng.uniform(25, 45, 2), rng.uniform(0, 2 * np.pi, 2), rng.uniform(8, 12)
    for z in range(SHAPE[0]):
        middle = 100 + bend * np.sin(2 * np.pi * z / SHAPE[0] + turn)
        labels[z] = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    field = ndimage.gaussian_filter(labels.astype(np.float32), 1) + 0.15 * smooth_noise(rng, SHAPE, 24.0)
    field += rng.normal(scale=0.1, size=SHAPE).astype(np.float32)
    return np.clip(60 + 100 * field, 0, 255).astype(np.uint8), labels


def scores(session: gstk.Session, seed: int, start: str) -> dict[str, Any]:
    image, labels = tube(seed)
    boxes = None
    if start == "boxes":
        box = ndimage.find_objects(labels)[0]
        corners = tuple(zip(*((axis.start, axis.stop - 1) for axis in box), strict=True))
        boxes = {1: ObjectPrompts(box=Box.from_corners(corners))}
    before = session.encodes, session.decodes
    found = click_by_click(session, image, (1.0, 1.0, 1.0), labels, ROUNDS, start=boxes)
    runs = {"encodes": session.encodes - before[0], "decodes": session.decodes - before[1]}
    return {"box": None if found.start is None else float(np.mean(found.start)), "dsc": found.means, **runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--tubes", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    most = chain.MOST_PARTS
    results = []
    with gstk.open(arguments.bundle) as session:
        for seed in range(arguments.tubes):
            for start in ("boxes", "clicks"):
                for chained in (False, True):
                    chain.MOST_PARTS = most if chained else 1
                    result = {"tube": seed, "start": start, "chain": chained, **scores(session, seed, start)}
                    box = "" if result["box"] is None else f"box {result['box']:.3f}"
                    print(seed, start, chained, box, *(f"{v:.3f}" for v in result["dsc"]), result["encodes"])
                    results.append(result)
    means = {
        f"{start}_{'chain' if chained else 'one_window'}": float(
            np.mean([r["dsc"][-1] for r in results if (r["start"], r["chain"]) == (start, chained)])
        )
        for start in ("boxes", "clicks")
        for chained in (False, True)
    }
    print(means)
    if arguments.out:
        report = {"machine": describe("openvino"), "bundle": arguments.bundle, "final": means, "tubes": results}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

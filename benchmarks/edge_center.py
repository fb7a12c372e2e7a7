"""Edge-center sampling of 10 objects in a 128³ patch, beside a distance transform of the whole patch for each class.

    python benchmarks/edge_center.py [--out benchmarks/results/edge_center.json]

The second is how the method's published code goes about it; it is written anew here from its description. Both draw 5
points of each sign at most from the same regions (`gstk.training.sampling`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from machine import describe
from scipy import ndimage

from gstk.cases.phantoms import generate_phantom
from gstk.training.sampling import CENTER_FRACTION, EDGE_FRACTION, make_sampler

OBJECTS, SIDE, POINTS, PATCHES, REPEATS = 10, 128, 5, 5, 7


def patch(seed: int) -> tuple[np.ndarray, list[int]]:
    """A generated patch and its largest objects, at most ten."""
    labels = generate_phantom(seed, (SIDE,) * 3, "organs").labels
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels, [int(k) for k in np.argsort(-sizes)[:OBJECTS] if sizes[k]]


def whole_patch(labels: np.ndarray, classes: list[int], rng: np.random.Generator) -> list[np.ndarray]:
    """A distance transform of the patch for each class, then points from its centre, its edge and outside."""
    points = []
    for label in classes:
        mask = labels == label
        depth = ndimage.distance_transform_edt(mask)
        deepest = depth.max()
        center = np.argwhere(depth > CENTER_FRACTION * deepest)
        edge = np.argwhere((depth > EDGE_FRACTION * deepest) & (depth <= CENTER_FRACTION * deepest))
        outside = np.argwhere(~mask)
        count = int(np.clip(round(rng.normal(POINTS / 2, POINTS / 4)), 1, POINTS))
        chosen = [center[rng.integers(len(center))]]
        chosen += [(edge if len(edge) else center)[rng.integers(len(edge) or len(center))] for _ in range(count - 1)]
        chosen += [outside[rng.integers(len(outside))] for _ in range(POINTS // 2)]
        points.append(np.array(chosen))
    return points


def best(function, *arguments) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sampler = make_sampler("edge-center", POINTS)
    rows = []
    for seed in range(100):
        labels, classes = patch(seed)
        if len(classes) < OBJECTS:
            continue
        ours = best(sampler, labels, classes, np.random.default_rng(0), None)
        theirs = best(whole_patch, labels, classes, np.random.default_rng(0))
        rows.append({"seed": seed, "objects": len(classes), "seconds": ours, "whole_patch_seconds": theirs})
        ratio = theirs / ours
        print(f"patch {seed}: {1e3 * ours:.1f} ms; whole patch {1e3 * theirs:.0f} ms; {ratio:.0f}x")
        if len(rows) == PATCHES:
            break
    ratios = [row["whole_patch_seconds"] / row["seconds"] for row in rows]
    print(f"median ratio {np.median(ratios):.0f}x, least {min(ratios):.0f}x")
    if arguments.out:
        report = {"machine": describe("scipy"), "side": SIDE, "patches": rows, "median_ratio": float(np.median(ratios))}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Memory of long use: many clicks, many images, many objects, and all at random; a plot and JSON.

    python benchmarks/soak.py [--bundle tiny] [--backend openvino onnxruntime] [--scale 1] [--side 24]
        [--out benchmarks/results/soak.json] [--plot benchmarks/results/soak.png]

Phases, each in a process of its own for each backend: 1,000 clicks on one object; 1,000 images of different shapes with
a click each; 200 objects in one image, with their clicks; 1,000 random calls (points, boxes, undo, redo, reset, other
images). `--scale 0.1` does a tenth of that. Resident memory is read after every call. It counts as flat where its
largest value in the last half of a phase is at most a tenth above its largest in the second quarter, when warming up is
over. The exit code is 1 where it is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from rich.console import Console
from rich.table import Table

import gstk
from gstk.calibration import memory
from gstk.errors import GstkError

FLAT = 1.1
PHASES = {"clicks": 1000, "images": 1000, "objects": 200, "random": 1000}


def phantom(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image (z,y,x) with a bright ellipsoid, and where that is."""
    axes = np.indices(shape)
    centre, radius = (rng.uniform(a, b, 3) * shape for a, b in ((0.35, 0.65), (0.15, 0.3)))
    organ = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)) < 1
    return (np.where(organ, 160, 40) + rng.normal(0, 8, shape)).astype(np.float32), organ


def voxel(rng: np.random.Generator, mask: np.ndarray) -> tuple[int, int, int]:
    places = np.flatnonzero(mask)
    z, y, x = np.unravel_index(int(places[rng.integers(len(places))]), mask.shape)
    return int(z), int(y), int(x)


def clicks(session: gstk.Session, rng: np.random.Generator, side: int, count: int) -> Iterator[None]:
    image, organ = phantom(rng, (side, 2 * side, 2 * side))
    session.set_image(image, (2.5, 0.9, 0.9))
    for k in range(count):
        inside = k % 2 == 0
        session.add_point(voxel(rng, organ == inside), foreground=inside)
        yield


def images(session: gstk.Session, rng: np.random.Generator, side: int, count: int) -> Iterator[None]:
    for _ in range(count):
        image, organ = phantom(rng, tuple(int(n) for n in rng.integers(side // 2, 2 * side, 3)))
        session.set_image(image, tuple(rng.uniform(0.7, 3, 3)))
        session.add_point(voxel(rng, organ))
        yield


def objects(session: gstk.Session, rng: np.random.Generator, side: int, count: int) -> Iterator[None]:
    image, _ = phantom(rng, (side, 2 * side, 2 * side))
    session.set_image(image)
    for k in range(count):
        session.add_point(voxel(rng, np.ones(image.shape, bool)), object_id=k + 1)
        yield


def random(session: gstk.Session, rng: np.random.Generator, side: int, count: int) -> Iterator[None]:
    image, organ = phantom(rng, (side, 2 * side, 2 * side))
    session.set_image(image)
    for _ in range(count):
        what = rng.choice(["point", "box", "undo", "redo", "reset", "image"], p=[0.6, 0.1, 0.12, 0.08, 0.05, 0.05])
        object_id = int(rng.integers(1, 4))
        try:
            if what == "point":
                inside = bool(rng.integers(2))
                session.add_point(voxel(rng, organ == inside), inside, object_id)
            elif what == "box":
                corners = np.sort([voxel(rng, organ), voxel(rng, organ)], axis=0)
                session.add_box(gstk.Box.from_corners(corners), object_id)
            elif what == "image":
                image, organ = phantom(rng, tuple(int(n) for n in rng.integers(side // 2, 2 * side, 3)))
                session.set_image(image)
            else:
                getattr(session, what)(*([object_id] if what == "reset" else []))
        except GstkError as error:
            if "nothing to" not in str(error):
                raise
        yield


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """One phase with one backend: resident memory after each call."""
    rng = np.random.default_rng(0)
    count = max(8, round(arguments.scale * PHASES[arguments.phase]))
    began = time.perf_counter()
    with gstk.open(arguments.bundle, arguments.backend[0]) as session:
        used = [memory.resident_bytes() for _ in globals()[arguments.phase](session, rng, arguments.side, count)]
    return {"seconds": time.perf_counter() - began, "megabytes": [round(n / 1e6, 1) for n in used]}


def judge(megabytes: list[float]) -> dict[str, float | bool]:
    """Whether memory is flat after warming up."""
    quarter, half = len(megabytes) // 4, len(megabytes) // 2
    warm, late = max(megabytes[quarter:half]), max(megabytes[half:])
    return {"warm_mb": warm, "late_mb": late, "ratio": late / warm, "flat": late <= FLAT * warm}


def plot(report: dict[str, Any], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PHASES), figsize=(4 * len(PHASES), 3.4), sharey=True, layout="constrained")
    for axis, phase in zip(axes, PHASES, strict=True):
        for backend, phases in report["backends"].items():
            used = phases[phase]["megabytes"]
            axis.plot(np.arange(1, len(used) + 1), used, label=backend, linewidth=1.2)
        axis.set(title={"random": "random calls"}.get(phase, phase), xlabel="calls")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("resident memory, MB")
    axes[0].legend()
    figure.suptitle(f"gstk, bundle {report['bundle']}: memory of long use")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--backend", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--side", type=int, default=24)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--phase", choices=PHASES, help="this one alone, in this process; prints JSON")
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(run(arguments)))
        return
    report: dict[str, Any] = {
        "machine": describe("openvino", "onnxruntime"),
        "bundle": arguments.bundle,
        "scale": arguments.scale,
        "side": arguments.side,
        "backends": {},
    }
    table = Table("backend", "phase", "calls", "warm MB", "late MB", "ratio", "flat", "s")
    for backend in arguments.backend:
        phases = report["backends"][backend] = {}
        for phase in PHASES:
            command = [sys.executable, __file__, "--phase", phase, "--backend", backend, "--bundle", arguments.bundle]
            command += ["--scale", str(arguments.scale), "--side", str(arguments.side)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = phases[phase] = json.loads(done.stdout.splitlines()[-1])
            found |= judge(found["megabytes"])
            table.add_row(
                backend,
                phase,
                str(len(found["megabytes"])),
                *(f"{found[name]:.0f}" for name in ("warm_mb", "late_mb")),
                f"{found['ratio']:.3f}",
                "yes" if found["flat"] else "NO",
                f"{found['seconds']:.0f}",
            )
    Console(width=100).print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.plot:
        plot(report, arguments.plot)
    if not all(found["flat"] for phases in report["backends"].values() for found in phases.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()

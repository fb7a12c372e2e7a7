"""Memory of long use: many clicks, many images, many objects, and all at random; a plot and JSON.

    python benchmarks/soak.py [--bundle tiny] [--backend openvino onnxruntime torch cpp] [--scale 1] [--side 24]
        [--replay BUILD/tests/replay] [--out benchmarks/results/soak.json] [--plot benchmarks/results/soak.png]

Phases, each in a process of its own for each backend: 1,000 clicks on one object; 1,000 images of different shapes with
a click each; 200 objects in one image, with their clicks; 3,000 random calls (points, boxes, undo, redo, reset, other
images). `--scale 0.1` does a tenth of that. Resident memory is read after every call. It counts as flat where its
largest value in the last half of a phase is at most a tenth above its largest in the second quarter, when warming up is
over. The exit code is 1 where it is not.

`cpp` is the C++ session with OpenVINO: the same calls as a script for `replay`, which a build of `cpp/` has among its
tests. What ran is added to an older result of the same settings, so that one backend can be run after the other.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
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
from gstk.core.bundle import find_bundle
from gstk.errors import GstkError

FLAT = 1.1
PHASES = {"clicks": 1000, "images": 1000, "objects": 200, "random": 3000}


def phantom(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image (z,y,x) with a bright ellipsoid, and where that is."""
    axes = np.indices(shape)
    centre, radius = (rng.uniform(a, b, 3) * shape for a, b in ((0.35, 0.65), (0.15, 0.3)))
    organ = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)) < 1
    return np.clip(np.where(organ, 160, 40) + rng.normal(0, 8, shape), 0, 255).astype(np.uint8), organ


def voxel(rng: np.random.Generator, mask: np.ndarray) -> tuple[int, int, int]:
    places = np.flatnonzero(mask)
    z, y, x = np.unravel_index(int(places[rng.integers(len(places))]), mask.shape)
    return int(z), int(y), int(x)


class Script:
    """Takes the calls of a session, and writes them down as `replay` reads them."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self._folder = folder

    def set_image(self, image: np.ndarray, spacing_mm: tuple[float, ...] = (1, 1, 1)) -> None:
        file = self._folder / f"{len(self.lines)}.npz"
        np.savez(file, imgs=image, spacing=np.array(spacing_mm, np.float64))
        self.lines.append(f"volume {file}")

    def add_point(self, zyx: tuple[int, int, int], foreground: bool = True, object_id: int = 1) -> None:
        self.lines.append(f"point {object_id} {zyx[0]} {zyx[1]} {zyx[2]} {int(foreground)}")

    def add_box(self, box: gstk.Box, object_id: int = 1) -> None:
        low, high = box.corners()
        self.lines.append(f"box {object_id} {' '.join(map(str, (*low, *high, box.z_mid)))}")

    def undo(self) -> None:
        self.lines.append("undo")

    def redo(self) -> None:
        self.lines.append("redo")

    def reset(self, object_id: int) -> None:
        self.lines.append(f"reset {object_id}")


Door = gstk.Session | Script


def clicks(session: Door, rng: np.random.Generator, side: int, count: int) -> Iterator[None]:
    image, organ = phantom(rng, (side, 2 * side, 2 * side))
    session.set_image(image, (2.5, 0.9, 0.9))
    for k in range(count):
        inside = k % 2 == 0
        session.add_point(voxel(rng, organ == inside), foreground=inside)
        yield


def images(session: Door, rng: np.random.Generator, side: int, count: int) -> Iterator[None]:
    for _ in range(count):
        image, organ = phantom(rng, tuple(int(n) for n in rng.integers(side // 2, 2 * side, 3)))
        session.set_image(image, tuple(rng.uniform(0.7, 3, 3)))
        session.add_point(voxel(rng, organ))
        yield


def objects(session: Door, rng: np.random.Generator, side: int, count: int) -> Iterator[None]:
    image, _ = phantom(rng, (side, 2 * side, 2 * side))
    session.set_image(image)
    for k in range(count):
        session.add_point(voxel(rng, np.ones(image.shape, bool)), object_id=k + 1)
        yield


def random(session: Door, rng: np.random.Generator, side: int, count: int) -> Iterator[None]:
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
    phase = globals()[arguments.phase]
    began = time.perf_counter()
    if arguments.backend[0] == "cpp":
        with tempfile.TemporaryDirectory() as folder:
            script = Script(Path(folder))
            for _ in phase(script, rng, arguments.side, count):
                pass
            used = run_cpp(arguments.replay, arguments.bundle, script.lines, Path(folder))
    else:
        with gstk.open(arguments.bundle, arguments.backend[0], threads=1) as session:
            used = [memory.resident_bytes() for _ in phase(session, rng, arguments.side, count)]
    return {"seconds": time.perf_counter() - began, "megabytes": [round(n / 1e6, 1) for n in used]}


def run_cpp(replay: Path, bundle: str, lines: list[str], folder: Path) -> list[int]:
    """Resident memory of the C++ session after each call of a script, in bytes."""
    (folder / "script.txt").write_text("\n".join(lines) + "\n")
    command = [replay, find_bundle(bundle), folder / "script.txt", "/dev/null", "backend=openvino", "threads=1"]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    told = [line.split() for line in done.stdout.splitlines()[1:]]
    return [int(words[words.index("resident_bytes") + 1]) for words in told]


def judge(megabytes: list[float]) -> dict[str, float | bool]:
    """Whether memory is flat after warming up."""
    quarter, half = len(megabytes) // 4, len(megabytes) // 2
    warm, late = max(megabytes[quarter:half]), max(megabytes[half:])
    return {"warm_mb": warm, "late_mb": late, "ratio": late / warm, "flat": late <= FLAT * warm}


def known(arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """What an older result of the same settings has."""
    older = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
    return dict(older["backends"]) if all(older.get(key) == value for key, value in settings.items()) else {}


def as_text(report: dict[str, Any]) -> str:
    """The report as JSON, each list of numbers on one line."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(report, indent=1)) + "\n"


def plot(report: dict[str, Any], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PHASES), figsize=(4 * len(PHASES), 3.4), sharey=True, layout="constrained")
    for axis, phase in zip(axes, PHASES, strict=True):
        for backend, phases in report["backends"].items():
            used = phases.get(phase, {}).get("megabytes", [])
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
    parser.add_argument("--backend", nargs="+", default=["openvino", "onnxruntime"], help="of Python's, or cpp")
    parser.add_argument("--replay", type=Path, help="C++: the program `replay`")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--side", type=int, default=24)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--phase", choices=PHASES, help="this one alone, in this process; prints JSON")
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(run(arguments)))
        return
    if "cpp" in arguments.backend and arguments.replay is None:
        parser.error("cpp needs --replay: the program of that name in tests/ of a build of cpp/")
    settings = {
        "machine": describe("openvino", "onnxruntime", "torch"),
        "bundle": Path(arguments.bundle).name,
        "scale": arguments.scale,
        "side": arguments.side,
    }
    report: dict[str, Any] = {**settings, "backends": known(arguments, settings)}
    table = Table("backend", "phase", "calls", "warm MB", "late MB", "ratio", "flat", "s")
    for backend in arguments.backend:
        phases = report["backends"][backend] = {}
        for phase in PHASES:
            command = [sys.executable, __file__, "--phase", phase, "--backend", backend, "--bundle", arguments.bundle]
            command += ["--scale", str(arguments.scale), "--side", str(arguments.side)]
            command += ["--replay", str(arguments.replay)] if arguments.replay else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = phases[phase] = json.loads(done.stdout.splitlines()[-1])
            found |= judge(found["megabytes"])
            if arguments.out:
                arguments.out.write_text(as_text(report))
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
    if arguments.plot:
        plot(report, arguments.plot)
    if not all(found["flat"] for phases in report["backends"].values() for found in phases.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The C++ host beside Python: agreement of masks on real cases, cold start, cost of a click, size of the library.

    python benchmarks/cpp_session.py CASES [--classes 2] [--rounds 3] [--no-agreement] [--out NAME.json]

Builds the host in a temporary folder. On each case Python clicks by the official protocol with OpenVINO, C++ replays
the same prompts, and the masks after every prompt are compared. Timings are those of one case; the cold start is also
measured on the 64³ voxels that `engine_costs.py` starts Python with, and each with a cache of compiled graphs. --alone
runs the timed programs in the scheduler's real-time class, which keeps most of what else goes on on a busy machine out
of the numbers (root only).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe
from rich.console import Console
from rich.progress import track

import gstk
from gstk.cases.npz import save_case
from gstk.core.bundle import builtin
from gstk.core.prompts import ObjectPrompts
from gstk.evaluation.protocol import click_by_click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the replay that the tests use

from cpp_build import build, openvino_option, run  # noqa: E402
from cpp_replay import Volume, replay_cpp, timings  # noqa: E402

THREADS = 2


class Recorder:
    """A session that writes down what is said, and the mask after it."""

    def __init__(self, session: gstk.Session) -> None:
        self._session = session
        self._said: dict[int, ObjectPrompts] = {}
        self.lines: list[str] = []
        self.masks: list[Any] = []
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def set_all(self, prompts: Mapping[int, ObjectPrompts]) -> None:
        """Each object about which something new is said, by itself, as the C++ host takes them."""
        news = {object_id: said for object_id, said in prompts.items() if said != self._said.get(object_id)}
        self._said.update(news)
        for object_id, said in news.items():
            began = time.perf_counter()
            self._session.set_prompts(said, object_id)
            mask = self._session.mask
            self.seconds.append(time.perf_counter() - began)
            points = " ".join(f"{p.zyx[0]} {p.zyx[1]} {p.zyx[2]} {int(p.foreground)}" for p in said.points)
            self.lines.append(f"prompts {object_id} 0 {len(said.points)} {points}")
            self.masks.append(mask.copy())


def compare(case: gstk.Case, program: Path, folder: Path, classes: int, rounds: int) -> tuple[dict[str, Any], Recorder]:
    """Clicks a case through in both."""
    assert case.labels is not None
    assert case.path is not None
    chosen = [int(k) for k in np.unique(case.labels) if k][:classes]
    with gstk.open("tiny", "openvino", threads=THREADS, refine=False) as session:
        recorder = Recorder(session)
        click_by_click(recorder, case.image, case.geometry.spacing_mm, case.labels, rounds, chosen)  # type: ignore[arg-type]
    volume = Volume(case.path, case.image, case.geometry.spacing_mm)
    found = replay_cpp(program, builtin("tiny"), volume, recorder.lines, folder, threads=THREADS, refine=0)
    agreement = [float(np.mean(a == b)) for a, b in zip(found.masks, recorder.masks, strict=True)]
    result = {
        "case": case.name,
        "shape": list(case.image.shape),
        "prompts": len(recorder.lines),
        "least_agreement": min(agreement),
        "differing_voxels": [int(np.sum(a != b)) for a, b in zip(found.masks, recorder.masks, strict=True)],
        "python_s": sum(recorder.seconds),
        "cpp_s": sum(line["fetched"] for line in found.told),
    }
    return result, recorder


def alone(program: Path, folder: Path) -> Path:
    """A program that runs another in the real-time class."""
    script = folder / f"alone-{program.name}"
    script.write_text(f'#!/bin/sh\nexec chrt -r 1 "{program}" "$@"\n')
    script.chmod(0o700)
    return script


def cold_start(program: Path, case: Path, line: str, folder: Path, repeats: int, *settings: str) -> dict[str, Any]:
    """From the start of `main` to the first mask, opening the bundle and reading the volume included."""
    script = folder / "script.txt"
    script.write_text(f"volume {case}\n{line}\n")
    given = (program, builtin("tiny"), script, folder / "masks.raw", f"threads={THREADS}", *settings)
    runs = [timings(run(*given)) for _ in range(repeats)]
    found = {"first mask": [told[1]["since"] for told in runs], "opened": [told[0]["opened"] for told in runs]}
    found["click"] = [told[1]["said"] for told in runs]
    return {name: {"median": median(values), "least": min(values), "all": values} for name, values in found.items()}


def small_case(folder: Path) -> Path:
    """A file of 64³ voxels of noise."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 64)).astype(np.uint8)
    file = folder / "small.npz"
    save_case(file, gstk.Case("small", image, gstk.Geometry(image.shape, (1.0, 1.0, 1.0)), {}))
    return file


def library_bytes(folder: Path) -> int:
    build(ROOT / "cpp", folder, "-DGSTK_OPENVINO=OFF", "-DGSTK_TESTS=OFF")
    (library,) = (file for file in folder.glob("libgstk.so*") if not file.is_symlink())
    run("strip", "-o", folder / "stripped.so", library)
    return (folder / "stripped.so").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--classes", type=int, default=2, help="classes clicked in a case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timed", default="CT_totalseg_abdomen", help="the case that is timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="time in the scheduler's real-time class")
    parser.add_argument("--no-agreement", action="store_true", help="timings alone, and the agreement of before")
    parser.add_argument("--build", type=Path, help="where to build; kept")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    console = Console(width=120)
    report: dict[str, Any] = {"machine": describe("openvino"), "bundle": "tiny", "threads": THREADS}
    report["real_time_class"] = arguments.alone
    report["load"] = os.getloadavg()[0]
    if arguments.no_agreement and arguments.out and arguments.out.exists():
        report["agreement"] = json.loads(arguments.out.read_text()).get("agreement")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.build or Path(scratch)
        programs = build(ROOT / "cpp", folder / "static", "-DBUILD_SHARED_LIBS=OFF", openvino_option()) / "tests"
        report["library_without_backends_bytes"] = library_bytes(folder / "bare")
        if not arguments.no_agreement:
            rows = []
            for path in track(sorted(arguments.cases.glob("*.npz")), console=Console(stderr=True)):
                case = gstk.load_case(path)
                row, _ = compare(case, programs / "replay", Path(scratch), arguments.classes, arguments.rounds)
                console.print(row["case"], row["prompts"], f"{row['least_agreement']:.6f}", row["differing_voxels"])
                rows.append(row)
            report["agreement"] = {"least": min(row["least_agreement"] for row in rows), "cases": rows}
        case = gstk.load_case(arguments.cases / f"{arguments.timed}.npz")
        assert case.path is not None
        timed, recorder = compare(case, programs / "replay", Path(scratch), 1, 5)
        first = recorder.lines[0]
        report["five_clicks"] = timed
        replay, overhead = programs / "replay", programs / "overhead"
        if arguments.alone:
            replay, overhead = (alone(program, Path(scratch)) for program in (replay, overhead))
        cache = ("backend=openvino", f"cache={Path(scratch) / 'cache'}")
        for name, file, line in (
            ("cold_start", case.path, first),
            ("cold_start_64", small_case(Path(scratch)), "point 1 32 32 32 1"),
        ):
            start = (replay, file, line, Path(scratch))
            report[f"{name}_s"] = cold_start(*start, arguments.repeats)
            cold_start(*start, 1, *cache)  # fills it
            report[f"{name}_with_cache_s"] = cold_start(*start, arguments.repeats, *cache)
        z, y, x, _ = first.split()[4:8]
        told = run(overhead, builtin("tiny"), case.path, z, y, x, 4 * arguments.repeats)
        click = json.loads(told)
        click["engine_overhead"] = click["engine_s"] / click["bare_s"] - 1
        click["click_overhead"] = click["click_s"] / click["bare_s"] - 1
        report["click"] = click
    console.print_json(data={key: value for key, value in report.items() if key != "agreement"})
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

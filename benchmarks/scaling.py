"""Does handing out cases keep up with 10,000 of them? Stand-ins that only wait, on a real Ray cluster; writes JSON.

    python benchmarks/scaling.py EVALUATION [--cases 10000] [--workers 16] [--faster 100]
        [--out benchmarks/results/scaling.json]

Each stand-in waits as long as a case of EVALUATION (a folder of `gstk evaluate`), drawn at random, took, divided by
`--faster`; now and then one kills its worker. A second run of stand-ins that do not wait gives the most cases a second
that one machine hands out. Dividing time makes the test harder: workers then ask `faster` times as often as they would.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from machine import describe, write_report
from rich.progress import track

from gstk.batch.ray_pool import Workers, map_on_ray
from gstk.evaluation.runner import load_evaluation

Task = tuple[int, float, bool]
LOST = -1


def open_waiter(marks: str) -> Callable[[Task], int]:
    def wait(task: Task) -> int:
        number, seconds, fatal = task
        time.sleep(seconds)
        mark = Path(marks) / str(number)
        if fatal and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return wait


def timed(workers: Workers, tasks: list[Task]) -> tuple[float, int]:
    """Seconds from the first result to the last, when all workers are up, and how many cases were done."""
    with tempfile.TemporaryDirectory() as marks:
        found = map_on_ray(workers, partial(open_waiter, marks), tasks, lambda task, why: LOST)
        results = [next(found)]
        began = time.perf_counter()
        results += track(found, total=len(tasks) - 1, description=f"{workers.count} workers")
        return time.perf_counter() - began, len(set(results) - {LOST})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--faster", type=float, default=100.0)
    parser.add_argument("--deaths", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    measured = [one.total_s for one in load_evaluation(arguments.evaluation).scored]
    rng = np.random.default_rng(0)
    drawn = rng.choice(measured, arguments.cases) / arguments.faster
    fatal = set(rng.choice(arguments.cases, arguments.deaths, replace=False).tolist())
    workers = Workers("local", arguments.workers, cpus=(os.cpu_count() or 1) / arguments.workers)
    waiting = [(i, float(s), i in fatal) for i, s in enumerate(drawn)]
    seconds, done = timed(workers, waiting)
    ideal = float(drawn.sum()) / arguments.workers
    idle, _ = timed(workers, [(i, 0.0, False) for i in range(arguments.cases)])
    report = {
        "machine": describe("ray"),
        "cases": arguments.cases,
        "workers": arguments.workers,
        "faster": arguments.faster,
        "mean_case_s": float(np.mean(measured)),
        "longest_case_s": float(np.max(measured)),
        "workers_killed": arguments.deaths,
        "cases_done": done,
        "seconds": seconds,
        "ideal_seconds": ideal,
        "efficiency": ideal / seconds,
        "cases_a_second_without_work": arguments.cases / idle,
    }
    write_report(report, arguments.out)


if __name__ == "__main__":
    main()

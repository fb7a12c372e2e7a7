"""A cohort of generated CTs on Ray: workers and the driver are killed, nothing is lost and nothing done twice.

    python benchmarks/campaigns/cohort_on_ray.py --state FOLDER [--volumes 1000] [--workers 8] [--worker-deaths 10]
        [--driver-deaths 1] [--faster 100] [--command-line] [--out benchmarks/results/cohort_on_ray.json]

Each driver is a process that segments every class of every CT with `gstk.infer` on one Ray cluster of this machine. A
stand-in for the network finds classes by brightness and waits for as long as a CT took, measured with the full-size
network in INT8 (`everything_speed.json`), divided by `--faster`. SIGKILL ends workers at random moments, and the
driver; the next driver goes on with `resume=True`. At the end every result must be, byte by byte, what one process
makes of the CT without interruption, and no finished result may have been written again. The exit code is 1 where that
fails.

With `--command-line` nothing stands in for anything: each driver is `gstk infer --classes everything --ray … --resume`
on a bundle of random weights with NVIDIA's classes, a network of 8 channels, in OpenVINO.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from campaign import ROOT
from flood import POLICY, ClassEngine

from gstk.batch.infer import infer
from gstk.batch.journal import JOURNAL
from gstk.batch.ray_pool import Workers
from gstk.core.profile import find_profile
from gstk.session.session import Session

SHAPE, PATCH, WINDOWS = (24, 40, 40), 32, 4
"""Voxels of a CT (z,y,x) at 1.5 mm, side of a window, and windows of a CT."""
BACKEND = "openvino"
POLL_S, GONE_S, STUCK_S = 0.2, 120.0, 600.0
REAL_WINDOW_S = 0.05
"""About a window of the small network; moments of death are drawn within it."""
MODULES = (str(Path(__file__).parent), str(ROOT / "tests"))
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Of Ray, in the environment. By default its workers give way to all other work, and starve on a busy machine."""
MEASURED = ROOT / "benchmarks" / "results" / "everything_speed.json"


class WaitingEngine(ClassEngine):
    """Waits before each window, and counts the windows of its process in a file."""

    def __init__(self, marks: Path | None, window_s: float) -> None:
        super().__init__()
        self.window_s = window_s
        self.mark = None if marks is None else marks / str(os.getpid())
        if self.mark is not None:
            self.mark.touch()

    def class_features(self, image: Any) -> Any:
        time.sleep(self.window_s)
        features = super().class_features(image)
        if self.mark is not None:
            with self.mark.open("ab") as stream:
                stream.write(b".")
        return features


def open_stand_in(marks: Path | None, window_s: float) -> Session:
    """A session whose weights have NVIDIA's classes."""
    profile = replace(find_profile("nv-segment-ct"), patch=(PATCH,) * 3)
    return Session(WaitingEngine(marks, window_s), POLICY, profile=profile)  # type: ignore[arg-type]


def open_bundle(bundle: Path) -> Session:
    """As a worker of `gstk infer` opens it."""
    import gstk

    return gstk.open(bundle, BACKEND, 1, "fp32")


def write_bundle(folder: Path) -> Path:
    """A bundle of a small network with random weights, whose classes are NVIDIA's; one that is there stays."""
    import torch
    from class_weights import balance_classes
    from full_size import random_network

    from gstk.export.export import export_bundle

    bundle = folder / "bundle"
    if not bundle.exists():
        weights = folder / "weights.pt"
        torch.save(balance_classes(random_network(full_size=False)).state_dict(), weights)
        export_bundle(weights, bundle, profile=replace(find_profile("nv-segment-ct"), patch=(PATCH,) * 3))
    return bundle


def write_cohort(folder: Path, volumes: int) -> None:
    """CTs with a bright block in noise, all of one name, in folders of their own; those that are there stay."""
    import SimpleITK

    for number in range(volumes):
        file = folder / f"{number:05}" / "ct.nii.gz"
        if file.exists():
            continue
        rng = np.random.default_rng(number)
        image = rng.normal(-100, 30, SHAPE).astype(np.int16)
        z, y, x = rng.integers(2, 8, 3)
        image[z : z + 12, y : y + 20, x : x + 24] = 600
        file.parent.mkdir(parents=True, exist_ok=True)
        made = SimpleITK.GetImageFromArray(image)
        made.SetSpacing((1.5, 1.5, 1.5))
        SimpleITK.WriteImage(made, str(file), useCompression=True)


@contextmanager
def ray_cluster(cpus: int) -> Iterator[str]:
    """The address of a Ray cluster of this machine, whose workers find this module."""
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([*MODULES, path])
    os.environ |= SETTINGS
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()
        os.environ["PYTHONPATH"] = path


def drive(state: Path, address: str, workers: int, window_s: float) -> None:
    """One driver: all CTs that no driver before has finished."""
    cluster = Workers(address, workers)
    opener = partial(open_stand_in, state / "marks", window_s)
    results = infer(opener, state / "cohort", state / "out", classes=["everything"], workers=cluster, resume=True)
    summary = {
        "results": len(results),
        "finished_before": sum(result.finished_before for result in results),
        "errors": [f"{result.source}: {result.error}" for result in results if result.error is not None],
    }
    (state / "summary.json").write_text(json.dumps(summary))


@dataclass
class Cohort:
    """Runs drivers, kills, and compares what came of it.

    Attributes:
        state: folder of the CTs, the results and what is noted.
        address: of the Ray cluster.
        volumes, workers: how many.
        window_s: time of a window of the stand-in.
        seed: of the moments of death.
        alone_s: seconds of a CT in one process, from `check`.
        seen: inode and time of each file of a result, by path, when it was first seen.
        failures: what went wrong.
        deaths: moments of death, in finished results.
        bundle: drivers are `gstk infer` with this bundle; None for drivers with the stand-in.
        orphans_s: seconds that workers lived on after each driver's death.
    """

    state: Path
    address: str
    volumes: int
    workers: int
    window_s: float
    seed: int = 0
    alone_s: float = 0.0
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    deaths: list[dict[str, Any]] = field(default_factory=list)
    bundle: Path | None = None
    orphans_s: list[float] = field(default_factory=list)

    def run(self, worker_deaths: int, driver_deaths: int) -> float:
        """Runs to the end, and returns the seconds that it took."""
        rng = random.Random(self.seed)
        (self.state / "marks").mkdir(parents=True, exist_ok=True)
        write_cohort(self.state / "cohort", self.volumes)
        whose = ["worker"] * worker_deaths + ["driver"] * driver_deaths
        rng.shuffle(whose)
        moments = sorted(rng.sample(range(1, self.volumes * 2 // 3), len(whose)))  # while work is left
        due = list(zip(moments, whose, strict=True))
        began = changed = time.perf_counter()
        driver = self._start()
        while driver.poll() is None:
            time.sleep(POLL_S)
            before = len(self.seen)
            self._look()
            changed = time.perf_counter() if len(self.seen) > before else changed
            if time.perf_counter() - changed > STUCK_S:
                self.failures.append(f"nothing was finished in {STUCK_S:g} s")
                os.killpg(driver.pid, signal.SIGKILL)
                break
            finished = sum(name.endswith("_mask.nii.gz") for name in self.seen)
            if not due or finished < due[0][0]:
                continue
            time.sleep(rng.uniform(0, 4 * self.window_s))
            alive = self._alive()
            if due[0][1] == "worker" and alive:
                os.kill(rng.choice(alive), signal.SIGKILL)
            elif due[0][1] == "driver":
                driver.kill()
                driver.wait()
                self.orphans_s.append(self._wait_for(alive))
                driver = self._start()
            else:
                continue
            self.deaths.append({"of": due.pop(0)[1], "after_results": finished})
        seconds = time.perf_counter() - began
        self._look()
        if due:
            self.failures.append(f"{len(due)} deaths did not come to pass: all was finished before")
        if driver.returncode != 0:
            self.failures.append(f"the last driver ended with {driver.returncode}")
        return seconds

    def check(self, sample: int) -> None:
        """Compares the results with those of one process; every one is there, and `sample` of them are made again."""
        if self.bundle is None:
            summary = json.loads((self.state / "summary.json").read_text())
            if summary["results"] != self.volumes or summary["errors"]:
                self.failures.append(f"{summary['results']} results, {summary['errors'][:3]}")
        elif (found := self.counts()["results"]) != self.volumes:
            self.failures.append(f"{found} results of {self.volumes}")
        numbers = sorted(random.Random(self.seed).sample(range(self.volumes), min(sample, self.volumes)))
        cases = [self.state / "cohort" / f"{number:05}" / "ct.nii.gz" for number in numbers]
        opener = partial(open_stand_in, None, 0.0) if self.bundle is None else partial(open_bundle, self.bundle)
        with opener() as session:
            began = time.perf_counter()
            results = infer(session, cases, self.state / "alone", classes=["everything"], overwrite=True)
            self.alone_s = (time.perf_counter() - began) / len(cases)
        for number, result in zip(numbers, results, strict=True):
            for name in ("ct_mask.nii.gz", "ct_mask_labels.json"):
                alone = (result.output or Path()).with_name(name)
                whole = self.state / "out" / f"{number:05}" / name
                if not whole.is_file() or whole.read_bytes() != alone.read_bytes():
                    self.failures.append(f"{whole} is not what one process makes")

    def counts(self) -> dict[str, int]:
        """Results, lines of the journal, those of a result that has one, and windows that stand-ins answered."""
        lines = (self.state / "out" / JOURNAL).read_text().splitlines()
        masks = [json.loads(line)["mask"] for line in lines]
        found = {
            "results": len(set(masks)),
            "journal_lines": len(lines),
            "journal_lines_twice": len(masks) - len(set(masks)),
        }
        if self.bundle is None:
            found["windows_answered"] = sum(mark.stat().st_size for mark in (self.state / "marks").iterdir())
        return found

    def _start(self) -> subprocess.Popen[bytes]:
        code = "import sys, cohort_on_ray; cohort_on_ray.drive_by_words(sys.argv[1:])"
        path = os.pathsep.join([*MODULES, *sys.path])
        words = ["-c", code, str(self.state), self.address, str(self.workers), str(self.window_s)]
        if self.bundle is not None:
            words = ["-m", "gstk", "infer", str(self.state / "cohort"), "-o", str(self.state / "out")]
            words += ["--classes", "everything", "--resume", "--ray", self.address, "--workers", str(self.workers)]
            words += ["--bundle", str(self.bundle), "--backend", BACKEND, "--precision", "fp32"]
        log = (self.state / "driver.log").open("ab")
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with log:
            return subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def _look(self) -> None:
        """Notes new files of results, and any that was written again."""
        for file in (self.state / "out").glob("*/ct_mask*"):
            status = file.stat()
            now = (status.st_ino, status.st_mtime_ns)
            name = str(file.relative_to(self.state))
            if self.seen.setdefault(name, now) != now and file.name.endswith("_mask.nii.gz"):
                self.failures.append(f"{name} was finished, and was written again")
                self.seen[name] = now

    def _alive(self) -> list[int]:
        if self.bundle is not None:
            return workers_of_this_cluster()
        pids = (int(mark.name) for mark in (self.state / "marks").iterdir())
        return sorted(pid for pid in pids if is_alive(pid))

    def _wait_for(self, pids: list[int]) -> float:
        """Seconds until the workers of a dead driver are gone, too."""
        began = time.perf_counter()
        while any(is_alive(pid) for pid in pids):
            if time.perf_counter() - began > GONE_S:
                self.failures.append(f"workers outlived their driver by {GONE_S:g} s")
                break
            time.sleep(0.05)
        return time.perf_counter() - began


def workers_of_this_cluster() -> list[int]:
    """Processes of gstk's workers, by the name that Ray gives them, among those that this process has started."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name().startswith("ray::_Actor") or "ray::_Actor" in " ".join(process.cmdline()):
                found.append(process.pid)
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def drive_by_words(words: list[str]) -> None:
    """`drive`, with its arguments as text."""
    drive(Path(words[0]), words[1], int(words[2]), float(words[3]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="an empty folder")
    parser.add_argument("--volumes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--worker-deaths", type=int, default=10)
    parser.add_argument("--driver-deaths", type=int, default=1)
    parser.add_argument("--faster", type=float, default=100.0)
    parser.add_argument("--compared", type=int, default=1000, help="results that one process makes again")
    parser.add_argument("--command-line", action="store_true", help="drivers are gstk infer, with real windows")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    measured = json.loads(MEASURED.read_text())
    case_s = measured["extrapolated"]["gstk int8"]["whole_s"]
    window_s = case_s / WINDOWS / arguments.faster
    bundle = None
    if arguments.command_line:
        arguments.state.mkdir(parents=True, exist_ok=True)
        bundle, window_s = write_bundle(arguments.state.resolve()), REAL_WINDOW_S
    with ray_cluster(arguments.workers) as address:
        cohort = Cohort(
            arguments.state.resolve(), address, arguments.volumes, arguments.workers, window_s, bundle=bundle
        )
        seconds = cohort.run(arguments.worker_deaths, arguments.driver_deaths)
    cohort.check(arguments.compared)
    if bundle is None:
        cost = {"measured_case_s": case_s, "faster": arguments.faster}
        ideal_s = arguments.volumes * case_s / arguments.faster / arguments.workers
    else:
        cores = os.cpu_count() or 1
        cost = {"case_s_in_one_process": cohort.alone_s}
        ideal_s = arguments.volumes * cohort.alone_s / min(cores, arguments.workers)
    from machine import describe

    report = {
        "machine": describe("ray"),
        "volumes": arguments.volumes,
        "workers": arguments.workers,
        "command_line": arguments.command_line,
        **cost,
        "deaths": cohort.deaths,
        "workers_gone_after_their_driver_s": cohort.orphans_s,
        "seconds": seconds,
        "ideal_seconds": ideal_s,
        "efficiency": ideal_s / seconds,
        "volumes_a_second": arguments.volumes / seconds,
        "windows_needed": WINDOWS * arguments.volumes,
        **cohort.counts(),
        "results_compared": min(arguments.compared, arguments.volumes),
        "failures": cohort.failures,
    }
    text = json.dumps(report, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    print(text)
    return int(bool(cohort.failures))


if __name__ == "__main__":
    sys.exit(main())

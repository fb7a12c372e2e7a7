"""SIGKILL at 500 random moments of gstk's commands: no half file stands under a final name, and the next run goes on.

    python benchmarks/campaigns/killed_commands.py --state FOLDER [--total 500]
        [--only infer prepare evaluate train export build] [--out benchmarks/results/killed_commands.json]

Each command runs in a process of its own, forked from one in which its libraries are imported already, with a network
of 30,000 weights that this script exports once; and is killed at a moment that is drawn evenly over its run. What then
lies in its output folder under a name that is not hidden must be whole. The next run begins on what the killed one
left; every fourth is let to its end, must make what an undisturbed run makes, and leaves nothing hidden there.
`build` runs on a stand-in for TensorRT. The exit code is 1 where something failed.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from campaign import begin
from small_recipe import SMALL_RECIPE

JOURNAL = ".gstk-journal.jsonl"
SHARES = {"infer": 0.26, "prepare": 0.26, "evaluate": 0.2, "train": 0.14, "build": 0.12, "export": 0.02}
"""Of all kills, by command; an export takes minutes."""
FINISHED_EACH, MOST_FAILURES = 4, 20
PRELOADED = [
    "torch", "torch._dynamo", "torch.utils.tensorboard", "monai.networks.nets.vista3d", "onnxruntime", "onnxscript",
    "openvino", "SimpleITK", "nibabel", "scipy.ndimage", "PIL.Image", "rich.progress", "rich.table", "gstk.cli",
    "gstk.batch.infer", "gstk.evaluation.runner", "gstk.evaluation.report", "gstk.cases.prepare",
    "gstk.session.factory", "gstk.training.train", "gstk.training.validation", "gstk.export.export",
    "gstk.engines.onnxruntime",
]  # fmt: skip
"""Modules that take seconds to import, which every process has from the start."""


@dataclass(frozen=True)
class Command:
    """One of gstk's commands, with its inputs.

    Attributes:
        words: after `gstk`; they write to `out`.
        exact: pattern of the files that are the same, byte by byte, in every run.
        again: the words of a run on what a killed one left.
        keeps: whether that run leaves the files of `exact` that are there as they are.
    """

    words: list[str]
    exact: str = "^$"
    again: Callable[[Path], list[str]] | None = None
    keeps: bool = False


def write_inputs(folder: Path, names: set[str]) -> dict[str, Command]:
    """The commands, and what they read; small, so that writing is a good part of their time."""
    from gstk.cases.npz import save_case
    from gstk.cases.phantom_case import phantom_case
    from gstk.cases.volumes import write_mask
    from gstk.core.bundle import builtin

    cases, scans = folder / "cases", folder / "scans"
    for made in (cases, scans):
        made.mkdir(parents=True, exist_ok=True)
    for index in range(2):
        case = phantom_case(index, 16)
        save_case(cases / f"{index}.npz", case)
        for suffix in (".nii.gz", ".nrrd"):
            write_mask(scans / f"scan{index}{suffix}", case.image, case.geometry)
    (folder / "mine.toml").write_text(SMALL_RECIPE.replace("workers = 1", "workers = 0"))
    network, bundle = folder.parent / "small.pt", folder.parent / "small"
    if names & {"export", "infer", "evaluate"} and not network.exists():
        _save_network(network)
    if names & {"infer", "evaluate"} and not bundle.exists():
        subprocess.run([sys.executable, "-m", "gstk", "export", str(network), "-o", str(bundle)], check=True)
    common = ["--bundle", str(bundle), "--backend", "onnxruntime", "--threads", "1"]
    infer = ["infer", "scans", "--point", "8,8,8", "-o", "out", "--budget", "none", *common]
    commands = {
        "infer": Command(infer, r"\.(nii\.gz|nrrd)$", lambda folder: [*infer, "--resume"], keeps=True),
        "prepare": Command(["prepare", "scans", "-o", "out", "--overwrite"], r"\.npz$"),
        "evaluate": Command(["evaluate", "cases", "-o", "out", "--no-report", *common], r"segs/.*\.npz$"),
        "train": Command(["train", "cases", "-o", "out", "--recipe", "mine.toml"], again=_resume),
        "export": Command(["export", str(network), "-o", "out", "--overwrite"], r"\.onnx$"),
        "build": Command(["build", str(builtin("tiny")), "--plans", "out", "--roi", "32,32,32", "--wide", "none"]),
    }
    return {name: command for name, command in commands.items() if name in names}


def run_gstk(words: list[str], folder: str, log: str, with_tensorrt: bool) -> None:
    """`gstk WORDS` in this process, which then ends; in a process group of its own."""
    os.setsid()
    os.chdir(folder)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.argv = ["gstk", *words]
    from gstk.cli import main

    if not with_tensorrt:
        main()
        return
    from fake_tensorrt import installed

    with installed():
        main()


class Killer:
    """Runs a command again and again, kills it, and looks at what it left."""

    def __init__(self, name: str, command: Command, folder: Path, context: ForkServerContext, seed: int) -> None:
        self.name, self.command, self.folder, self.context = name, command, folder, context
        self.rng = random.Random(seed)
        self.out, self.log = folder / "out", folder / f"{name}.log"
        self.kills = self.ended_before = self.finished = 0
        self.failures: list[str] = []
        code = 0
        for _ in range(2):  # the first starts the server of processes, too
            shutil.rmtree(self.out, ignore_errors=True)
            began = time.perf_counter()
            code = code or self._run(None)
            self.duration_s = time.perf_counter() - began
        if code != 0:
            raise RuntimeError(f"gstk {' '.join(command.words)} failed: {self.log.read_text()[-600:]}")
        self.expected = {path: self._content(path) for path in self._visible()}
        shutil.rmtree(self.out)

    def step(self) -> None:
        """One run more, killed at some moment of it."""
        self.kills += 1
        began = time.perf_counter()
        code = self._run(self.rng.uniform(0, self.duration_s))
        if code != -signal.SIGKILL:
            self.kills -= 1
            self.ended_before += 1
            # A machine that has become faster: moments are drawn over what a run takes now.
            self.duration_s = max(0.8 * self.duration_s, min(self.duration_s, time.perf_counter() - began))
            if code != 0:
                self.failures.append(f"exit code {code} after a kill: {self.log.read_text()[-600:]}")
        for path in self._visible():
            problem = broken(self.out / path)
            if problem:
                self.failures.append(f"{path} after a kill: {problem}")
        if self.kills % FINISHED_EACH == 0 and code == -signal.SIGKILL:
            self._finish()

    def _finish(self) -> None:
        code = self._run(None)
        if code != 0:
            self.failures.append(f"exit code {code} of a run after a kill: {self.log.read_text()[-600:]}")
        elif _names(self._visible()) != _names(self.expected):
            self.failures.append(f"another set of files: {sorted(_names(self._visible()) ^ _names(self.expected))}")
        elif hidden := [str(path) for path in self.folder.rglob(".*") if path.name != JOURNAL]:
            self.failures.append(f"left behind by runs that were killed: {hidden}")
        else:
            wrong = [path for path, content in self.expected.items() if content and self._content(path) != content]
            if wrong:
                self.failures.append(f"files that differ from an undisturbed run's: {wrong}")
        self.finished += 1
        shutil.rmtree(self.out, ignore_errors=True)

    def _run(self, kill_after_s: float | None) -> int:
        resumed = self.command.again
        words = self.command.words if resumed is None or not self.out.exists() else resumed(self.folder)
        arguments = (words, str(self.folder), str(self.log), self.name == "build")
        before = self._identities() if self.command.keeps else {}
        process = self.context.Process(target=run_gstk, args=arguments)
        process.start()
        process.join(kill_after_s)
        if process.is_alive() and process.pid is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has no group of its own yet
                process.kill()
            process.join()
        now = self._identities() if before else {}
        again = sorted(path for path, identity in before.items() if now.get(path) != identity)
        if again:
            self.failures.append(f"files that were finished and are made anew: {again}")
        return process.exitcode if process.exitcode is not None else -1

    def _visible(self) -> set[str]:
        """Files under names that are not hidden."""
        found = (path.relative_to(self.out) for path in self.out.rglob("*") if path.is_file())
        return {str(path) for path in found if not any(part.startswith(".") for part in path.parts)}

    def _identities(self) -> dict[str, tuple[int, int]]:
        """What changes when a file is written again, for each that is the same in every run."""
        files = {path: (self.out / path).stat() for path in self._visible() if re.search(self.command.exact, path)}
        return {path: (status.st_ino, status.st_mtime_ns) for path, status in files.items()}

    def _content(self, path: str) -> bytes:
        return (self.out / path).read_bytes() if re.search(self.command.exact, path) else b""

    def to_json(self) -> dict[str, Any]:
        kept = ("kills", "ended_before", "finished", "duration_s", "failures")
        return {name: getattr(self, name) for name in kept}


def _names(paths: Iterable[str]) -> set[str]:
    """Names of files; TensorBoard's end in the time and process that began them."""
    return {re.sub(r"tfevents\..*", "tfevents", path) for path in paths}


def broken(file: Path) -> str:
    """What is wrong with a file that should be whole, by its format; empty where nothing is."""
    name = file.name
    try:
        if name.endswith((".npz", ".pt")):
            with zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
                return f"the member {bad} is damaged" if bad else ""
        if name.endswith(".nii.gz"):
            with gzip.open(file) as stream:
                stream.read()
        elif name.endswith(".nrrd"):
            import SimpleITK

            SimpleITK.ReadImage(str(file))
        elif name.endswith(".json"):
            json.loads(file.read_bytes())
        elif name.endswith(".jsonl"):
            for line in file.read_text().splitlines():
                json.loads(line)
        elif name.endswith(".onnx"):
            import onnx

            onnx.checker.check_model(str(file))
        elif name.endswith(".plan"):
            record = json.loads(file.with_suffix(".json").read_bytes()) if file.with_suffix(".json").exists() else None
            if record is not None and record["size_bytes"] != file.stat().st_size:
                return f"{file.stat().st_size} bytes, its record says {record['size_bytes']}"
        elif name.endswith(".csv"):
            text = file.read_text()
            if text and not text.endswith("\n"):
                return "its last line is cut off"
        elif not file.stat().st_size:
            return "it is empty"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _resume(folder: Path) -> list[str]:
    begun = (folder / "out" / "stage1").exists()
    return ["train", "-o", "out", "--resume"] if begun else ["train", "cases", "-o", "out", "--recipe", "mine.toml"]


def _save_network(file: Path) -> None:
    import torch

    from gstk.training.checkpoint import save_checkpoint
    from gstk.training.network import build_network
    from gstk.training.spec import VISTA3DSpec

    torch.manual_seed(7)
    spec = VISTA3DSpec(width=8, blocks_down=(1, 1), heads=1, attention_downsample=1)
    network = build_network(spec).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)  # logits near 0, on which backends agree to all digits that are compared
    save_checkpoint(file, network, spec, {"training": {"recipe": "none", "seed": 7}})


def main() -> int:
    campaign = begin(__doc__, 500, SHARES)
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    for number, name in enumerate(campaign.parts):
        wanted = round(SHARES[name] * campaign.total)
        before = campaign.progress.get(name, {})
        if before.get("kills", 0) >= wanted or campaign.is_time_up:
            continue
        folder = campaign.state / name
        folder.mkdir(exist_ok=True)
        killer = Killer(
            name, write_inputs(folder, {name})[name], folder, context, 1000 * number + before.get("kills", 0)
        )
        while (
            before.get("kills", 0) + killer.kills < wanted
            and len(killer.failures) < MOST_FAILURES
            and not campaign.is_time_up
        ):
            killer.step()
            now = killer.to_json()
            for key in ("kills", "ended_before", "finished", "failures"):
                now[key] = before.get(key, type(now[key])()) + now[key]
            campaign.progress[name] = now
            campaign.save()
        print(name, json.dumps(campaign.progress[name]), flush=True)
    return campaign.finish("kills", "torch", "onnxruntime")


if __name__ == "__main__":
    sys.exit(main())

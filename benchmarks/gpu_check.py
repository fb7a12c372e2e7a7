"""One command for a machine with an NVIDIA GPU: what works there, how exact it is and how fast, in ten minutes.

    python benchmarks/gpu_check.py --out benchmarks/results/gpu_check.json
    python benchmarks/gpu_check.py --bundle BUNDLE --sides 128,96    # your own model's engines
    python benchmarks/gpu_check.py --rehearse                        # every part on the processor, with a small network

Parts, in the order of what they tell; each in a process of its own, so that what one breaks the next does not feel:

1. `network`: VISTA3D of full size in torch, in float32, bf16 and fp16, compiled or not, channels last or not: seconds
   of an encode and a click (median and 95th percentile), memory, share of the GPU's own peak rate, agreement with
   float32 on the GPU and on the processor.
2. `inside FP16`: every value inside the exported FP16 graphs beside the FP32 graphs'; overflow is a failure.
3. Engines: a part each for torch, ONNX Runtime and TensorRT on the bundle: the same, and what every engine has to do
   (`gpu_conformance.py`). What is not installed is named as absent.
4. `arrays`: CuPy's and torch's arrays in and out without a copy.
5. `training`: a step of the full network at 128³ in bf16, and of the recipe of `tiny`.

`--minutes` are shared out: a part gets its share of what is left, and what it does not need goes to the rest. Every
single result is written when it is there, so that a run that is cut off still says what it had. The bundle is exported,
and its graphs run in FP32 for comparison, on half of the processor's cores while the first part has the GPU. Exit code
1 where a check failed; the report holds the seconds by the clock, and of processors, that all parts took.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gpu_engines
import gpu_network
from machine import describe

from gstk.core.files import atomic_path, make_folder
from gstk.errors import BackendMissing

ANSWER = "answer: "
PACKAGES = ("torch", "monai", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "cuda-bindings", "cupy-cuda13x")
NETWORK_SIDES, REHEARSED_SIDES = (128, 96, 160), (32,)
RESERVE_S = 5.0
"""Of the time, for the report."""
POLL_S = 0.5


@dataclass(frozen=True)
class Setting:
    """What the parts are run on.

    Attributes:
        device: `cuda`, `cuda:N` or `cpu`.
        sides: of cubic regions, voxels, in the order of measuring.
        repeats: of what is timed.
        full_size: VISTA3D itself; otherwise a network of few weights.
        bundle: folder or built-in name.
        has_bundle: whether it is there already.
        folder: for plans and reference logits.
    """

    device: str
    sides: list[int]
    repeats: int
    full_size: bool
    bundle: str
    has_bundle: bool
    folder: str


@dataclass(frozen=True)
class Part:
    """One entry of the report: its share of the time, and whether the bundle has to be there first."""

    name: str
    share: float
    needs_bundle: bool = False


def parts_for(device: str) -> list[Part]:
    """In order."""
    ways = [way for way, (backend, *_) in gpu_engines.WAYS.items() if backend != "openvino" or device == "cpu"]
    # A processor emulates float16.
    slow = [way for way in ways if ("torch" in way and "FP16" in way if device == "cpu" else "TensorRT" in way)]
    return [
        Part("network", 6),
        Part("inside FP16", 1, needs_bundle=True),
        *(Part(way, 3 if way in slow else 1, needs_bundle=True) for way in ways),
        Part("arrays", 0.5),
        Part("training", 3),
    ]


def run_part(name: str, setting: Setting) -> Iterator[dict[str, Any]]:
    """What a part has found so far, again and again, the last time whole."""
    own = setting
    if name == "bundle":
        yield from prepare_bundle(own)
    elif name == "network":
        yield from gpu_network.network_speed(own.sides, own.repeats, own.device, own.full_size)
    elif name == "inside FP16":
        yield from gpu_engines.inside_fp16(own.bundle, min(own.sides), own.device)
    elif name == "arrays":
        yield from gpu_network.arrays(own.device)
    elif name == "training":
        yield from gpu_network.training(own.device, own.full_size, steps=10 if own.full_size else 2)
    else:
        yield from gpu_engines.engine(name, own.bundle, own.sides, own.repeats, own.folder, own.device)


def prepare_bundle(setting: Setting) -> Iterator[dict[str, Any]]:
    """Exports a network with random weights, unless there is a bundle; then what engines are compared with."""
    found: dict[str, Any] = {}
    if not setting.has_bundle:
        from full_size import export, write_checkpoint

        checkpoint = Path(setting.bundle).with_suffix(".pt")
        write_checkpoint(checkpoint, setting.full_size)
        took = export(str(checkpoint), setting.bundle)
        found = {"seconds": took["seconds"], "bytes": took["bytes"]}
        yield found
    began = time.monotonic()
    for side in setting.sides:
        try:
            gpu_engines.expected_logits(setting.bundle, side, setting.folder)
        except BackendMissing as error:  # engines say so, too
            yield {**found, "absent": f"what engines are compared with: {error}"}
            return
        found["compared_with_s"] = time.monotonic() - began
        yield found


class Running:
    """A part in a process (and group) of its own, and the last that it said."""

    def __init__(self, name: str, setting: Setting) -> None:
        call = json.dumps([name, setting.__dict__])
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))} if name == "bundle" else {}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--call", call],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A part that is cut off while it compiles would leave half a file to the next run in a shared cache.
            env={
                "OMP_WAIT_POLICY": "PASSIVE",
                "TORCHINDUCTOR_CACHE_DIR": str(Path(setting.folder) / re.sub(r"\W+", "_", f"compiled {name}")),
                **os.environ,
                **threads,
            },
        )
        self.found: dict[str, Any] = {}
        self._last_line = "no message"
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                self.found = json.loads(line.removeprefix(ANSWER))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last_line = line.strip() or self._last_line

    def result(self, limit_s: float, on_found: Callable[[dict[str, Any]], None] = lambda found: None) -> dict[str, Any]:
        """What it found, at the latest after the limit: then it is ended, and `cut_off` says so.

        Args:
            limit_s: seconds from now.
            on_found: called with what it has found so far, each time that it has found more.
        """
        ends, told = time.monotonic() + limit_s, self.found
        try:
            while self._process.poll() is None:
                if time.monotonic() >= ends:
                    return {**self.found, "cut_off": f"after its {limit_s:.0f} s"}
                if self.found is not told:
                    told = self.found
                    on_found(told)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(min(POLL_S, max(ends - time.monotonic(), 0.0)))
        finally:
            self.end()
        for reader in self._readers:
            reader.join()
        if self._process.returncode:
            failure = f"exit code {self._process.returncode}: {self._last_line}"
            return {**self.found, "failures": [*self.found.get("failures", []), failure]}
        return self.found

    def end(self) -> None:
        """With all that it started; what has ended by itself stays as it is."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def check(setting: Setting, minutes: float, only: set[str], out: Path | None) -> dict[str, Any]:
    """The whole report; written whenever a part has found more."""
    ends = time.monotonic() + 60 * minutes - RESERVE_S
    parts = [part for part in parts_for(setting.device) if not only or part.name in only]
    making = Running("bundle", setting) if any(part.needs_bundle for part in parts) else None
    try:
        return _check(setting, parts, making, ends, out)
    finally:
        if making is not None:
            making.end()


def _check(
    setting: Setting, parts: list[Part], making: Running | None, ends: float, out: Path | None
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "machine": describe(*PACKAGES),
        "gpu": gpu_name(setting.device),
        "device": setting.device,
        "network": "VISTA3D, random weights" if setting.full_size else "small, random weights",
        "sides": setting.sides,
        "repeats": setting.repeats,
        "parts": {},
    }

    began_s = time.monotonic()

    def note(name: str, found: dict[str, Any]) -> None:
        report["parts"][name] = found
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of parts that have ended
        report.update(took_s=time.monotonic() - began_s, processor_s=used.ru_utime + used.ru_stime)
        report["failures"] = [
            f"{part}: {line}" for part, result in report["parts"].items() for line in result.get("failures", [])
        ]
        if out:
            with atomic_path(out) as file:
                file.write_text(json.dumps(report, indent=1) + "\n")

    for index, part in enumerate(parts):
        began = time.monotonic()
        share = part.share / sum(later.share for later in parts[index:])
        print(f"{part.name}: at most {share * (ends - began):.0f} s", file=sys.stderr, flush=True)
        if part.needs_bundle and making is not None:
            note("bundle", making.result(ends - began))
            making = None
        bundle = report["parts"].get("bundle", {})
        if part.needs_bundle and ("cut_off" in bundle or bundle.get("failures")):
            found: dict[str, Any] = {"absent": "the bundle could not be made"}
        else:
            limit_s = share * (ends - time.monotonic())
            found = Running(part.name, setting).result(limit_s, partial(note, part.name))
        note(part.name, {**found, "took_s": round(time.monotonic() - began, 1)})
    return report


def gpu_name(device: str) -> str:
    """As its driver calls it, with the driver and CUDA; empty for a processor."""
    if device == "cpu":
        return ""
    from gstk.engines.devices import cuda_version, driver_version

    try:
        import torch

        name = torch.cuda.get_device_name(device)
    except (ImportError, RuntimeError, AssertionError) as error:
        raise SystemExit(f"got device {device}, expected a GPU that torch can use ({error}); try --rehearse") from None
    return f"{name}, driver {driver_version()}, CUDA {'.'.join(map(str, cuda_version()))}"


def show(report: dict[str, Any]) -> None:
    """The report as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=140)
    where = report["gpu"] or report["machine"]["cpu"]
    table = Table(title=f"{report['network']}, on {where}", title_justify="left")
    headings = ("part", "region", "encode, ms", "95 %", "click, ms", "95 %", "peak MB", "of peak rate", "voxels equal")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for name, result in report["parts"].items():
        for side, values in result.get("regions", {}).items():
            rows = values if name == "network" else {name: values}
            for way, row in rows.items():
                if "encode_s" not in row:
                    continue
                times = [1e3 * row[what][which] for what in ("encode_s", "click_s") for which in ("median", "p95")]
                table.add_row(
                    way,
                    f"{side}³",
                    *(f"{value:.1f}" for value in times),
                    f"{row['peak_mb']:.0f}" if row["peak_mb"] else "",
                    f"{row['share_of_peak']:.0%}" if row.get("share_of_peak") else "",
                    f"{row['parity']['mask_agreement']:.3%}",
                )
    console.print(table)
    for name, result in report["parts"].items():
        for key in ("absent", "cut_off"):
            if key in result:
                console.print(f"{key.replace('_', ' ')}  {name}: {escape(str(result[key]))}", highlight=False)
        for recipe, found in result.get("recipes", {}).items():
            console.print(f"training  {recipe}: {found['seconds_a_step']:.3f} s a step", highlight=False)
    for line in report["failures"]:
        console.print(f"FAILED  {escape(line)}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="a bundle's folder, or a built-in name; default: the full network, exported")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu")
    parser.add_argument("--sides", help="of cubic regions, in the order of measuring; default 128,96,160")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="this part alone; may be repeated")
    parser.add_argument("--rehearse", action="store_true", help="every part on the processor, with a small network")
    parser.add_argument("--out", type=Path, help="JSON, written whenever there is a result more")
    parser.add_argument("--work", type=Path, help="folder for plans and bundle, which stay; a temporary one otherwise")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        name, values = json.loads(arguments.call)
        for found in run_part(name, Setting(**values)):
            print(ANSWER + json.dumps(found), flush=True)
        return
    device = "cpu" if arguments.rehearse else arguments.device
    names = {part.name for part in parts_for(device)}
    if unknown := set(arguments.only) - names:
        parser.error(f"got parts {sorted(unknown)}, expected some of {sorted(names)}")
    default = REHEARSED_SIDES if arguments.rehearse else NETWORK_SIDES
    with contextlib.ExitStack() as stack:
        folder = Path(arguments.work or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        setting = Setting(
            device=device,
            sides=[int(side) for side in arguments.sides.split(",")] if arguments.sides else list(default),
            repeats=3 if arguments.rehearse else arguments.repeats,
            full_size=not arguments.rehearse,
            bundle=arguments.bundle or str(folder / "bundle"),
            has_bundle=bool(arguments.bundle) or (folder / "bundle" / "manifest.json").is_file(),
            folder=str(folder),
        )
        if arguments.out:
            make_folder(arguments.out.parent)
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # parts end with this process
        report = check(setting, arguments.minutes, set(arguments.only), arguments.out)
    show(report)
    raise SystemExit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()

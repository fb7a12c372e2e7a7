"""One command for a machine with an NVIDIA GPU: do the engines work there, how exact, how fast, in how much memory?

    python benchmarks/gpu_check.py --full-size --out benchmarks/results/gpu_check.json
    python benchmarks/gpu_check.py --bundle BUNDLE --roi 96,128,160
    python benchmarks/gpu_check.py --bundle tiny --roi 32,48 --repeats 3 --device cpu      # a try without a GPU

Every way to run the bundle gets a process of its own: what one breaks on the GPU, another does not feel, and memory is
its own. What is not installed, or has no plans, is listed as absent with the reason. For each:

- the bundle's test vectors, groups of objects, threads, padding and errors (`conformance`);
- logits on each region against ONNX Runtime's in FP32 on the processor (`parity`);
- seconds of an encode and a click, waited for, after a warm-up: median and 95th percentile;
- the most that the GPU held beyond what it held before, and the process's own memory on a processor.

`--full-size` makes a bundle of the full network with random weights first (minutes; needs `pip install ".[export]"`),
and adds MONAI's own network. Exit code 1 where a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu_conformance import conformance
from gpu_memory import PeakMemory
from machine import describe

from gstk.core.bundle import Bundle, find_bundle
from gstk.engines import Engine, open_engine
from gstk.engines.devices import cuda_version, driver_version
from gstk.errors import BackendMissing, BundleError, PlanError, WrongArchitecture
from gstk.export.tolerances import TOLERANCES, Tolerance, compare

WAYS: dict[str, tuple[str, str, dict[str, str]]] = {
    "torch eager FP32": ("torch", "fp32", {}),
    "torch AMP": ("torch", "fp32", {"amp": "fp16"}),
    "torch.compile": ("torch", "fp32", {"compile": "on"}),
    "torch eager FP16 graphs": ("torch", "fp16", {}),
    "ONNX Runtime FP32": ("onnxruntime", "fp32", {}),
    "ONNX Runtime FP16": ("onnxruntime", "fp16", {}),
    "OpenVINO FP32": ("openvino", "fp32", {}),
    "TensorRT FP32": ("tensorrt", "fp32", {}),
    "TensorRT FP16": ("tensorrt", "fp16", {}),
}
"""Backend, precision and settings by name."""
AMP_TOLERANCES = {"fp16": Tolerance(5e-2, 5e-2, 0.995), "bf16": Tolerance(4e-1, 2e-1, 0.99)}
"""torch.autocast rounds more than the FP16 graphs do: the inputs of norms, and upsampling; bfloat16 has 8 bits."""
WARM_UP = 3
ABSENT = (BackendMissing, PlanError, WrongArchitecture, BundleError)


def question(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image [1,1,H,W,D], coords [1,1,3] and labels [1,1] of a region."""
    image = np.random.default_rng(side).random((1, 1, side, side, side), dtype=np.float32)
    return image, np.full((1, 1, 3), side // 2, np.float32), np.ones((1, 1), np.int64)


def reference(bundle: str, sides: list[int], folder: str) -> None:
    """Writes the logits that all others are compared with."""
    with open_engine(bundle, "onnxruntime", "fp32", device="cpu") as engine:
        for side in sides:
            image, coords, labels = question(side)
            np.save(Path(folder) / f"{side}.npy", engine.decode(engine.encode(image), coords, labels))


def build(bundle: str, precision: str, sides: list[int], plans: str, device: str) -> dict[str, Any]:
    """Plans of TensorRT for the regions, and a wide one for the checks."""
    from gstk.engines.tensorrt_build import build_plans

    began = time.perf_counter()
    try:
        regions = [(side, side, side) for side in sides]
        results = build_plans(bundle, precision, regions, device=device, plans=Path(plans))
    except ABSENT as error:
        return {"absent": str(error)}
    records = {result.plan.record.kind: result.plan.record for result in results}
    return {
        "seconds": time.perf_counter() - began,
        "bytes": {kind: record.size_bytes for kind, record in records.items()},
        "layers": {kind: dict(record.layers) for kind, record in records.items()},
    }


def measure(
    bundle: str, way: str, device: str, sides: list[int], repeats: int, references: str, plans: str
) -> dict[str, Any]:
    """All about one way to run the bundle."""
    backend, precision, options = WAYS[way]
    on_cpu = device == "cpu"
    if way == "torch AMP" and on_cpu:
        options = {"amp": "bf16"}
    if backend == "tensorrt":
        options = {"plans": plans}
    tolerance = AMP_TOLERANCES[options["amp"]] if "amp" in options else TOLERANCES[precision]
    found: dict[str, Any] = {"regions": {}}
    try:
        with PeakMemory(device) as loading:
            began = time.perf_counter()
            engine = open_engine(bundle, backend, precision, device=device, options=options)
            found["load_s"] = time.perf_counter() - began
    except ABSENT as error:
        return {"absent": str(error)}
    with engine:
        found |= {"version": engine.version, "device": str(engine.device)}
        for side in sides:
            with PeakMemory(device) as memory:
                timed = _time(engine, side, repeats)
            logits = timed.pop("logits")
            expected = np.load(Path(references) / f"{side}.npy")
            allowed = tolerance.error(float(np.abs(expected).max()))
            agreement = compare(logits, expected, allowed)
            agreement |= {"allowed": allowed, "ok": agreement["max_abs_error"] <= allowed}
            agreement["ok"] = agreement["ok"] and agreement["mask_agreement"] >= tolerance.agreement
            peak = (
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 if on_cpu else memory.peak_mb + loading.peak_mb
            )
            found["regions"][str(side)] = {**timed, "peak_mb": peak, "parity": agreement}
        found["conformance"] = conformance(engine, min(sides), tolerance)
    return found


def _time(engine: Engine, side: int, repeats: int) -> dict[str, Any]:
    image, coords, labels = question(side)
    encodes, clicks = [], []
    for turn in range(WARM_UP + repeats):
        began = time.perf_counter()
        embedding = engine.encode(image)
        _wait(engine)
        encoded = time.perf_counter()
        logits = engine.decode(embedding, coords, labels)  # they arrive in host memory: nothing is left to wait for
        if turn >= WARM_UP:
            encodes.append(encoded - began)
            clicks.append(time.perf_counter() - encoded)
    return {"encode_s": _spread(encodes), "click_s": _spread(clicks), "logits": logits}


def _wait(engine: Engine) -> None:
    """Until the GPU has done what was asked; of the engines torch alone returns before."""
    if engine.name == "torch" and engine.device.is_gpu:
        import torch

        torch.cuda.synchronize()


def _spread(seconds: list[float]) -> dict[str, float]:
    return {"median": float(np.median(seconds)), "p95": float(np.percentile(seconds, 95))}


def monai(checkpoint: str, device: str, sides: list[int], repeats: int, amp: bool) -> dict[str, Any]:
    """MONAI's own network: what a click costs where every click encodes anew is the sum of both."""
    import torch

    from gstk.training.checkpoint import load_network

    where = torch.device(device)
    found: dict[str, Any] = {"regions": {}, "version": torch.__version__, "device": device}
    network = load_network(checkpoint).eval().to(where)
    kind = torch.bfloat16 if where.type == "cpu" else torch.float16
    with torch.inference_mode(), torch.autocast(where.type, kind, enabled=amp):
        for side in sides:
            image, coords, labels = (torch.from_numpy(array).to(where) for array in question(side))
            encodes, clicks = [], []
            with PeakMemory(device) as memory:
                for turn in range(WARM_UP + repeats):
                    began = time.perf_counter()
                    features = network.image_encoder(image, with_point=True, with_label=False)[0]
                    if where.type == "cuda":
                        torch.cuda.synchronize()
                    encoded = time.perf_counter()
                    network.point_head(features, point_coords=coords, point_labels=labels).float().cpu()
                    if turn >= WARM_UP:
                        encodes.append(encoded - began)
                        clicks.append(time.perf_counter() - encoded)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 if device == "cpu" else memory.peak_mb
            found["regions"][str(side)] = {"encode_s": _spread(encodes), "click_s": _spread(clicks), "peak_mb": peak}
    return found


def make_full_size(folder: str) -> str:
    """The full network with random weights, as a bundle with FP16 graphs."""
    from full_size import export, write_checkpoint

    checkpoint = Path(folder) / "vista3d132.pt"
    write_checkpoint(checkpoint)
    export(str(checkpoint), str(Path(folder) / "bundle"))
    return str(checkpoint)


def _apart(name: str, *arguments: object) -> Any:
    """A function of this file in a process of its own; what ends that process is part of the report."""
    print(name, *arguments[:2], file=sys.stderr, flush=True)
    own = [sys.executable, __file__, "--call", json.dumps([name, *arguments])]
    done = subprocess.run(own, capture_output=True, text=True)
    if done.returncode:
        last = next(iter(reversed(done.stderr.strip().splitlines())), "no message")
        return {"failed": f"exit code {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1])


def failures(report: dict[str, Any]) -> list[str]:
    """What is wrong, a line each; what is absent is not."""
    found = []
    for way, result in report["ways"].items():
        if "failed" in result:
            found.append(f"{way}: {result['failed']}")
        found += [f"{way}, {check}: {said}" for check, said in result.get("conformance", {}).items() if said != "ok"]
        for side, values in result.get("regions", {}).items():
            parity = values.get("parity")
            if parity and not parity["ok"]:
                found.append(f"{way} at {side}: {parity}")
    return found


def show(report: dict[str, Any]) -> None:
    """The report as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{report['bundle']} on {report['gpu'] or report['machine']['cpu']}", title_justify="left")
    for heading in ("way", "region", "encode, ms", "95 %", "click, ms", "95 %", "peak MB", "largest error", "voxels"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    absent = []
    for way, result in report["ways"].items():
        if "regions" not in result:
            absent.append(f"{way}: {result.get('absent') or result.get('failed')}")
            continue
        for side, values in result["regions"].items():
            parity = values.get("parity")
            times = [1e3 * values[name][part] for name in ("encode_s", "click_s") for part in ("median", "p95")]
            exact = [f"{parity['max_abs_error']:.1e}", f"{parity['mask_agreement']:.3%}"] if parity else ["-", "-"]
            table.add_row(way, f"{side}³", *(f"{value:.1f}" for value in times), f"{values['peak_mb']:.0f}", *exact)
    Console(width=130).print(table)
    for line in absent:
        Console(width=130).print(f"absent  {escape(line)}", highlight=False)


def check(
    bundle: str, device: str, sides: list[int], repeats: int, folder: str, checkpoint: str = ""
) -> dict[str, Any]:
    """The whole report of a bundle."""
    ways = {name: way for name, way in WAYS.items() if (way[0] != "openvino" or device == "cpu")}
    opened = Bundle.open(find_bundle(bundle))
    report: dict[str, Any] = {
        "machine": describe("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "cuda-bindings"),
        "bundle": opened.manifest.name,
        "gpu": "",
        "driver": driver_version(),
        "cuda": ".".join(map(str, cuda_version())),
        "device": device,
        "repeats": repeats,
        "plans": {},
        "ways": {},
    }
    made = _apart("reference", bundle, sides, folder)
    if made is not None:
        raise SystemExit(f"the reference could not be computed: {made['failed']}")
    for name, (backend, precision, _) in ways.items():
        plans = str(Path(folder) / "plans")
        if backend == "tensorrt":
            built = _apart("build", bundle, precision, sides, plans, device if device != "cpu" else "cuda")
            report["plans"][precision] = built
            if "seconds" not in built:
                report["ways"][name] = built
                continue
        report["ways"][name] = result = _apart("measure", bundle, name, device, sides, repeats, folder, plans)
        if device != "cpu":
            report["gpu"] = result.get("device", "").partition(": ")[2] or report["gpu"]
    if checkpoint:
        for name, amp in (("MONAI's network FP32", False), ("MONAI's network AMP", True)):
            report["ways"][name] = _apart("monai", checkpoint, device, sides, repeats, amp)
    report["failures"] = failures(report)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny", help="a bundle's folder, or a built-in name")
    parser.add_argument("--full-size", action="store_true", help="the full network with random weights instead")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu")
    parser.add_argument("--roi", default="96,128,160", help="sides of cubic regions, voxels")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--work", type=Path, help="folder for plans and bundles, which stay; a temporary one otherwise")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        name, *values = json.loads(arguments.call)
        print(json.dumps(globals()[name](*values)))
        return
    sides = [int(side) for side in arguments.roi.split(",")]
    with contextlib.ExitStack() as stack:
        folder = str(arguments.work or stack.enter_context(tempfile.TemporaryDirectory()))
        Path(folder).mkdir(parents=True, exist_ok=True)
        checkpoint, bundle = "", arguments.bundle
        if arguments.full_size:
            made = _apart("make_full_size", folder)
            if not isinstance(made, str):
                raise SystemExit(made["failed"])
            checkpoint, bundle = made, str(Path(folder) / "bundle")
        report = check(bundle, arguments.device, sides, arguments.repeats, folder, checkpoint)
    show(report)
    for line in report["failures"]:
        print(f"FAILED  {line}")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    raise SystemExit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()

"""A bundle's engines on a GPU: parts of `gpu_check.py` that need one."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu_conformance import conformance
from gpu_memory import PeakMemory
from gpu_timing import question, spread, warm_up

from gstk.core.bundle import Bundle, find_bundle
from gstk.engines import Engine, open_engine
from gstk.errors import BackendMissing, BundleError, PlanError, WrongArchitecture
from gstk.export.tolerances import TOLERANCES, Tolerance, compare

WAYS: dict[str, tuple[str, str, dict[str, str]]] = {
    "torch FP16 graphs": ("torch", "fp16", {}),
    "torch FP32": ("torch", "fp32", {}),
    "torch AMP": ("torch", "fp32", {"amp": "fp16"}),
    "torch.compile, FP16 graphs": ("torch", "fp16", {"compile": "on"}),
    "ONNX Runtime FP32": ("onnxruntime", "fp32", {}),
    "ONNX Runtime FP16": ("onnxruntime", "fp16", {}),
    "OpenVINO FP32": ("openvino", "fp32", {}),
    "TensorRT FP16": ("tensorrt", "fp16", {}),
    "TensorRT FP32": ("tensorrt", "fp32", {}),
}
"""Backend, precision and settings by name."""
AMP_TOLERANCES = {"fp16": Tolerance(5e-2, 5e-2, 0.995), "bf16": Tolerance(4e-1, 2e-1, 0.99)}
"""torch.autocast rounds more than the FP16 graphs do: the inputs of norms, and upsampling; bfloat16 has 8 bits."""
ABSENT = (BackendMissing, PlanError, WrongArchitecture, BundleError)
MOST_LAYER_ERROR = 0.1
"""Of a layer's root mean square: float16 rounds to 0.0005 of a value; what is wrong is off by all of it."""


def expected_logits(bundle: str, side: int, folder: str) -> np.ndarray:
    """ONNX Runtime's in FP32 on the processor, computed once and kept in the folder."""
    file = Path(folder) / f"expected_{side}.npy"
    if not file.is_file():
        with open_engine(bundle, "onnxruntime", "fp32", device="cpu") as engine:
            image, coords, labels = question(side)
            np.save(file, engine.decode(engine.encode(image), coords, labels))
    return np.asarray(np.load(file))


def inside_fp16(bundle: str, side: int, device: str) -> Iterator[dict[str, Any]]:
    """Every value inside the FP16 graphs, run by torch, beside the FP32 graphs': the largest, and how far off."""
    import torch

    from gstk.engines.torch_graph import TorchGraph

    opened, where = Bundle.open(find_bundle(bundle)), torch.device(device)
    image, coords, labels = question(side)
    inputs = {"image": image, "point_coords": coords, "point_labels": labels}
    report: dict[str, Any] = {"layers": {}, "failures": []}
    for kind in ("encoder", "prompt_decoder"):
        seen = _Inside()
        for precision, observe in (("fp32", seen.keep), ("fp16", seen.compare)):
            graph = TorchGraph(opened.graph(kind, precision), where).eval()
            given = {
                name: torch.as_tensor(inputs[name], dtype=graph.types.get(name), device=where) for name in graph.inputs
            }
            with torch.inference_mode():
                found = graph(given, observe)[0]
            if (kind, precision) == ("encoder", "fp32"):
                inputs["embedding"] = found.cpu().numpy()
        worst = max(seen.errors, key=seen.errors.__getitem__, default="nothing")
        error = seen.errors.get(worst, np.inf)
        report["layers"][kind] = {
            "compared": len(seen.errors),
            "worst": {"value": worst, "relative_error": error},
            "largest": {"value": seen.largest[0], "magnitude": seen.largest[1]},
        }
        report["failures"] += [f"{kind}: {name} overflows float16" for name in seen.overflows]
        if not error <= MOST_LAYER_ERROR:
            report["failures"].append(f"{kind}: of {len(seen.errors)} values, {worst} is {error:.2g} off")
    yield report


class _Inside:
    """Values of the FP32 graph, and how far those of the same name in the FP16 graph are from them."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}
        self.errors: dict[str, float] = {}
        self.largest = ("", 0.0)
        self.overflows: list[str] = []

    def keep(self, name: str, value: Any) -> None:
        if hasattr(value, "is_floating_point") and value.is_floating_point():
            self._kept[name] = value.cpu()

    def compare(self, name: str, value: Any) -> None:
        if not hasattr(value, "is_floating_point") or value.element_size() != 2:
            return
        if not bool(value.isfinite().all()):
            self.overflows.append(name)
        self.largest = max(self.largest, (name, float(value.abs().max())), key=lambda pair: pair[1])
        wanted = self._kept.get(name)
        if wanted is not None and wanted.shape == value.shape:
            spread = float(wanted.square().mean().sqrt())
            off = float((value.float().cpu() - wanted).square().mean().sqrt())
            self.errors[name] = off / spread if spread else off


def build(bundle: str, precision: str, sides: list[int], plans: str, device: str) -> dict[str, Any]:
    """Plans of TensorRT for the regions, and a wide one for the checks."""
    from gstk.engines.tensorrt_build import build_plans

    began = time.perf_counter()
    regions = [(side, side, side) for side in sides]
    results = build_plans(bundle, precision, regions, device=device, plans=Path(plans))
    records = {result.plan.record.kind: result.plan.record for result in results}
    return {
        "seconds": time.perf_counter() - began,
        "bytes": {kind: record.size_bytes for kind, record in records.items()},
        "dtypes": {kind: dict(record.dtypes) for kind, record in records.items()},
        "layers": {kind: dict(record.layers) for kind, record in records.items()},
        "memory_bytes": {kind: list(record.memory_bytes) for kind, record in records.items()},
        "profiles": str(results[0].plan.record.profiles),
    }


def engine(way: str, bundle: str, sides: list[int], repeats: int, folder: str, device: str) -> Iterator[dict[str, Any]]:
    """Speed, memory and agreement of one way to run the bundle, region by region; then what every engine has to do."""
    backend, precision, options = WAYS[way]
    on_cpu = device == "cpu"
    if "amp" in options and on_cpu:
        options = {"amp": "bf16"}
    tolerance = AMP_TOLERANCES[options["amp"]] if "amp" in options else TOLERANCES[precision]
    report: dict[str, Any] = {"regions": {}, "failures": []}
    try:
        if backend == "tensorrt":
            options = {"plans": str(Path(folder) / "plans")}
            report["build"] = build(bundle, precision, sides, options["plans"], "cuda" if on_cpu else device)
            yield report
        with PeakMemory(device) as loading:
            began = time.perf_counter()
            opened = open_engine(bundle, backend, precision, device=device, options=options)
            report["load_s"] = time.perf_counter() - began
    except ABSENT as error:
        yield {"absent": str(error)}
        return
    with opened:
        report |= {"version": opened.version, "device": str(opened.device)}
        for side in sides:
            with PeakMemory(device) as memory:
                timed = _time(opened, side, repeats)
            logits, wanted = timed.pop("logits"), expected_logits(bundle, side, folder)
            allowed = tolerance.error(float(np.abs(wanted).max()))
            agreement = compare(logits, wanted, allowed)
            peak = (
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 if on_cpu else memory.peak_mb + loading.peak_mb
            )
            report["regions"][str(side)] = {**timed, "peak_mb": peak, "parity": {**agreement, "allowed": allowed}}
            if agreement["max_abs_error"] > allowed or agreement["mask_agreement"] < tolerance.agreement:
                report["failures"].append(f"{way} at {side}³: {agreement}, allowed {allowed:.1e}")
            yield report
        if backend == "tensorrt":
            report["without_graphs"] = _without_graphs(bundle, precision, device, options, sides[0], repeats)
            yield report
        report["conformance"] = conformance(opened, min(sides), tolerance)
        report["failures"] += [f"{way}, {name}: {said}" for name, said in report["conformance"].items() if said != "ok"]
        yield report


def _without_graphs(
    bundle: str, precision: str, device: str, options: dict[str, str], side: int, repeats: int
) -> dict[str, Any]:
    """Seconds of a click that is not launched as a CUDA graph."""
    with open_engine(bundle, "tensorrt", precision, device=device, options={**options, "graphs": "off"}) as plain:
        return {"region": side, "click_s": _time(plain, side, repeats)["click_s"]}


def _time(engine: Engine, side: int, repeats: int) -> dict[str, Any]:
    image, coords, labels = question(side)
    encodes, clicks = [], []
    first = warm_up(engine.device.id)
    for turn in range(first + repeats):
        began = time.perf_counter()
        embedding = engine.encode(image)
        _wait(engine)
        encoded = time.perf_counter()
        logits = engine.decode(embedding, coords, labels)  # they arrive in host memory: nothing is left to wait for
        if turn >= first:
            encodes.append(encoded - began)
            clicks.append(time.perf_counter() - encoded)
    return {"encode_s": spread(encodes), "click_s": spread(clicks), "logits": logits}


def _wait(engine: Engine) -> None:
    """Until the GPU has done what was asked; of the engines torch alone returns before."""
    if engine.name == "torch" and engine.device.is_gpu:
        import torch

        torch.cuda.synchronize()

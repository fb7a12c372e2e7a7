"""The full-size network (random weights): what export takes, and seconds of an encode and a click; writes JSON.

    python benchmarks/full_size.py [--side 128] [--out benchmarks/results/full_size.json]

In one run on one machine: MONAI's own network in PyTorch, ONNX Runtime, OpenVINO in float32 and with the INT8 encoder,
each in a process of its own, so that peaks of memory are its own; OpenVINO also with graphs compiled for this region
alone (`hot_roi`). What a ratio compares takes turns, so that a slow minute of the machine meets all alike. INT8 scales
are taken from generated textures: with random weights only its speed means something. Takes about 20 minutes on 2 cores
and 16 GB.
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
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from machine import describe

from gstk.export.parity import ParityCase

if TYPE_CHECKING:
    from monai.networks.nets.vista3d import VISTA3D

ANSWER = "answer: "
PACKAGES = ("torch", "monai", "onnx", "openvino", "onnxruntime", "nncf")
CALIBRATION = tuple(ParityCase((64, 64, 64), 1, 1, seed) for seed in range(8))


def random_network(full_size: bool = True) -> VISTA3D:
    """MONAI's `vista3d132`, or the like with few weights, drawn at random so that masks are neither empty nor full."""
    import torch

    from gstk.training.network import build_network
    from gstk.training.spec import VISTA3DSpec

    torch.manual_seed(20240 if full_size else 7)
    network = build_network(None if full_size else VISTA3DSpec(width=8, blocks_down=(2, 1, 1)))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.normal_(0.5, 0.3)
    return network


def write_checkpoint(path: Path, full_size: bool = True) -> None:
    """Its state dict, bare, as VISTA3D's authors publish theirs."""
    import torch

    torch.save(random_network(full_size).state_dict(), path)


def export(checkpoint: str, output: str) -> dict[str, float]:
    from gstk.core.profile import find_profile
    from gstk.export.export import Options, export_bundle

    began = time.perf_counter()
    bundle = export_bundle(
        checkpoint,
        output,
        profile=find_profile("challenge"),
        options=Options(fp16=True),
        on_progress=lambda w: print(w, file=sys.stderr),
    )
    precisions = bundle.manifest.parity["precisions"]
    return {
        "seconds": time.perf_counter() - began,
        "peak_rss_gb": _peak_gb(),
        "bytes": {name: file.size_bytes for name, file in bundle.manifest.files.items()},
        "parity": {
            precision: {
                name: {"max_abs_error": result["max_abs_error"], "mask_agreement": result["mask_agreement"]}
                for name, result in found["engines"].items()
            }
            for precision, found in precisions.items()
        },
        "largest_fp16_value": max(bundle.manifest.reports["fp16"]["largest_magnitude_by_layer"].values()),
    }


def add_int8(source: str, output: str) -> dict[str, float]:
    """A copy of the bundle with an INT8 encoder; its masks are not judged, since random weights make none."""
    import onnx_ir as ir

    from gstk.core.bundle import Bundle, write_bundle
    from gstk.export.int8 import quantise

    began = time.perf_counter()
    bundle = Bundle.open(source, verify=False)
    quantised = quantise(ir.load(bundle.graph("encoder")), [case.inputs()[0] for case in CALIBRATION])
    with tempfile.TemporaryDirectory(dir=Path(output).parent) as folder:
        file = Path(folder) / "encoder.int8.onnx"
        ir.save(quantised, file)
        graphs = {kind: dict(files) for kind, files in bundle.manifest.graphs.items()}
        graphs["encoder"]["int8"], graphs["prompt_decoder"]["int8"] = file.name, graphs["prompt_decoder"]["fp32"]
        sources = {name: bundle.path / name for name in bundle.manifest.files} | {file.name: file}
        write_bundle(output, replace(bundle.manifest, graphs=graphs), sources)
        size = file.stat().st_size
    return {"seconds": time.perf_counter() - began, "peak_rss_gb": _peak_gb(), "bytes": size}


def time_engine(
    bundle: str, backend: str, precision: str, side: int, options: dict[str, object] | None = None
) -> Iterator[dict[str, float]]:
    """Seconds of one encode, and of a click (the median of three), each time one asks; the first also of loading."""
    from gstk.engines import open_engine

    image, coords, labels = ParityCase((side,) * 3, 1, 1).inputs()
    began = time.perf_counter()
    with open_engine(bundle, backend, precision, options=options) as engine:
        load = {"load_s": time.perf_counter() - began}
        while True:
            began = time.perf_counter()
            embedding = engine.encode(image)
            encode, clicks = time.perf_counter() - began, []
            for _ in range(3):
                began = time.perf_counter()
                engine.decode(embedding, coords, labels)
                clicks.append(time.perf_counter() - began)
            yield {**load, "encode_s": encode, "click_s": median(clicks), "peak_rss_gb": _peak_gb()}


def time_torch(checkpoint: str, side: int) -> Iterator[dict[str, float]]:
    """MONAI's modules as they are; the click is its point head on a finished feature map."""
    import torch

    from gstk.training.checkpoint import load_network

    image, coords, labels = (torch.from_numpy(array) for array in ParityCase((side,) * 3, 1, 1).inputs())
    network = load_network(checkpoint).eval()
    with torch.no_grad():
        while True:
            began = time.perf_counter()
            features = network.image_encoder(image, with_point=True, with_label=False)[0]
            encode = time.perf_counter() - began
            began = time.perf_counter()
            network.point_head(features, point_coords=coords, point_labels=labels)
            yield {"encode_s": encode, "click_s": time.perf_counter() - began, "peak_rss_gb": _peak_gb()}


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class Apart:
    """A function of a benchmark in a process of its own, which gives its result, or its next one, when asked."""

    def __init__(self, name: object, *arguments: object, script: str = __file__) -> None:
        print(f"{name} {' '.join(map(str, arguments))}", file=sys.stderr, flush=True)
        own = [sys.executable, script, "--call", json.dumps([name, *arguments])]
        self._process = subprocess.Popen(own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise RuntimeError(f"got no answer, exit status {self._process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def answer(call: str, functions: Mapping[str, Any]) -> None:
    """In the process of an `Apart`: one result for each line of standard input."""
    name, *arguments = json.loads(call)
    found = functions[name](*arguments) if name.startswith("time_") else None
    for _ in sys.stdin:
        print(ANSWER + json.dumps(functions[name](*arguments) if found is None else next(found)), flush=True)


def apart(name: str, *arguments: object) -> Any:
    with Apart(name, *arguments) as process:
        return process.ask()


def in_turn(rounds: int, **calls: list[object]) -> dict[str, dict[str, float]]:
    """Medians over rounds in which each process does one encode and its clicks; the first round warms them up."""
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Apart(*call)) for name, call in calls.items()}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
        for _ in range(rounds + 1):
            for name, process in processes.items():
                time.sleep(0.5)  # threads of the one before stop spinning
                found[name].append(process.ask())
    result = {}
    for name, (_, *timed) in found.items():
        result[name] = {key: median(round_[key] for round_ in timed) for key in timed[0]}
        result[name]["peak_rss_gb"] = timed[-1]["peak_rss_gb"]
    return result


def made_in(folder: Path) -> dict[str, Any]:
    """What making `vista3d132.pt` and the bundles `plain` and `int8` took; they are made where they are not there."""
    checkpoint, plain, int8, exported = (folder / n for n in ("vista3d132.pt", "plain", "int8", "export.json"))
    if not exported.is_file():
        write_checkpoint(checkpoint)
        took = {
            "export": apart("export", str(checkpoint), str(plain)),
            "int8": apart("add_int8", str(plain), str(int8)),
        }
        exported.write_text(json.dumps(took, indent=1) + "\n", encoding="utf-8")
    made: dict[str, Any] = json.loads(exported.read_text(encoding="utf-8"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="of the region, a multiple of 16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help="folder for the bundles, made once; a temporary one otherwise")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        answer(arguments.call, globals())
        return
    with contextlib.ExitStack() as stack:
        if arguments.work:
            arguments.work.mkdir(parents=True, exist_ok=True)
        folder = arguments.work or stack.enter_context(tempfile.TemporaryDirectory())
        side, rounds = arguments.side, arguments.rounds
        report: dict[str, Any] = {"machine": describe(*PACKAGES), "side": side, **made_in(Path(folder))}
        checkpoint, int8 = (str(Path(folder) / name) for name in ("vista3d132.pt", "int8"))

        def openvino(precision: str, **options: object) -> list[object]:
            return ["time_engine", int8, "openvino", precision, side, options]

        torch_ = ["time_torch", checkpoint, side]
        report |= in_turn(
            rounds, **{"pytorch": torch_, "openvino fp32": openvino("fp32"), "openvino int8": openvino("int8")}
        )
        hot = {"hot_roi": [side] * 3}
        report |= in_turn(
            rounds,
            **{
                "pytorch, hot region": torch_,
                "openvino fp32, hot region": openvino("fp32", **hot),
                "openvino int8, hot region": openvino("int8", **hot),
            },
        )
        report |= in_turn(rounds, **{"onnxruntime fp32": ["time_engine", int8, "onnxruntime", "fp32", side]})
    report["ratios"] = {}
    for kind in ("", ", hot region"):
        names = (f"openvino fp32{kind}", f"openvino int8{kind}", f"pytorch{kind}")
        float32, quantised, whole = (report[name]["encode_s"] for name in names)
        report["ratios"] |= {
            f"int8 over openvino fp32{kind}": float32 / quantised,
            f"int8 over pytorch{kind}": whole / quantised,
            f"openvino fp32 over pytorch{kind}": whole / float32,
        }
    print(json.dumps({key: value for key, value in report.items() if key != "machine"}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What gstk adds to a bare runtime, and how long a process takes from its start to the first mask; writes JSON.

    python benchmarks/engine_costs.py [--bundle tiny] [--side 96] [--out benchmarks/results/engine_costs.json]

Overhead: an engine's `encode` and `decode` beside the same compiled graphs called directly with the same arrays, in
turns, so that both see the same machine. Cold start: a process that imports gstk, opens the bundle, takes an image of
64³ voxels and one click; wall time from outside, the median of several, without and with kept graphs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe

from gstk.engines import BundleEngine, open_engine
from gstk.engines.onnxruntime import GIVE_MEMORY_BACK

FIRST_MASK = """
import sys, numpy as np, gstk
options = {"cache": sys.argv[2]} if len(sys.argv) > 2 else None
with gstk.open(sys.argv[1], "openvino", options=options) as session:
    session.set_image(np.random.default_rng(0).random((64, 64, 64), np.float32))
    session.add_point((32, 32, 32))
    assert session.mask.shape == (64, 64, 64)
"""


def bare_calls(engine: BundleEngine, embedding: Any, inputs: list[dict[str, Any]]) -> list[Callable[[], object]]:
    """The runtime's own calls of encoder and decoder, as short as it lets them be."""
    inputs[1]["embedding"] = embedding.handle
    if engine.name == "openvino":
        requests = engine._graphs_for(embedding.roi_shape).requests  # type: ignore[attr-defined]
        return [lambda i=i: requests[i].infer(inputs[i], share_inputs=True) for i in range(2)]  # type: ignore[misc]
    import onnxruntime

    sessions, run = engine._sessions, onnxruntime.RunOptions()  # type: ignore[attr-defined]
    run.add_run_config_entry(*GIVE_MEMORY_BACK)  # as the engine has it
    return [lambda i=i: sessions[i].run(None, inputs[i], run) for i in range(2)]  # type: ignore[misc]


def overhead(bundle: str, backend: str, side: int, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    image = rng.random((1, 1, side, side, side), np.float32)
    coords, labels = np.full((1, 1, 3), side // 2, np.float32), np.ones((1, 1), np.int64)
    with open_engine(bundle, backend) as engine:
        embedding = engine.encode(image)
        bare = bare_calls(engine, embedding, [{"image": image}, {"point_coords": coords, "point_labels": labels}])
        ours = [lambda: engine.encode(image), lambda: engine.decode(embedding, coords, labels)]
        seconds: dict[str, list[float]] = {}
        for _ in range(repeats + 1):
            for task, calls in enumerate(zip(bare, ours, strict=True)):
                for who, call in zip(("bare", "engine"), calls, strict=True):
                    began = time.perf_counter()
                    call()
                    seconds.setdefault(f"{('encode', 'click')[task]} {who}", []).append(time.perf_counter() - began)
    middle = {f"{name}_s": median(values[1:]) for name, values in seconds.items()}
    for task in ("encode", "click"):
        middle[f"{task} overhead"] = middle[f"{task} engine_s"] / middle[f"{task} bare_s"] - 1
    return middle


def cold_start(bundle: str, repeats: int, cache: str | None) -> float:
    """Seconds; with a cache the run that fills it is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST_MASK, bundle, *([cache] if cache else [])], check=True)
        seconds.append(time.perf_counter() - began)
    return median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"machine": describe("openvino", "onnxruntime"), "side": arguments.side}
    for backend in ("openvino", "onnxruntime"):
        report[backend] = overhead(arguments.bundle, backend, arguments.side, arguments.repeats)
    with tempfile.TemporaryDirectory() as folder:
        report["first mask_s"] = {
            "no cache": cold_start(arguments.bundle, 5, None),
            "cache": cold_start(arguments.bundle, 5, folder),
        }
    print(json.dumps({key: value for key, value in report.items() if key != "machine"}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

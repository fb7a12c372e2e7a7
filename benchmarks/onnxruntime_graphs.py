"""What ONNX Runtime is given in place of a bundle's graph, beside that graph itself; writes JSON.

    python benchmarks/onnxruntime_graphs.py --bundle DIR [--name small] [--kind class_encoder] [--side 96] [--rounds 3]

`plain` is the graph as it lies in the bundle, without a memory arena; `arena` the same with memory that goes from layer
to layer; `exact` what the engine runs: exact norms, weights mapped from the file, that arena. Processor seconds of a
run are medians, the three in turn in one process with one thread; loading and peaks are of a process each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from machine import add_to_report, describe

from gstk.calibration import memory
from gstk.core.bundle import Bundle
from gstk.engines.onnxruntime import GIVE_MEMORY_BACK, WEIGHTS_FOLDER
from gstk.engines.onnxruntime_norm import exact_graph

WAYS = ("plain", "arena", "exact")


def load(file: Path, way: str) -> tuple[Any, Any]:
    """A session, and the options of its runs."""
    options, run = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = 1, False
    options.enable_cpu_mem_arena = way != "plain"
    options.add_session_config_entry(WEIGHTS_FOLDER, str(file.parent))
    if way != "plain":
        run.add_run_config_entry(*GIVE_MEMORY_BACK)
    graph = exact_graph(file) if way == "exact" else str(file)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]), run


def image_of(side: int) -> dict[str, Any]:
    return {"image": np.random.default_rng(0).random((1, 1, side, side, side), np.float32)}


def alone(file: Path, way: str, side: int) -> dict[str, float]:
    """Loading and one run, in this process."""
    before, began = memory.resident_bytes(), time.process_time()
    session, run = load(file, way)
    found = {"load_processor_s": time.process_time() - began, "load_peak_gb": (memory.peak_bytes() - before) / 1e9}
    memory.forget_peak()
    session.run(None, image_of(side), run)
    return found | {"run_peak_gb": (memory.peak_bytes() - before) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--name", default="small", help="of the network, in the JSON")
    parser.add_argument("--kind", default="class_encoder")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "onnxruntime_graphs.json")
    parser.add_argument("--alone", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    file = Bundle.open(arguments.bundle, verify=False).graph(arguments.kind, "fp32").resolve()
    if arguments.alone:
        print(json.dumps(alone(file, arguments.alone, arguments.side)))
        return
    ways: dict[str, dict[str, float]] = {}
    for way in WAYS:
        done = subprocess.run([sys.executable, *sys.argv, "--alone", way], capture_output=True, text=True, check=True)
        ways[way] = json.loads(done.stdout)
    sessions = {way: load(file, way) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    results = {}
    for _ in range(arguments.rounds + 1):
        for way, (session, run) in sessions.items():
            began = time.process_time()
            (results[way],) = session.run(None, image_of(arguments.side), run)
            seconds[way].append(time.process_time() - began)
    for way in WAYS:
        ways[way]["run_processor_s"] = median(seconds[way][1:])
    difference = float(np.abs(results["plain"] - results["exact"]).max())
    row = {
        "machine": describe("onnxruntime"),
        "kind": arguments.kind,
        "side": arguments.side,
        "largest_difference_plain_to_exact": difference,
        "largest_value": float(np.abs(results["exact"]).max()),
        **ways,
    }
    print(json.dumps(row, indent=1))
    add_to_report(arguments.name, row, arguments.out)


if __name__ == "__main__":
    main()

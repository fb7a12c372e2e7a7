"""Seconds of an encode and a decode, and peak memory, for each engine; a process each, so that peaks are its own.

python benchmarks/click_latency.py [--bundle tiny] [--side 128] [--repeats 5] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from machine import describe


def measure(bundle: str, backend: str, side: int, repeats: int) -> dict[str, float]:
    from gstk.engines import open_engine

    began = time.perf_counter()
    engine = open_engine(bundle, backend)
    load = time.perf_counter() - began
    rng = np.random.default_rng(0)
    image = rng.random((1, 1, side, side, side), dtype=np.float32)
    coords = np.full((1, 1, 3), side / 2, np.float32)
    labels = np.ones((1, 1), np.int64)
    encodes, decodes = [], []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        embedding = engine.encode(image)
        encoded = time.perf_counter()
        engine.decode(embedding, coords, labels)
        encodes.append(encoded - began)
        decodes.append(time.perf_counter() - encoded)
    return {
        "load_s": load,
        "first_encode_s": encodes[0],
        "first_decode_s": decodes[0],
        "encode_s": median(encodes[1:]),
        "decode_s": median(decodes[1:]),
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--backend", help="measure this one here and print JSON")
    arguments = parser.parse_args()
    if arguments.backend:
        print(json.dumps(measure(arguments.bundle, arguments.backend, arguments.side, arguments.repeats)))
        return
    results = {}
    for backend in ("openvino", "onnxruntime"):
        own = [sys.executable, __file__, "--backend", backend, "--bundle", arguments.bundle]
        own += ["--side", str(arguments.side), "--repeats", str(arguments.repeats)]
        results[backend] = json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout)
        print(backend, {key: round(value, 3) for key, value in results[backend].items()})
    if arguments.out:
        machine = describe("openvino", "onnxruntime")
        report = {"machine": machine, "bundle": arguments.bundle, "side": arguments.side, "engines": results}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

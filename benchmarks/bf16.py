"""Seconds of an encode in bfloat16 beside float32 with OpenVINO, in turn, and how far embeddings and logits differ.

    python benchmarks/bf16.py [--bundle tiny] [--side 96] [--rounds 7] [--out benchmarks/results/bf16.json]

Both engines are open in one process and take turns, so that busy minutes meet both alike. Numbers are medians.
Errors are mean absolute differences over the spread (standard deviation) of the float32 values. The processor needs
AVX512_BF16 or AMX.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
from machine import describe

from gstk.engines import open_engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    side = arguments.side
    image = np.random.default_rng(0).random((1, 1, side, side, side), dtype=np.float32)
    coords, labels = np.full((1, 1, 3), side / 2, np.float32), np.ones((1, 1), np.int64)
    seconds: dict[str, list[tuple[float, float]]] = {"fp32": [], "bf16": []}
    values = {}
    with open_engine(arguments.bundle, "openvino") as exact, open_engine(arguments.bundle, "openvino", "bf16") as fast:
        for index in range(arguments.rounds + 1):
            for precision, engine in (("fp32", exact), ("bf16", fast)):
                began, began_s = time.perf_counter(), time.process_time()
                embedding = engine.encode(image)
                if index:  # the first compiles kernels
                    seconds[precision].append((time.perf_counter() - began, time.process_time() - began_s))
                values[precision] = np.asarray(embedding.handle), engine.decode(embedding, coords, labels)
    table = {
        precision: {"wall_s": median(w for w, _ in found), "processor_s": median(p for _, p in found)}
        for precision, found in seconds.items()
    }
    ratios = {unit: table["fp32"][unit] / table["bf16"][unit] for unit in ("wall_s", "processor_s")}
    errors = {
        name: float(np.abs(values["bf16"][k] - values["fp32"][k]).mean() / values["fp32"][k].std())
        for k, name in enumerate(("embedding", "logits"))
    }
    print(json.dumps({"encode": table, "fp32_over_bf16": ratios, "errors": errors}, indent=1))
    if arguments.out:
        about = {"bundle": Path(arguments.bundle).name, "side": side, "rounds": arguments.rounds}
        report = {"machine": describe("openvino"), **about, "encode": table, "fp32_over_bf16": ratios, "errors": errors}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

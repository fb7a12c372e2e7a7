"""What INT8 is worth on processors without VNNI: error, Dice and seconds; prints a table and writes JSON.

    python benchmarks/int8_without_vnni.py BUNDLE CASES [--clicks 3] [--side 64]
        [--out benchmarks/results/int8_without_vnni.json]

OpenVINO is limited to instructions without VNNI by oneDNN's `ONEDNN_MAX_CPU_ISA`. Three ways are compared: float32,
INT8 as it is stored, whose products then saturate, and INT8 with narrow weights, which gstk takes there. With VNNI
nothing saturates, and the first two are run. Dice: means over classes and clicks of the official click protocol.
Encodes are timed in turn on one thread, in one process for each set of instructions; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe
from rich.console import Console
from rich.table import Table

INSTRUCTIONS = ("ALL", "AVX512_CORE", "AVX2")
WAYS = ("fp32", "int8 as stored", "int8 narrow")


def worker(arguments: argparse.Namespace) -> dict[str, Any]:
    """Results of all ways with the instructions that this process is limited to."""
    import gstk
    from gstk.engines import open_engine
    from gstk.engines import openvino_graphs as module
    from gstk.engines.openvino import saturates_int8
    from gstk.evaluation.protocol import click_by_click

    saturates, narrow_weights = saturates_int8(), module.narrow_weights
    ways = WAYS if saturates else WAYS[:-1]
    precisions = {way: way.split()[0] for way in ways}

    def use(way: str) -> None:
        module.narrow_weights = narrow_weights if way == "int8 narrow" else lambda model: 0

    image = np.random.default_rng(0).random((1, 1, *[arguments.side] * 3), np.float32)
    engines, embeddings = {}, {}
    for way in ways:
        use(way)
        engines[way] = open_engine(arguments.bundle, "openvino", precisions[way], threads=1)
        embeddings[way] = np.asarray(engines[way].encode(image).handle, np.float32)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(7):
        for way, engine in engines.items():
            began = time.perf_counter()
            engine.encode(image)
            seconds[way].append(time.perf_counter() - began)
    exact = embeddings["fp32"]
    found: dict[str, Any] = {"saturates": saturates}
    for way in ways:
        error = float(np.sqrt(np.square(embeddings[way] - exact).mean()) / exact.std())
        found[way] = {"encode_s": median(seconds[way]), "embedding_error": error}
        engines[way].close()
        if not arguments.dice:
            continue
        use(way)
        scores = {}
        with gstk.open(arguments.bundle, "openvino", precision=precisions[way], refine=False) as session:
            for file in sorted(arguments.cases.glob("*.npz")):
                case = gstk.load_case(file)
                assert case.labels is not None
                clicked = click_by_click(
                    session, case.image, case.geometry.spacing_mm, case.labels, arguments.clicks, start=None
                )
                scores[case.name] = float(np.mean(clicked.means))
        found[way]["dice"] = scores
        found[way]["mean_dice"] = float(np.mean(list(scores.values())))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with an INT8 encoder")
    parser.add_argument("cases", type=Path)
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dice", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(arguments)))
        return
    results = {}
    for name in INSTRUCTIONS:
        # With AVX2 alone the plugin's decoder ends the process: it looks at the processor, not at the limit.
        dice = ["--dice"] if name in ("ALL", "AVX512_CORE") else []
        done = subprocess.run(
            [sys.executable, *sys.argv, "--worker", *dice],
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": name},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results[name] = json.loads(done.stdout.splitlines()[-1])
    table = Table("instructions", "saturates", "", "encode s", "embedding error", "mean Dice")
    for name, found in results.items():
        for way in (way for way in WAYS if way in found):
            row = found[way]
            dice_text = f"{row['mean_dice']:.4f}" if "mean_dice" in row else "-"
            table.add_row(
                name, str(found["saturates"]), way, f"{row['encode_s']:.3f}", f"{row['embedding_error']:.4f}", dice_text
            )
    Console(width=100).print(table)
    if arguments.out:
        report = {
            "machine": describe("openvino"),
            "bundle": arguments.bundle.name,
            "side": arguments.side,
            "clicks": arguments.clicks,
            "results": results,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

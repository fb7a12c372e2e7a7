"""Class prompts over a volume: the network on the next window beside the labels of this one, or one after the other.

    python benchmarks/window_overlap.py --bundle BUNDLE [--precision int8] [--shape 128,128,240] [--rounds 3]
        [--streams 96] [--out FILE.json]

Both ways in turn on the same generated CT, all classes, nothing kept between them; label maps have to be the same to
the voxel. `--streams SIDE` also runs the class encoder alone on windows of that side: one at a time with all cores, or
two at a time with half of the cores each (OpenVINO's streams).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from machine import describe, write_report

import gstk
from gstk.core.bundle import Bundle, find_bundle
from gstk.core.geometry import Geometry
from gstk.core.volume import Volume
from gstk.engines import openvino, openvino_graphs
from gstk.session.class_segmenter import ClassSegmenter


def one_after_the_other(self: ClassSegmenter) -> Iterator[tuple[Any, Any]]:
    """Stands in for `ClassSegmenter._window_features`."""
    import itertools

    for starts in itertools.product(*(axis.starts for axis in self._axes)):
        yield starts, self._features_of(self._sample(self._window(starts)))


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    began = time.perf_counter(), time.process_time()
    result = run()
    return result, {"wall_s": time.perf_counter() - began[0], "processor_s": time.process_time() - began[1]}


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(row[key] for row in rows) for key in rows[0]}


def label_maps(bundle: str, precision: str, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    values = rng.normal(40, 60, shape).astype(np.int16)
    volume = Volume(values, Geometry(values.shape, (1.5, 1.5, 1.5)), "CT", "HU")
    ways = {
        "before": patch.object(ClassSegmenter, "_window_features", one_after_the_other),
        "overlapped": nullcontext(),
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    labels: dict[str, Any] = {}
    windows = 0

    def count(done: int, total: int) -> None:
        nonlocal windows
        windows = total

    with gstk.open(bundle, "openvino", precision=precision) as session:
        for turn in range(1 + rounds):  # the first compiles
            for name, way in ways.items():
                session.set_image(volume)
                windows = 0
                with way:
                    labels[name], row = timed(lambda: session.segment_classes(["everything"], on_progress=count))
                assert windows, "features were kept, so that no window was run"
                if turn:
                    rows[name].append(row)
    found = {name: medians(own) for name, own in rows.items()}
    return {
        "shape": list(shape),
        "windows": windows,
        "rounds": rounds,
        **found,
        "voxels_equal": float((labels["before"] == labels["overlapped"]).mean()),
        "before_over_overlapped": found["before"]["wall_s"] / found["overlapped"]["wall_s"],
    }


def streams(bundle: str, precision: str, side: int, rounds: int) -> dict[str, Any]:
    import openvino as ov

    opened, core = Bundle.open(find_bundle(bundle), verify=False), openvino.shared_core()
    file, multiple = opened.graph("class_encoder", precision), opened.manifest.roi.multiple
    model = openvino_graphs.read_class_encoder(core, file, multiple, openvino.saturates_int8, precision != "bf16")
    image = np.random.default_rng(1).random((1, 1, side, side, side), dtype=np.float32)
    cores = os.cpu_count() or 1
    hint = "bf16" if precision != "fp32" and openvino.computes_bf16() else "f32"
    queues = {}
    for count in (1, 2):
        config = {"NUM_STREAMS": count, "INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": hint}
        queues[count] = ov.AsyncInferQueue(core.compile_model(model, "CPU", config), count)
    rows: dict[int, list[dict[str, float]]] = {count: [] for count in queues}

    def run(queue: Any) -> None:
        for _ in range(4):
            queue.start_async({0: image}, share_inputs=True)
        queue.wait_all()

    for turn in range(1 + rounds):
        for count, queue in queues.items():
            _, row = timed(lambda queue=queue: run(queue))
            if turn:
                rows[count].append(row)
    named = {f"{count} at a time, {cores // count} threads each": medians(own) for count, own in rows.items()}
    return {"side": side, "windows": 4, **named}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--shape", default="128,128,240")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    shape = tuple(int(side) for side in arguments.shape.split(","))
    report = {
        "machine": describe("openvino"),
        "load_before": os.getloadavg()[0],
        "precision": arguments.precision,
        "label_maps": label_maps(arguments.bundle, arguments.precision, shape, arguments.rounds),
    }
    if arguments.streams:
        report["streams"] = streams(arguments.bundle, arguments.precision, arguments.streams, arguments.rounds)
    write_report(report, arguments.out)


if __name__ == "__main__":
    main()

"""How well a latency model predicts regions that it was not fitted on; writes JSON.

    python benchmarks/latency_model.py [--bundle tiny] [--quick] [--regions 24] [--out benchmarks/results/NAME.json]

Calibrates as `gstk calibrate` does, then times an encode and a decode of random regions (sides of their own, none of
the calibration's shapes, up to its largest size) in the same process and compares. All regions are gone through three
times, the first run of a region not counted, and the medians are taken: a machine that is shared is quick and slow in
turns of seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from statistics import median

import numpy as np
from machine import describe

from gstk.calibration import measure
from gstk.calibration.measure import FULL_S, QUICK_S
from gstk.core.bundle import Bundle, find_bundle
from gstk.engines import open_engine

ROUNDS = 3


def random_regions(bundle: Bundle, largest: int, known: set[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    rules = bundle.manifest.roi
    rng = np.random.default_rng(11)
    found: list[tuple[int, ...]] = []
    while len(found) < count:
        size = math.exp(rng.uniform(math.log(32**3), math.log(largest)))
        stretch = np.exp(rng.uniform(-0.4, 0.4, 3))
        sides = (size / stretch.prod()) ** (1 / 3) * stretch
        shape = tuple(max(rules.minimum, round(s / rules.multiple) * rules.multiple) for s in sides)
        if shape not in known and shape not in found and math.prod(shape) <= largest:
            found.append(shape)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--regions", type=int, default=24)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    bundle = Bundle.open(find_bundle(arguments.bundle))
    began = time.perf_counter()
    model, measured = measure(
        bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        seconds=QUICK_S if arguments.quick else FULL_S,
        on_progress=lambda share, text: print(f"{100 * share:3.0f} % {text}"),
    )
    calibration_s = time.perf_counter() - began
    rng = np.random.default_rng(3)
    errors: dict[str, list[float]] = {"encode": [], "decode": []}
    rows = []
    with open_engine(bundle, arguments.backend, arguments.precision) as engine:
        shapes = random_regions(bundle, model.largest_voxels, {m.shape for m in measured}, arguments.regions)
        taken: dict[tuple[int, ...], dict[str, list[float]]] = {s: {"encode": [], "decode": []} for s in shapes}
        for _ in range(ROUNDS):
            for shape in shapes:
                image = rng.random((1, 1, *shape), dtype=np.float32)
                coords, labels = rng.integers(0, shape, (1, 2, 3)).astype(np.float32), np.ones((1, 2), np.int64)
                for is_counted in (False, True):
                    began = time.perf_counter()
                    embedding = engine.encode(image)
                    encoded = time.perf_counter()
                    engine.decode(embedding, coords, labels)
                    if is_counted:
                        taken[shape]["encode"].append(encoded - began)
                        taken[shape]["decode"].append(time.perf_counter() - encoded)
        for shape in shapes:
            seconds = {kind: median(values) for kind, values in taken[shape].items()}
            predicted = {"encode": model.encode_s(shape), "decode": model.decode_s(shape, 1, 2)}
            for kind, error in errors.items():
                error.append(abs(predicted[kind] / seconds[kind] - 1))
            rows.append({"shape": shape, "seconds": seconds, "predicted": predicted})
    report = {
        "machine": describe("openvino", "onnxruntime"),
        "bundle": arguments.bundle,
        "backend": arguments.backend,
        "precision": arguments.precision,
        "calibration_s": calibration_s,
        "regions": arguments.regions,
        "error": {
            kind: {"median": float(np.median(error)), "p95": float(np.percentile(error, 95))}
            for kind, error in errors.items()
        },
        "calls": rows,
    }
    print(json.dumps({key: report[key] for key in ("calibration_s", "error")}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

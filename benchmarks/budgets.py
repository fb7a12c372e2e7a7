"""Does a mask always come in time? Random cases and budgets on a real engine that keeps none of its promises.

    python benchmarks/budgets.py [--plans 300] [--workers 4] [--seed 0] [--out budgets.json]

Each plan draws a volume, spacing, objects with boxes or clicks, a budget of 2 to 90 s (evenly in its logarithm),
and a host that is up to 30 times slower than this one: the latency model of this host, times that. Every call of
the engine then takes what the model says times a factor that is drawn evenly from 0.5 to 3: it computes, and waits
for the rest. Half of the hosts end a call when they are interrupted, half do not. Counted is the time from the
image to the mask.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray
from rich.progress import track

from gstk.calibration import LatencyModel
from gstk.calibration.host import Host
from gstk.calibration.probe import probe
from gstk.core.bundle import Bundle, find_bundle
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.window import WindowPolicy
from gstk.engines import BundleEngine, Embedding, open_engine
from gstk.errors import Interrupted
from gstk.session.session import Session

FACTORS = (0.5, 3.0)
BUDGETS_S = (2.0, 90.0)
SLOWEST = 30.0


class UnreliableEngine:
    """An engine whose calls take what a model says times a random factor, but never less than they do."""

    def __init__(self, engine: BundleEngine, model: LatencyModel, rng: np.random.Generator, deaf: bool) -> None:
        self._engine, self._model, self._rng, self._deaf = engine, model, rng, deaf
        self._ended = threading.Event()

    def encode(self, image: NDArray[np.float32]) -> Embedding:
        began = time.perf_counter()
        found = self._engine.encode(image)
        self._pass(began, self._model.encode_s(image.shape[2:]))
        return found

    def decode(self, embedding: Embedding, coords: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
        began = time.perf_counter()
        found = self._engine.decode(embedding, coords, labels)
        self._pass(began, self._model.decode_s(embedding.roi_shape, *labels.shape))
        return found

    def interrupt(self) -> None:
        if not self._deaf:
            self._ended.set()

    def close(self) -> None:
        self._deaf = False
        self._ended.set()

    def _pass(self, began: float, seconds: float) -> None:
        self._ended.clear()
        rest = seconds * float(self._rng.uniform(*FACTORS)) - (time.perf_counter() - began)
        if self._ended.wait(max(0.0, rest)):
            raise Interrupted("interrupted")


def slower(model: LatencyModel, times: float) -> LatencyModel:
    fits = {kind: replace(fit, weights=tuple(times * w for w in fit.weights)) for kind, fit in model.fits.items()}
    return replace(model, fits=fits)


def run_plan(seed: int, bundle_name: str, model: LatencyModel) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    bundle = Bundle.open(find_bundle(bundle_name))
    roi = bundle.manifest.roi
    shape = tuple(int(n) for n in rng.integers(24, 260, 3))
    spacing_mm = tuple(float(s) for s in rng.uniform(0.4, 4, 3))
    prompts: dict[int, ObjectPrompts] = {}
    image = rng.integers(0, 60, shape).astype(np.uint8)
    for k in range(1, int(rng.integers(1, 9)) + 1):
        corners = np.sort(rng.integers(0, shape, (2, 3)), axis=0)
        image[tuple(slice(a, b + 1) for a, b in corners.T)] += np.uint8(20 * k)
        box = Box.from_corners(corners.tolist()) if rng.random() < 0.5 else None
        points = tuple(
            Point(tuple(int(i) for i in rng.integers(corners[0], corners[1] + 1)), bool(n == 0 or rng.random() < 0.7))  # type: ignore[arg-type]
            for n in range(int(rng.integers(0 if box else 1, 6)))
        )
        prompts[k] = ObjectPrompts(points, box)
    budget_s = float(np.exp(rng.uniform(*np.log(BUDGETS_S))))
    times, deaf = float(np.exp(rng.uniform(0, np.log(SLOWEST)))), bool(rng.random() < 0.5)
    policy = WindowPolicy(max_voxels=int(np.prod(roi.default)), multiple=roi.multiple, min_side=roi.minimum)
    with open_engine(bundle, "auto", "auto", 1) as engine:
        slow = slower(model, times)
        session = Session(UnreliableEngine(engine, slow, rng, deaf), policy, model=slow)  # type: ignore[arg-type]
        began = time.perf_counter()
        session.set_image(image, spacing_mm)
        session.set_all(prompts, within_s=budget_s - (time.perf_counter() - began))
        mask = session.mask
        spent_s = time.perf_counter() - began
        session.close()
    return {
        "seed": seed,
        "budget_s": budget_s,
        "spent_s": spent_s,
        "slower": times,
        "deaf": deaf,
        "objects": len(prompts),
        "objects_without_mask": sorted(set(prompts) - set(np.unique(mask).tolist())),
        "voxels": int(mask.size),
        "expected_s": session.report.expected_s,
        "compromises": list(session.report.compromises),
        "without_network": any("prompts alone" in note for note in session.report.compromises),
        "empty": not mask.any(),
    }


def summary(plans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    over = [plan["spent_s"] / plan["budget_s"] - 1 for plan in plans]
    return {
        "plans": len(plans),
        "largest_overrun": max(over),
        "over_2_percent": sum(o > 0.02 for o in over),
        "missing_masks": sum(plan["empty"] for plan in plans),
        "partly_without_network": sum(plan["without_network"] for plan in plans),
        "gave_up_something": sum(bool(plan["compromises"]) for plan in plans),
        "used_of_budget": {
            q: float(np.quantile([plan["spent_s"] / plan["budget_s"] for plan in plans], p))
            for q, p in (("median", 0.5), ("p95", 0.95))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=300)
    parser.add_argument("--workers", type=int, default=4, help="most of the time is waiting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with open_engine(Bundle.open(find_bundle(arguments.bundle)), "auto", "auto", 1) as engine:
        model, host = probe(engine, 0.0, 0.0, 8.0), Host.of(engine)
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        seeds = range(arguments.seed, arguments.seed + arguments.plans)
        futures = [pool.submit(run_plan, seed, arguments.bundle, model) for seed in seeds]
        plans = [future.result() for future in track(as_completed(futures), total=len(futures))]
    plans.sort(key=lambda plan: plan["seed"])
    found = summary(plans)
    print(json.dumps(found, indent=1))
    if arguments.out:
        record = {"machine": describe(), "engine": host.backend, "workers": arguments.workers, **found, "each": plans}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

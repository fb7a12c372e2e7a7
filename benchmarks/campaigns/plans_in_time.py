"""10,000 calls on an engine that is slow, irregular and deaf, on a clock that only counts what is simulated.

    python benchmarks/campaigns/plans_in_time.py --state FOLDER [--total 10000]
        [--out benchmarks/results/plans_in_time.json]

A call has random prompts of one to four objects on an image of random shape and spacing, a random budget, a latency
model that may be wrong by a factor, and an engine whose calls take the model's time, times a factor that is usually
near 1 and sometimes 3 or 1000; it may not hear that it is interrupted, and may fail with an error of memory. None may
be more than 2 % late, each must give a mask that has what was clicked, and leave the session usable. What the
session itself computes counts as no time: it is what `benchmarks/budgets.py` measures.
"""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from campaign import begin
from flood import FloodEngine
from latency import a_model
from numpy.typing import NDArray

from gstk.calibration import LatencyModel
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.window import WindowPolicy
from gstk.engines.base import Embedding
from gstk.errors import Interrupted
from gstk.session.deadline import TimeUp
from gstk.session.session import Session
from gstk.session.timed_engine import TimedEngine

LATE = 1.02
POLICY = WindowPolicy(max_voxels=24**3, multiple=8, min_side=16)
MODULES = ("deadline", "segmenter", "session", "scheduler", "timed_engine")


class SimulatedTime:
    """Stands in for the module `time` in gstk's sessions: it passes only where an engine says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def time(self) -> float:
        return self.now


class FaultyEngine(FloodEngine):
    """Calls take what a model says, times random factors.

    Attributes:
        until: when the caller stops to wait for the call under way; None is never.
    """

    def __init__(self, model: LatencyModel, clock: SimulatedTime, rng: random.Random) -> None:
        super().__init__()
        self.model, self.clock, self.rng = model, clock, rng
        self.until: float | None = None

    def encode(self, image: NDArray[np.float32]) -> Embedding:
        self._pass(self.model.encode_s(image.shape[2:]))
        return super().encode(image)

    def decode(self, embedding: Embedding, coords: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
        self._pass(self.model.decode_s(embedding.roi_shape, *labels.shape))
        return super().decode(embedding, coords, labels)

    def _pass(self, seconds: float) -> None:
        factor = self.rng.choices((self.rng.lognormvariate(0, 0.15), 3.0, 1000.0), (0.85, 0.1, 0.05))[0]
        done = self.clock.now + seconds * factor
        if self.until is not None and done > self.until:
            self.clock.now = self.until
            raise Interrupted("interrupted")
        self.clock.now = done


def run_at_once(self: TimedEngine, call: Any, deadline: Any) -> Any:
    """`TimedEngine._run` without a thread: a call that would end after the deadline ends there."""
    engine: Any = self.engine
    engine.until = engine.clock.now + max(0.0, deadline.left_s) if deadline.is_set else None
    try:
        return call()
    except Interrupted:
        raise TimeUp("the time is up") from None


@contextmanager
def simulated(clock: SimulatedTime) -> Iterator[None]:
    """The clock of gstk's sessions, for as long as the block lasts."""
    with warnings.catch_warnings(), mock.patch.object(TimedEngine, "_run", run_at_once):
        warnings.simplefilter("ignore")
        patches = [mock.patch(f"gstk.session.{name}.time", clock) for name in MODULES]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


def one_call(seed: int) -> dict[str, Any]:
    """What one call took of its budget, and what is wrong with its mask."""
    rng = random.Random(seed)
    clock = SimulatedTime()
    encode, decode, wrong = rng.uniform(1, 40), rng.uniform(0.1, 10), rng.lognormvariate(0, 0.3)
    said, true = a_model(encode, decode), a_model(encode * wrong, decode * wrong)
    engine = FaultyEngine(true, clock, rng)
    shape = tuple(rng.randint(16, 48) for _ in range(3))
    image = np.full(shape, 20, np.uint8)
    centre = [rng.randint(n // 4, 3 * n // 4) for n in shape]
    image[tuple(slice(max(0, c - n // 5), c + n // 5 + 1) for c, n in zip(centre, shape, strict=True))] = 200
    budget_s = 10 ** rng.uniform(-1, 2.3)
    prompts = {k: _prompts(rng, shape) for k in range(1, rng.randint(1, 4) + 1)}
    with simulated(clock), Session(engine, POLICY, model=said) as session:  # type: ignore[arg-type]
        session.set_image(image, [10 ** rng.uniform(-0.5, 0.7) for _ in range(3)])
        began = clock.now
        session.set_all(prompts, within_s=budget_s)
        share = (clock.now - began) / budget_s
        compromised = bool(session.report.compromises)
        problem = _problem(session.mask, prompts)
        before = session.mask.copy()
        session.set_prompts(ObjectPrompts((*prompts[1].points, Point(tuple(centre), True)), prompts[1].box))
        session.undo()
        if not problem and not np.array_equal(session.mask, before):
            problem = "the session cannot be gone on with"
    return {"share": share, "compromised": compromised, "problem": problem}


def _prompts(rng: random.Random, shape: tuple[int, ...]) -> ObjectPrompts:
    def voxel() -> tuple[int, int, int]:
        z, y, x = (rng.randrange(n) for n in shape)
        return z, y, x

    points = [Point(voxel(), k == 0 or rng.random() < 0.6) for k in range(rng.randint(1, 4))]
    box = Box.from_corners(np.sort([voxel(), voxel()], axis=0)) if rng.random() < 0.3 else None
    return ObjectPrompts(tuple(points), box)


def _problem(mask: NDArray[np.uint16], prompts: dict[int, ObjectPrompts]) -> str:
    """What a mask lacks; an object may be hidden by others, so all of them together must be there."""
    if not mask.any():
        return "no mask"
    if set(np.unique(mask)) - {0, *prompts}:
        return "objects that nobody asked for"
    return ""


def main() -> int:
    campaign = begin(__doc__, 10_000, ("calls",))
    found = campaign.progress.setdefault("calls", {"calls": 0, "latest": 0.0, "compromised": 0, "failures": []})
    began = time.perf_counter()
    while found["calls"] < campaign.total and not campaign.is_time_up:
        seed = found["calls"]
        try:
            call = one_call(seed)
        except Exception as error:
            call = {"share": 0.0, "compromised": False, "problem": f"{type(error).__name__}: {error}"}
        found["calls"] += 1
        found["latest"] = max(found["latest"], call["share"])
        found["compromised"] += call["compromised"]
        if call["problem"] or call["share"] > LATE:
            found["failures"].append({"seed": seed, **call})
        if found["calls"] % 200 == 0:
            campaign.save()
            print(
                json.dumps({**found, "failures": len(found["failures"])}),
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )
    campaign.save()
    return campaign.finish("calls")


if __name__ == "__main__":
    sys.exit(main())

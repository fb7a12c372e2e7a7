"""Calls of an engine that end at a deadline, and what they teach about the next ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from flood import SlowEngine
from latency import a_model

from gstk.session.costs import Costs
from gstk.session.deadline import Deadline, TimeUp
from gstk.session.timed_engine import TimedEngine


def test_the_pace_follows_the_clock() -> None:
    engine = SlowEngine(a_model(encode=4), itertools.repeat(5.0))
    costs = Costs(engine.model)
    timed = TimedEngine(engine, costs)  # type: ignore[arg-type]
    image = np.zeros((1, 1, 32, 32, 32), np.float32)
    assert costs.slowdown == 1
    for _ in range(2):
        timed.encode(image, Deadline())
    assert costs.slowdown >= 4  # five at least, but for the first, which the model expects to be slower
    assert costs.encode_s((32, 32, 32)) == pytest.approx(costs.slowdown * engine.model.encode_s((32, 32, 32)))
    with pytest.raises(TimeUp):
        timed.encode(image, Deadline(0.01))
    timed.close()

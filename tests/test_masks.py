"""Which parts of a mask hold a click, against a flood that takes one voxel at a time."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gstk.masks import clicked_components

STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def flooded(mask: NDArray[np.bool_], seeds: list[tuple[int, ...]]) -> NDArray[np.bool_]:
    """All of the mask that steps to the 26 neighbours reach from the seeds."""
    reached = np.zeros_like(mask)
    waiting = [seed for seed in seeds if all(0 <= i < n for i, n in zip(seed, mask.shape, strict=True)) and mask[seed]]
    while waiting:
        voxel = waiting.pop()
        if not reached[voxel]:
            reached[voxel] = True
            near = [tuple(i + d for i, d in zip(voxel, step, strict=True)) for step in STEPS]
            waiting += [v for v in near if all(0 <= i < n for i, n in zip(v, mask.shape, strict=True)) and mask[v]]
    return reached


@given(st.integers(0, 10_000), st.lists(st.tuples(*[st.integers(-1, 7)] * 3), max_size=3))
def test_the_parts_that_hold_a_click(seed: int, clicks: list[tuple[int, int, int]]) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 5, 6)) < rng.uniform(0, 0.4)
    found = clicked_components(mask, np.array(clicks, np.float32).reshape(-1, 3))
    expected = flooded(mask, list(clicks))
    np.testing.assert_array_equal(found, expected if expected.any() else mask)

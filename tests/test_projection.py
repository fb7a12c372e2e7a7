"""Masks on the volume: components that no click lies in go in the window or on the volume, with the same result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.window import Window
from gstk.session.click_update import keep_clicked_components
from gstk.session.projection import MaskProjector
from gstk.session.window_answer import WindowAnswer

SHAPE = (20, 24, 22)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.6), st.integers(0, 3), st.booleans())
def test_components_of_voxels_are_those_of_the_window(
    seed: int, density: float, clicks: int, has_background: bool
) -> None:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 5, 3)
    window = Window(tuple(start.astype(float).tolist()), (1.0, 1.0, 1.0), (12, 16, 14))
    logits = (density - rng.random(window.shape)).astype(np.float32)
    points = [Point(tuple((start + rng.integers(0, window.shape)).tolist()), True) for _ in range(clicks)]
    points += [Point(tuple((start + 1).tolist()), False)] * has_background
    answer = WindowAnswer(window, logits, ObjectPrompts(tuple(points)))
    before = logits.copy()
    projector = MaskProjector(answer, SHAPE)
    assert projector.is_filtered
    values = projector.project()
    projector.is_filtered = False
    whole = projector.project()
    np.testing.assert_array_equal(values, keep_clicked_components(whole, projector.region, answer.prompts))
    values[:] = 5  # a fresh array
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    ("start", "step"),
    [((0.0, 0.0, 0.0), (1.0, 1.0, 1.5)), ((0.5, 0.0, 0.0), (1.0,) * 3), ((-1.0, 0.0, 0.0), (1.0,) * 3)],
)
def test_other_windows_have_components_of_their_own(
    start: tuple[float, float, float], step: tuple[float, float, float]
) -> None:
    """Interpolation joins and parts them; outside of the volume nothing joins them."""
    window = Window(start, step, (8, 8, 8))
    assert not MaskProjector(WindowAnswer(window, np.zeros((8, 8, 8), np.float32), ObjectPrompts()), SHAPE).is_filtered

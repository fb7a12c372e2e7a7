"""The method without learning: what a watershed must find, and its behaviour as an engine."""

from __future__ import annotations

import numpy as np
import pytest

from gstk.evaluation.metrics import dice

pytest.importorskip("skimage", reason="the classical method needs scikit-image")

from gstk.evaluation.watershed import ClassicalEngine, open_classical


def ball(centre: tuple[int, ...], radius: float, side: int) -> np.ndarray:
    grid = np.indices((side,) * 3)
    return np.asarray(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2)


def test_a_ball_from_one_click_and_from_clicks_on_two() -> None:
    first, second = ball((12, 12, 12), 6, 32), ball((20, 20, 20), 4, 32)
    image = np.where(first, 0.8, np.where(second, 0.6, 0.2)).astype(np.float32)[None, None]
    with ClassicalEngine() as engine:
        embedding = engine.encode(image)
        coords = [[[12, 12, 12], [28, 4, 4]], [[20, 20, 20], [12, 12, 12]]]
        logits = engine.decode(embedding, coords, [[1, -1], [3, 2]])  # padding; special labels
    assert logits.shape == (2, 1, 32, 32, 32)
    assert dice(logits[0, 0] > 0, first) > 0.85
    assert dice(logits[1, 0] > 0, second) > 0.75
    assert logits[1, 0, 12, 12, 12] < 0


def test_clicks_decide_their_own_voxels() -> None:
    with ClassicalEngine() as engine:
        embedding = engine.encode(np.zeros((1, 1, 16, 16, 16), np.float32))
        logits = engine.decode(embedding, [[[8, 8, 8], [8, 8, 9]]], [[1, 0]])
    assert logits[0, 0, 8, 8, 8] > 0
    assert logits[0, 0, 8, 8, 9] < 0
    assert logits[0, 0, 0].max() < 0


def test_behind_a_session() -> None:
    truth = ball((20, 26, 24), 9, 48)
    image = np.where(truth, 180, 60).astype(np.uint8) + np.random.default_rng(0).integers(0, 20, truth.shape, np.uint8)
    with open_classical() as session:
        session.set_image(image, (1.0, 1.0, 1.0))
        session.add_point((20, 26, 24))
        assert dice(session.mask == 1, truth) > 0.85

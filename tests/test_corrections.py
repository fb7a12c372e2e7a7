"""What correcting clicks do to masks, whatever network answers them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flood import FloodEngine
from numpy.typing import NDArray
from scipy import ndimage

from gstk.cases.phantoms import generate_phantom, smooth_noise
from gstk.core.click_rule import next_click
from gstk.core.window import WindowPolicy
from gstk.engines.base import Embedding
from gstk.evaluation.metrics import dice
from gstk.session.session import Session

POLICY = WindowPolicy(max_voxels=32**3, multiple=8, min_side=16)
CLICKS = 6

Answer = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]]


def noise(image: NDArray[np.float32], seed: int, period: float = 6) -> NDArray[np.float32]:
    z, y, x = image.shape
    return smooth_noise(np.random.default_rng(seed), (z, y, x), period)


def shown(image: NDArray[np.float32], points: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """The bright parts under clicks on the object, as distances from their border, cut off at 4."""
    parts, _ = ndimage.label(image > 0.5)
    at = np.rint(points[labels == 1]).astype(int)
    mask = np.isin(parts, [part for part in parts[tuple(at.T)] if part])
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return np.clip(depth, -4, 4).astype(np.float32)


def changes_its_mind(image: NDArray[np.float32], points: NDArray[np.float32], labels: NDArray[np.int64]) -> object:
    return shown(image, points, labels) + 6 * noise(image, len(points))


def looks_elsewhere(image: NDArray[np.float32], points: NDArray[np.float32], labels: NDArray[np.int64]) -> object:
    """Right in half of the window, anything in the other half, which is another one at each click."""
    field = noise(image, len(points), 12)
    return np.where(field > 0, shown(image, points, labels), np.float32(3))


def forgets(image: NDArray[np.float32], points: NDArray[np.float32], labels: NDArray[np.int64]) -> object:
    """Knows of the last click alone, and takes more around it each time."""
    away = np.sqrt(((np.indices(image.shape) - points[-1][:, None, None, None]) ** 2).sum(0))
    ball = 5 + 3 * len(points) - away
    return ball if labels[-1] == 1 else -ball


def guesses(image: NDArray[np.float32], points: NDArray[np.float32], labels: NDArray[np.int64]) -> object:
    return 4 * noise(image, len(points), 8)


def insists(image: NDArray[np.float32], points: NDArray[np.float32], labels: NDArray[np.int64]) -> object:
    return shown(image, points[:1], labels[:1]) + 4 * noise(image, 1)


class Network(FloodEngine):
    """Answers what a function makes of the window, the clicks and their kinds."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def decode(
        self, embedding: Embedding, coords: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        known = labels[0] >= 0
        logits = self.answer(embedding.handle, coords[0][known], labels[0][known])  # type: ignore[arg-type]
        return np.asarray(logits, np.float32)[None, None]


def objects() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[float, float, float]]]:
    for kind, seed in itertools.product(("organs", "blobs", "cells", "nested-tubes", "hot-spots"), (50, 51)):
        phantom = generate_phantom(seed, (40, 44, 42), kind)
        sizes = np.bincount(phantom.labels.ravel())[1:]
        mask = phantom.labels == np.argsort(sizes)[len(sizes) // 2] + 1
        image = np.where(mask, 200, 40) + np.random.default_rng(seed).normal(0, 8, mask.shape)
        yield np.clip(image, 0, 255).astype(np.uint8), mask, phantom.spacing_mm


@pytest.mark.parametrize("answer", [changes_its_mind, looks_elsewhere, forgets, guesses, insists])
def test_no_click_lowers_the_mean(answer: Answer) -> None:
    """Clicks of the official protocol, which are right, and answers that are not."""
    scores = []
    for image, truth, spacing_mm in objects():
        with Session(Network(answer), POLICY) as session:
            session.set_image(image, spacing_mm)
            mask, after = np.zeros_like(truth), []
            for _ in range(CLICKS):
                click = next_click(mask, truth)
                assert click is not None
                session.add_point(click.zyx, click.foreground)
                mask = session.mask == 1
                after.append(dice(mask, truth))
        scores.append(after)
    rises = np.diff(np.mean(scores, axis=0))
    assert (rises > -0.01).all(), rises
    assert np.diff(scores, axis=1).min() > -0.25

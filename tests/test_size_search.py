"""How large a clicked object is, by the contrast of what is marked in windows of several sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flood import FloodEngine
from scipy import ndimage

from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.window import Window, WindowPolicy
from gstk.session.extras.image_guidance import ImageGuidance
from gstk.session.extras.size_search import FIELDS, VIEW_VOXELS, contrast, views
from gstk.session.session import Session

POLICY = WindowPolicy(max_voxels=64**3, multiple=8, min_side=16)
CLICK = Point((30, 40, 50), True)


def test_views_hold_the_click_and_narrow() -> None:
    geometry = Geometry((100, 200, 200), (2.0, 1.0, 1.0))
    found = views(geometry, ObjectPrompts((CLICK,)), POLICY)
    assert len(found) == len(FIELDS)
    sides = [float(np.prod(np.array(w.step) * w.shape * geometry.spacing_mm)) for w in found]
    assert sides == sorted(sides, reverse=True)
    for window, field in zip(found, FIELDS, strict=True):
        assert np.prod(window.shape) <= VIEW_VOXELS
        assert window.holds(np.array([CLICK.zyx], float)).all()
        assert np.array(window.shape) * window.step * geometry.spacing_mm == pytest.approx(field, rel=0.4)


def test_views_that_would_be_alike_are_one() -> None:
    assert len(views(Geometry((50, 50, 50), (1.0, 1.0, 1.0)), ObjectPrompts((Point((25, 25, 25), True),)), POLICY)) == 3
    assert views(Geometry((20, 20, 20), (1.0, 1.0, 1.0)), ObjectPrompts((Point((10, 10, 10), True),)), POLICY) == []


@pytest.mark.parametrize(
    "prompts",
    [
        ObjectPrompts((CLICK, Point((31, 40, 50), True))),
        ObjectPrompts((Point((30, 40, 50), False), CLICK)),
        ObjectPrompts((CLICK,), Box.from_corners([[20, 20, 20], [40, 50, 60]])),
        ObjectPrompts(box=Box.from_corners([[20, 20, 20], [40, 50, 60]])),
    ],
)
def test_only_a_lone_click_leaves_the_size_open(prompts: ObjectPrompts) -> None:
    assert views(Geometry((100, 100, 100), (1.0, 1.0, 1.0)), prompts, POLICY) == []


def test_no_views_where_the_network_has_a_resolution_or_windows_are_small_or_stay() -> None:
    geometry, prompts = Geometry((100, 100, 100), (1.0, 1.0, 1.0)), ObjectPrompts((CLICK,))
    window = Window((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (64, 64, 64))
    for policy in (
        replace(POLICY, training_window=lambda _: window),
        replace(POLICY, max_voxels=VIEW_VOXELS),
        replace(POLICY, adapts=False),
    ):
        assert views(geometry, prompts, policy) == []


def test_contrast_of_flat_images_by_hand() -> None:
    image = np.zeros((16, 16, 16), np.float32)
    image[4:12, 4:12, 4:12] = 1
    logits = np.where(image > 0, np.float32(1), np.float32(-1))
    assert contrast(image, logits) == pytest.approx(1), "nothing beside it is as bright"
    assert contrast(np.zeros_like(image), logits) == pytest.approx(0)
    half = logits.copy()
    half[8:] = -1
    # Some of its shell is the object's other half.
    shell = ndimage.binary_dilation(half > 0, iterations=2) & (half <= 0)
    bright = image[shell].mean()
    assert contrast(image, half) == pytest.approx(1 - np.sqrt(bright), abs=1e-6)
    # Twice as many voxels as the object: the deviation of two halves is 0.5, and all of the shell is dark.
    double = np.full_like(logits, -1)
    double[4:12, 4:12, 0:16] = 1
    assert contrast(image, double) == pytest.approx(1 - np.sqrt(0.5) + 0.5)
    for nothing in (np.full_like(logits, -1), np.ones_like(logits)):
        assert contrast(image, nothing) == 0


@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_an_object_stands_out_most_as_a_whole(noise: float) -> None:
    rng = np.random.default_rng(1)
    away = np.sqrt(sum((axis - 16.0) ** 2 for axis in np.ogrid[:32, :32, :32]))
    image = np.clip(np.where(away < 8, 0.7, 0.3) + rng.normal(0, noise, away.shape), 0, 1).astype(np.float32)
    values = {r: contrast(image, (r - away).astype(np.float32)) for r in (3, 5, 8, 11, 14)}
    assert max(values, key=values.__getitem__) == 8


class ShareEngine(FloodEngine):
    """Marks a ball of a fifth of the window's side around the click, whatever is there: a network that is weak."""

    def decode(self, embedding: Any, coords: Any, labels: Any) -> Any:
        shape = embedding.handle.shape
        away2 = sum(
            ((axis - at) / n) ** 2
            for axis, at, n in zip(np.ogrid[tuple(map(slice, shape))], coords[0, 0], shape, strict=True)
        )
        return (4 * (1 - np.sqrt(away2) / 0.2)).astype(np.float32)[None, None]


class SearchAlone(ImageGuidance):
    """Leaves the network's logits as they are."""

    def refine(self, image: Any, geometry: Any, window: Window, logits: Any, prompts: Any, clock: Any) -> Any:
        return window, logits


def test_a_session_finds_the_size_that_a_weak_network_does_not_know() -> None:
    away = np.sqrt(sum((axis - 64.0) ** 2 for axis in np.ogrid[:128, :128, :128]))
    image = np.where(away < 6, 170, 80).astype(np.uint8)
    dice = {}
    for name, extra in (("plain", None), ("sized", SearchAlone())):
        with Session(ShareEngine(), POLICY, extra) as session:  # type: ignore[arg-type]
            session.set_image(image)
            session.add_point((64, 64, 64))
            mask = session.mask > 0
        truth = image > 100
        dice[name] = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert dice["sized"] > dice["plain"] + 0.1
    assert dice["sized"] > 0.45

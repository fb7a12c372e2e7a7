"""Points of a mask as prompts: they lie deep in it and beside it, and there are some only where they help and fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flood import POLICY, FloodEngine
from hypothesis import given
from hypothesis import strategies as st
from latency import a_model
from numpy.typing import NDArray
from scipy import ndimage

from gstk.core.prompts import Box
from gstk.session.deadline import Budget
from gstk.session.extras.image_guidance import ImageGuidance
from gstk.session.extras.image_refiner import LocalPrompts
from gstk.session.extras.reprompting import FEWER, OFF, ON, is_wanted, points_from_mask
from gstk.session.segmenter import MORE_POINTS
from gstk.session.session import Session

NOTHING = np.zeros((0, 3))
BOX = np.array([[4.0, 5, 6], [19, 20, 24]])


def local(clicks: NDArray[np.float64] = NOTHING, box: NDArray[np.float64] | None = BOX) -> LocalPrompts:
    return LocalPrompts(clicks, np.ones(len(clicks), bool), box)


def test_a_cuboids_own_points() -> None:
    """By hand: the middle of the box is taken, so the first point lies as far from it as the mask is deep."""
    mask = np.zeros((24, 24, 30), bool)
    mask[5:20, 6:21, 6:26] = True
    middle = BOX.mean(axis=0, keepdims=True)
    points, labels = points_from_mask(mask, local(), middle, np.array([1]))
    np.testing.assert_array_equal(labels, [1] * (1 + ON) + [0] * OFF)
    np.testing.assert_array_equal(points[0], middle[0])
    first = points[1].astype(int)
    away = np.abs(first - np.rint(middle[0])).sum()
    depth = ndimage.distance_transform_cdt(mask, "taxicab")
    best = np.minimum(10 * depth, 7 * np.abs(np.indices(mask.shape).T - np.rint(middle[0])).sum(-1).T)
    assert min(10 * depth[tuple(first)], 7 * away) == best.max()


@given(st.integers(0, 2**32), st.integers(0, 3))
def test_own_points_are_sure_and_apart(seed: int, clicks: int) -> None:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=(24, 24, 30)), 2) > rng.choice([-9, 0, 0.1, 9])
    clicked = rng.uniform(0, 24, (clicks, 3))
    said = np.concatenate([BOX.mean(axis=0, keepdims=True), clicked])
    told = np.concatenate([[1], rng.integers(0, 2, clicks)])
    points, labels = points_from_mask(mask, local(clicked), said, told)
    np.testing.assert_array_equal(points[: len(said)], said)
    np.testing.assert_array_equal(labels[: len(said)], told)
    own, kinds = points[len(said) :].astype(int), labels[len(said) :]
    assert (kinds == 1).sum() <= max(0, ON - FEWER * clicks)
    assert (kinds == 0).sum() <= max(0, OFF - FEWER * clicks)
    assert (mask[tuple(own.T)] == (kinds == 1)).all()
    for label in (0, 1):
        same = points[labels == label].round()
        added = same[(told == label).sum() :]
        for i, point in enumerate(added):
            others = np.delete(same, i + (told == label).sum(), axis=0)
            assert (np.abs(others - point).sum(axis=1) >= 3).all()
    # What is known to lie beside the object lies near its box, in half sides 1.5 at most.
    beside = own[kinds == 0]
    assert (np.abs(beside - BOX.mean(axis=0)) < 1.5 * np.diff(BOX, axis=0) / 2).all()


def test_without_a_box_or_a_border_there_are_none() -> None:
    said, labels = np.array([[3.0, 3, 3]]), np.array([1])
    half = np.zeros((8, 8, 8), bool)
    half[:4] = True
    for mask, box in ((half, None), (half | True, BOX), (half & False, BOX)):
        assert len(points_from_mask(mask, local(box=box), said, labels)[0]) == 1
    assert [is_wanted(n, True) for n in range(4)] == [True, True, False, False]
    assert not is_wanted(0, False)


def boxed(refine: bool, **options: Any) -> Session:
    image = np.full((40, 44, 48), 60, np.uint8)
    image[10:30, 12:34, 14:36] = 180
    session = Session(FloodEngine(), POLICY, ImageGuidance() if refine else None, **options)  # type: ignore[arg-type]
    session.set_image(image)
    session.add_box(Box.from_corners(((10, 12, 14), (29, 33, 35))))
    return session


def test_a_session_decodes_again_while_a_mask_knows_more_than_the_clicks() -> None:
    session = boxed(refine=True)
    decodes = [session.decodes]
    for z, y, x in ((20, 20, 20), (22, 26, 30), (12, 14, 16)):
        session.add_point((z, y, x), True)
        decodes.append(session.decodes)
    assert np.diff(decodes, prepend=0).tolist() == [2, 2, 1, 1]
    assert session.encodes == 1
    plain = boxed(refine=False)
    assert plain.decodes == 1


def test_without_time_for_it_there_is_one_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"model": a_model(0.01, 0.001), "budget": Budget(60)}
    session = boxed(refine=True, **limits)
    assert (session.decodes, session.report.compromises) == (2, ())
    more_s = session.report.expected_s - boxed(refine=False, **limits).report.expected_s
    seconds = ImageGuidance.seconds

    def priced(price_s: float) -> None:
        """Makes the step before the second decode cost so many seconds; 0 leaves it out."""
        monkeypatch.setattr(
            ImageGuidance,
            "seconds",
            lambda self, step, *where: price_s if step == "more_points" else seconds(self, step, *where),
        )

    priced(0.0)
    once = boxed(refine=True, **limits)
    assert once.decodes == 1
    assert more_s > once.report.expected_s - boxed(refine=False, **limits).report.expected_s
    priced(1e3)
    late = boxed(refine=True, **limits)
    assert (late.decodes, late.report.compromises) == (1, (MORE_POINTS,))
    assert late.mask.any()

"""Boxes on one slice, thinner than a window's voxel and of a few voxels; and prompts that say nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import gstk
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point, PromptWarning
from gstk.core.window import Window
from gstk.errors import PromptError
from gstk.evaluation.metrics import dice
from gstk.session.thin_boxes import answer_thin_box, is_thin

SHAPE = (30, 64, 64)
SPACING = (2.5, 0.8, 0.8)


@pytest.fixture(scope="module", params=[True, False], ids=["extra", "plain"])
def session(request: pytest.FixtureRequest) -> Iterator[gstk.Session]:
    with gstk.open("tiny", refine=request.param) as opened:
        yield opened


def ellipse(shape: tuple[int, int], low: tuple[int, int], high: tuple[int, int]) -> np.ndarray:
    along = [((np.arange(n) - (a + b) / 2) / ((b - a + 1) / 2)) ** 2 for n, a, b in zip(shape, low, high, strict=True)]
    return along[0][:, None] + along[1][None] <= 1


def volume_of(mask: np.ndarray) -> np.ndarray:
    return (np.where(mask, 160, 40) + np.random.default_rng(0).normal(0, 6, mask.shape)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices", [1, 20])
def test_a_box_on_one_slice_is_at_least_the_ellipse_in_it(session: gstk.Session, axis: int, slices: int) -> None:
    sides = tuple(n for a, n in enumerate(SHAPE) if a != axis)
    low, high = (6, 12), (22, 40)
    truth = ellipse(sides, low, high)
    mask = np.zeros(SHAPE, bool)
    along = np.moveaxis(mask, axis, 0)
    middle = SHAPE[axis] // 2
    along[middle - slices // 2 : middle - slices // 2 + slices] = truth
    first, last = list(low), list(high)
    first.insert(axis, middle)
    last.insert(axis, middle)
    session.set_image(volume_of(mask), SPACING)
    session.add_box((first, last))
    assert dice(np.moveaxis(session.mask, axis, 0)[middle] > 0, truth) >= 0.9


@pytest.mark.parametrize("side", [1, 2, 3])
def test_boxes_of_a_few_voxels(session: gstk.Session, side: int) -> None:
    mask = np.zeros(SHAPE, bool)
    where = (slice(12, 12 + side), slice(30, 30 + side), slice(41, 41 + side))
    mask[where] = True
    session.set_image(volume_of(mask), (1, 1, 1))
    session.add_box(((12, 30, 41), (11 + side, 29 + side, 40 + side)))
    got = session.mask > 0
    assert got[where].sum() >= {1: 1, 2: 8, 3: 19}[side]
    assert dice(got, mask) > 0.8


def test_what_is_thin() -> None:
    window = Window((0, 0, 0), (1, 2, 4), (16, 16, 16))
    assert not is_thin(Box.from_corners(((0, 0, 0), (1, 9, 9))), window)
    assert is_thin(Box.from_corners(((0, 0, 0), (0, 9, 9))), window)  # one slice
    assert is_thin(Box.from_corners(((0, 0, 0), (9, 9, 2))), window)  # within a voxel of the window
    assert is_thin(Box.from_corners(((0, 0, 0), (2, 2, 2))), Window((0, 0, 0), (1, 1, 1), (16, 16, 16)))


def test_an_answer_that_fills_the_box_stays_as_it_is() -> None:
    box = Box.from_corners(((5, 10, 10), (5, 29, 29)))
    geometry = Geometry(SHAPE, SPACING)
    region = (slice(3, 8), slice(8, 32), slice(8, 32))
    logits = np.full((5, 24, 24), -1, np.float32)
    logits[1:4, 2:22, 2:22][:, ellipse((20, 20), (0, 0), (19, 19))] = 2
    whole, kept = answer_thin_box(box, geometry, region, logits)
    assert whole == region
    np.testing.assert_array_equal(kept, logits)
    whole, other = answer_thin_box(box, geometry, region, -np.abs(logits))
    assert whole == (slice(5, 6), slice(10, 30), slice(10, 30))
    np.testing.assert_array_equal(other[0] > 0, ellipse((20, 20), (0, 0), (19, 19)))


def test_object_ids_and_clicks_are_whole(session: gstk.Session) -> None:
    session.set_image(volume_of(np.zeros(SHAPE, bool)), SPACING)
    before = session.mask.copy()
    for wrong in (1.5, "1", None, 0, 65536, float("nan")):
        for call in (
            lambda k: session.add_point((5, 5, 5), object_id=k),
            lambda k: session.add_box(((5, 5, 5), (9, 9, 9)), object_id=k),
            lambda k: session.set_prompts(ObjectPrompts((Point((5, 5, 5)),)), object_id=k),
            lambda k: session.set_mask(before, object_id=k),
        ):
            with pytest.raises(PromptError, match=r"got object id .*, expected a whole number from 1 to 65535"):
                call(wrong)
    np.testing.assert_array_equal(session.mask, before)
    session.set_prompts(ObjectPrompts((Point((5.5, 6.4, 7.5)),)), object_id=2.0)  # type: ignore[arg-type]
    assert session.prompts(2).points == (Point((6, 6, 8)),)


def test_an_empty_mask_is_said(session: gstk.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.set_image(volume_of(np.zeros(SHAPE, bool)), SPACING)
    engine = session._segmenter.engine

    def decode(embedding: object, points: object, labels: object, deadline: object) -> np.ndarray:
        return np.minimum(real(embedding, points, labels, deadline), -1)

    real = engine.decode
    monkeypatch.setattr(engine, "decode", decode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session.add_box(((8, 10, 10), (20, 40, 40)), object_id=3)
    said = [str(w.message) for w in caught if w.category is PromptWarning]
    empty = not (session.mask == 3).any()
    assert said == (["the mask of object 3 is empty: the network found nothing at its prompts"] if empty else [])

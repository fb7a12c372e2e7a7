"""Which parts of a mask hold a click, against a flood that takes one voxel at a time; and what a click changes."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gstk.core.prompts import Point
from gstk.session.click_update import ERROR_REACH, ClickScope, apply_click, clicked_components, spread
from gstk.session.extras.click_weight import weigh_click

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


SIDE = 24
WHOLE = (slice(0, SIDE), slice(0, SIDE), slice(0, SIDE))
UNIT_MM = (1.0, 1.0, 1.0)


def field(mask: NDArray[np.bool_], inside: float = 3, outside: float = -3) -> NDArray[np.float32]:
    return np.where(mask, np.float32(inside), np.float32(outside))


def box(low: int, high: int, along_x: int = SIDE) -> NDArray[np.bool_]:
    mask = np.zeros((SIDE,) * 3, bool)
    mask[low:high, low:high, :along_x] = True
    return mask


def changed(click: Point, old: NDArray[np.float32], new: NDArray[np.float32], weighed: bool) -> NDArray[np.bool_]:
    before = old.copy(), new.copy()
    weigh = partial(weigh_click, click) if weighed else None
    region, found = apply_click(ClickScope(click, [], UNIT_MM, weigh), WHOLE, old, WHOLE, new)
    np.testing.assert_array_equal((old, new), before)
    assert region == WHOLE
    return found > 0


@pytest.mark.parametrize("foreground", [True, False])
def test_the_ball_up_to_the_border_is_what_was_clicked(foreground: bool) -> None:
    """Also where the answer holds nothing but the click: its middle, none of it outside the ball."""
    mask = box(8, 15, SIDE if not foreground else 12)
    point = Point((11, 11, 16 if foreground else 3), foreground)
    old = field(mask)
    new = old.copy()
    new[point.zyx] = -old[point.zyx]
    difference = changed(point, old, new, weighed=True) != (old > 0)
    away = np.sqrt(((np.indices(mask.shape) - np.reshape(point.zyx, (3, 1, 1, 1))) ** 2).sum(0))
    depth = 5 if foreground else 4  # voxels to the border, or to where the region ends
    assert difference[away < 0.8 * depth].all()
    assert not difference[away >= depth].any()
    assert (changed(point, old, new, weighed=False) != (old > 0)).sum() == 1


def test_what_is_unsure_far_from_a_background_click_stays() -> None:
    old = field(box(8, 15), inside=2)
    shaved = field(box(9, 14), inside=2, outside=-2)  # all around, a voxel less
    click = Point((8, 11, 3), False)
    found = changed(click, old, shaved, weighed=True)
    assert not found[8, 11, 3]
    assert not found[8, 10:13, 2:5].any()
    assert found[8, 8:15, 20].all()
    assert not changed(click, old, shaved, weighed=False)[8, 11, :7].any()
    sure = field(box(9, 14), inside=2, outside=-6)
    assert not changed(click, np.where(old > 0, np.float32(0.5), old), sure, weighed=True)[8, 11, :7].any()


@pytest.mark.parametrize(("foreground", "first"), [(True, (11, 11, 4)), (False, (8, 11, 3))])
def test_a_click_reaches_as_far_as_the_answer_is_about_it(foreground: bool, first: tuple[int, int, int]) -> None:
    """A line of wrong voxels along x, clicked where it begins, one voxel from where the mask is right."""
    old = field(box(8, 15, 4 if foreground else SIDE), inside=2)
    z, y, x = first
    for length, reached in ((6, 6), (20, 4)):  # 1 + 4 √(6/6) = 5 voxels from the click; 1 + 4 √(6/20) = 3.2
        new = old.copy()
        new[z, y, x : x + length] *= -1
        found = changed(Point(first, foreground), old, new, weighed=False) != (old > 0)
        np.testing.assert_array_equal(np.argwhere(found), [(z, y, x + i) for i in range(reached)])


@pytest.mark.parametrize("foreground", [True, False])
def test_a_border_that_shifts_everywhere_shifts_near_the_click_alone(foreground: bool) -> None:
    """It is connected to every click on it, and no local correction."""
    old = field(box(8, 15), inside=2)
    new = field(box(7, 16) if foreground else box(9, 14), inside=2)
    click = Point((7, 11, 3) if foreground else (8, 11, 3), foreground)  # one voxel from where the mask is right
    away2 = ((np.indices(old.shape) - np.reshape(click.zyx, (3, 1, 1, 1))) ** 2).sum(0)
    shifted = (new > 0) != (old > 0)
    own = np.count_nonzero(shifted & (away2 <= ERROR_REACH**2))  # one piece: the shell around an end of the bar
    reach = 1 + (ERROR_REACH - 1) * (own / np.count_nonzero(shifted)) ** 0.5
    assert 1.5 < reach < 3.5
    near = away2 <= max(reach, 3) ** 2
    found = changed(click, old, new, weighed=False)
    np.testing.assert_array_equal(found[near], (new > 0)[near])
    np.testing.assert_array_equal(found[~near], (old > 0)[~near])


def test_without_a_mask_before_the_answer_is_taken() -> None:
    new = field(box(8, 15))
    empty = field(np.zeros(new.shape, bool))
    found = changed(Point((11, 11, 3), True), empty, new, weighed=True)
    np.testing.assert_array_equal(found, new > 0)


def test_what_is_right_already_stays() -> None:
    old, new = field(box(8, 15)), field(box(4, 19))
    for weighed in (True, False):
        np.testing.assert_array_equal(changed(Point((11, 11, 3), True), old, new, weighed), old > 0)


def test_a_mask_of_no_voxels_spreads_to_nothing() -> None:
    """What a network found outside the volume leaves a region that is empty along some axis alone."""
    wider = (slice(2, 5), slice(0, 4), slice(0, 4))
    empty = (slice(4, 8), slice(9, 9), slice(0, 3))
    np.testing.assert_array_equal(spread(empty, np.zeros((4, 0, 3), np.float32), wider), np.full((3, 4, 4), -1))
    click = ClickScope(Point((3, 1, 1)), [], (1.0, 1.0, 1.0))
    region, values = apply_click(click, empty, np.zeros((4, 0, 3), np.float32), wider, np.ones((3, 4, 4), np.float32))
    assert region == wider
    assert (values > 0).all()

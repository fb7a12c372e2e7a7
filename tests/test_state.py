"""The history of an image's objects, against a list of copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.network_image import NetworkImage
from gstk.core.profile import find_profile
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.volume import Volume
from gstk.core.window import WindowPolicy
from gstk.errors import PromptError
from gstk.session.state import ImageState, ObjectState, given_mask, resume_from_mask

SHAPE = (6, 7, 8)


def an_image() -> ImageState:
    policy = WindowPolicy(max_voxels=16**3, multiple=8, min_side=8)
    volume = Volume(np.zeros(SHAPE, np.uint8), Geometry(SHAPE, (1, 1, 1)))
    return ImageState(NetworkImage.prepare(volume, find_profile("tiny")), policy)


def a_state(rng: np.random.Generator, image: ImageState) -> ObjectState:
    mask = np.zeros(SHAPE, bool)
    low = rng.integers(0, SHAPE)
    high = rng.integers(low, SHAPE) + 1
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    clicks = np.argwhere(mask)[rng.integers(0, mask.sum(), rng.integers(0, 3))]
    return replace(given_mask(mask, image), prompts=ObjectPrompts(tuple(Point(tuple(map(int, c))) for c in clicks)))


def changed_within(before: NDArray[np.uint16], after: NDArray[np.uint16], region: tuple[slice, ...]) -> bool:
    """Whether two label maps are equal outside a region."""
    outside = np.ones(SHAPE, bool)
    outside[region] = False
    return bool((before == after)[outside].all())


@given(st.integers(0, 2**32), st.lists(st.sampled_from(["commit", "commit", "undo", "redo", "forget"]), max_size=14))
def test_undo_and_redo_walk_through_what_was_committed(seed: int, steps: list[str]) -> None:
    rng = np.random.default_rng(seed)
    image = an_image()
    past: list[NDArray[np.uint16]] = []
    future: list[NDArray[np.uint16]] = []
    now = image.merge().copy()
    image.take_changed()
    for step in steps:
        before = now
        if step == "commit":
            region = image.commit({int(rng.integers(1, 6)): a_state(rng, image)})
            past.append(before)
            future.clear()
        elif step == "undo" and past:
            region = image.take_back(image.history[-1][1])
            future.append(before)
        elif step == "redo" and future:
            region = image.do_again(image.undone[-1][1])
            past.append(before)
        elif step == "forget":
            image.forget(None)
            past, future, region = [], [], (slice(0, 6), slice(0, 7), slice(0, 8))
        else:
            continue
        part = tuple(slice(*sorted(rng.integers(0, n + 1, 2))) for n in SHAPE)
        in_part = image.merge_in(part)
        now = image.merge().copy()
        np.testing.assert_array_equal(in_part, now[part])
        np.testing.assert_array_equal(image.merge_in(part), now[part])
        assert changed_within(before, now, region)
        assert changed_within(before, now, image.take_changed())
        assert image.take_changed() == (slice(0, 0),) * 3
        if step == "undo":
            np.testing.assert_array_equal(now, past.pop())
        if step == "redo":
            np.testing.assert_array_equal(now, future.pop())
        assert not now[~inside(image.extent)].any()
    assert (len(image.history), len(image.undone)) == (len(past), len(future))


def inside(region: tuple[slice, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[region] = True
    return mask


def test_masks_beyond_the_memory_for_them_are_dropped_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    image = an_image()
    states = [given_mask(np.ones(SHAPE, bool), image) for _ in range(5)]
    monkeypatch.setattr("gstk.session.state._HISTORY_BYTES", 2 * states[0].size_bytes)
    for state in states:
        image.commit({1: state})
    assert [before.logits is not None for _, before in image.history] == [False, False, False, True, True]
    assert image.history[2][1].given is states[1].given  # what it began with stays, to compute it again


def test_masks_that_objects_begin_with_take_a_bit_a_voxel_and_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    image = an_image()
    rng = np.random.default_rng(3)
    masks = [rng.random(SHAPE) < 0.5 for _ in range(40)]
    states = [given_mask(mask, image) for mask in masks]
    one = states[0].given
    assert one is not None
    assert one.size_bytes == np.prod(SHAPE) / 8
    monkeypatch.setattr("gstk.session.state._GIVEN_BYTES", 10 * one.size_bytes)
    for state in states:
        image.commit({1: state})
    held = {id(before.given) for _, before in image.history}
    assert len(held) == len(image.history) == 10
    for k in range(38, 28, -1):  # and each mask comes back as it was
        image.take_back(image.history[-1][1].begun_anew(ObjectPrompts()))
        np.testing.assert_array_equal(image.merge() == 1, masks[k])
    with pytest.raises(PromptError, match="nothing to undo"):
        image.latest_before()


def test_masks_and_steps_of_the_history_are_limited() -> None:
    image = an_image()
    mask = np.zeros(SHAPE, bool)
    mask[2, 3, 4] = True
    small = given_mask(mask, image)
    for step in range(1100):
        image.commit({1: replace(small, prompts=ObjectPrompts((Point((0, 0, step % 2)),)))})
    assert len(image.history) == 1000
    assert [before.logits is not None for _, before in image.history] == 900 * [False] + 100 * [True]
    for _ in range(300):
        image.take_back(image.history[-1][1])
    assert sum(after.logits is not None for _, after in image.undone) == 100
    assert len(image.history) == 700


def test_an_object_goes_on_from_another_sessions_mask() -> None:
    image = an_image()
    previous = np.zeros(SHAPE, np.uint16)
    previous[2:4, 2:5, 1:3] = 7
    prompts = ObjectPrompts((Point((2, 2, 2)), Point((5, 6, 7), False)))
    state = resume_from_mask(previous, 7, prompts, image)
    assert state.region == (slice(2, 4), slice(2, 5), slice(1, 3))
    assert state.prompts.points == prompts.points[:1]
    assert state.is_extended_by(prompts)
    assert state.pending_decodes(prompts) == 1
    assert state.window is not None
    assert state.window.holds(prompts.clicked()).all()
    assert resume_from_mask(previous, 3, prompts, image) == ObjectState()


def test_a_change_that_decides_about_voxels_elsewhere_is_in_the_changed_region() -> None:
    """A click takes all of a bar from another object, until a third one cuts the bar in two."""
    image = an_image()
    everything, bar, cut = np.ones(SHAPE, bool), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    bar[3, 3, :] = cut[3, 3, 4] = True
    clicked = replace(given_mask(everything, image), prompts=ObjectPrompts((Point((3, 3, 0)),)))
    image.commit({1: given_mask(bar, image), 2: clicked})
    before = image.merge().copy()
    assert (before[bar] == 2).all()
    region = image.commit({3: given_mask(cut, image)})
    after = image.merge().copy()
    assert after[3, 3].tolist() == [2, 2, 2, 2, 3, 1, 1, 1]
    assert changed_within(before, after, region)
    assert changed_within(after, before, image.take_back(image.history[-1][1]))

"""The session, on an engine whose mask is known: everything of the clicked brightness that is connected to a click."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from flood import POLICY, FloodEngine, two_balls

from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.errors import GstkError, PromptError
from gstk.evaluation.metrics import dice
from gstk.session.extras.image_guidance import ImageGuidance
from gstk.session.session import Session
from gstk.session.window_selection import latest_points


@pytest.fixture
def engine() -> FloodEngine:
    return FloodEngine()


@pytest.fixture
def session(engine: FloodEngine) -> Session:
    return Session(engine, POLICY)  # type: ignore[arg-type]


def test_a_click_gives_the_clicked_object(session: Session) -> None:
    image, first, second = two_balls()
    session.set_image(image, (1, 1, 1))
    changed = session.add_point((20, 20, 20))
    assert session.mask.dtype == np.uint16
    assert session.mask.shape == image.shape
    assert dice(session.mask == 1, first) > 0.9
    outside = session.mask.copy()
    outside[changed] = 0
    assert not outside.any()
    session.add_point((20, 44, 40), object_id=2)
    assert dice(session.mask == 2, second) > 0.85
    assert dice(session.mask == 1, first) > 0.9


def test_an_object_larger_than_the_first_window_makes_it_grow(session: Session, engine: FloodEngine) -> None:
    image = np.zeros((20, 120, 120), np.uint8)
    image[4:16, 10:110, 10:110] = 255
    session.set_image(image, (1, 1, 1))
    session.add_point((10, 60, 60))
    assert dice(session.mask == 1, image > 0) > 0.85
    assert 1 < len(engine.shapes) <= 3


def test_a_second_click_in_the_window_costs_no_encode(session: Session, engine: FloodEngine) -> None:
    image, first, _ = two_balls()
    session.set_image(image, (1, 1, 1))
    session.add_point((20, 20, 20))
    encodes = len(engine.shapes)
    session.add_point((20, 20, 26), foreground=False)
    assert len(engine.shapes) == encodes
    assert session.mask[20, 20, 26] == 0
    assert (session.mask == 1)[first].mean() > 0.7


@pytest.mark.parametrize("box", [None, Box.from_corners(((12, 12, 12), (28, 28, 28)))])
def test_the_network_is_given_the_first_click_and_the_latest(
    session: Session, engine: FloodEngine, monkeypatch: pytest.MonkeyPatch, box: Box | None
) -> None:
    given: list[list[list[float]]] = []
    decode = engine.decode

    def record(embedding: Any, coords: Any, labels: Any) -> Any:
        given.append([*coords[0].tolist(), labels[0].tolist()])
        return decode(embedding, coords, labels)

    monkeypatch.setattr(engine, "decode", record)
    engine.most_points = 4
    image, _, _ = two_balls()
    session.set_image(image, (1, 1, 1))
    clicks = [(20, 20, 20), (20, 20, 26), (20, 20, 14), (20, 21, 20), (20, 44, 40)]
    session.set_prompts(ObjectPrompts(tuple(Point(zyx, zyx[1] < 40) for zyx in clicks), box))
    *coords, labels = given[-1]
    assert labels == [1, 1, 1, 0]
    window = session.window()
    assert window is not None
    kept = [clicks[0] if box is None else box.centre(), *clicks[2:]]
    inside = np.clip([window.to_window(np.array(zyx, float)) for zyx in kept], 0, np.array(window.shape) - 1)
    np.testing.assert_allclose(coords, inside)
    assert session.mask[20, 44, 40] == 0


def test_the_latest_points() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    coords = np.arange(15, dtype=float).reshape(5, 3)
    for most, kept in ((5, [0, 1, 2, 3, 4]), (4, [1, 2, 3, 4]), (3, [1, 3, 4]), (2, [1, 4])):
        found = latest_points(coords, labels, most)
        np.testing.assert_array_equal(found[0], coords[kept])
        np.testing.assert_array_equal(found[1], labels[kept])
    late = np.array([0, 0, 0, 0, 1])
    np.testing.assert_array_equal(latest_points(coords, late, 2)[1], [0, 1])  # not twice


def test_undo_and_reset_bring_back_what_was(session: Session) -> None:
    image, _, _ = two_balls()
    session.set_image(image)
    session.add_point((20, 20, 20))
    one = session.mask.copy()
    session.add_point((20, 20, 26), foreground=False)
    session.add_point((20, 44, 40), object_id=2)
    session.undo()
    session.undo()
    np.testing.assert_array_equal(session.mask, one)
    session.undo()
    assert not session.mask.any()
    with pytest.raises(PromptError, match="undo"):
        session.undo()
    session.add_point((20, 20, 20))
    session.add_point((20, 44, 40), object_id=2)
    session.reset(object_id=1)
    assert set(np.unique(session.mask)) == {0, 2}
    session.reset()
    assert not session.mask.any()


def test_a_click_beside_a_boxed_object_takes_away_only_what_is_near_it() -> None:
    """A network that loses the object at a click beside it: the box still says where the object is, and how large."""

    class Timid(FloodEngine):
        def decode(self, embedding: object, coords: np.ndarray, labels: np.ndarray) -> np.ndarray:
            logits = super().decode(embedding, coords, labels)
            grid = np.indices(logits.shape[2:])
            for place in coords[0][labels[0] == 0]:
                logits[0, 0][((grid - place[:, None, None, None]) ** 2).sum(0) < 34**2] = -1
            return logits

    image = np.zeros((40, 80, 80), np.uint8)
    image[8:32, 10:70, 10:70] = 200
    image[14:26, 70:78, 32:48] = 200  # a vessel that leaves the object
    session = Session(Timid(), POLICY)  # type: ignore[arg-type]
    session.set_image(image)
    session.add_box(((8, 10, 10), (31, 69, 69)))
    window = session.window()
    session.add_point((20, 76, 40), foreground=False)
    assert session.mask[20, 76, 40] == 0
    assert session.mask[20, 40, 40] == 1
    assert (session.mask == 1)[8:32, 10:70, 10:70].mean() > 0.6
    assert session.window() == window


def test_background_clicks_alone_give_an_empty_mask_until_the_object_is_clicked(session: Session) -> None:
    image, first, _ = two_balls()
    session.set_image(image)
    session.add_point((2, 2, 2), foreground=False)
    assert not session.mask.any()
    session.add_point((20, 20, 20))
    assert dice(session.mask == 1, first) > 0.9


def test_all_prompts_at_once_equal_one_after_the_other(session: Session) -> None:
    image, _, _ = two_balls()
    session.set_image(image)
    session.add_point((20, 20, 20))
    session.add_point((20, 20, 26), foreground=False)
    step_by_step = session.mask.copy()
    session.set_image(image)
    session.set_prompts(ObjectPrompts((Point((20, 20, 20)), Point((20, 20, 26), False))))
    assert dice(session.mask > 0, step_by_step > 0) > 0.95


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("box", [None, Box(12, 28, 20, 12, 12, 28, 28)])
def test_clicked_voxels_are_as_they_were_clicked(box: Box | None, refine: bool) -> None:
    """Also where the network and the image say otherwise."""
    image = np.zeros((40, 60, 60), np.uint8)
    image[12:29, 12:29, 12:29] = 200
    session = Session(FloodEngine(), POLICY, ImageGuidance() if refine else None)  # type: ignore[arg-type]
    session.set_image(image)
    if box is not None:
        session.add_box(box)
    clicks = [
        *(((20, 20, 20), False), ((20, 20, 34), True), ((13, 13, 13), False), ((30, 30, 30), True)),
        *(((20, 20, 35), False), ((30, 50, 30), True), ((20, 20, 20), True)),
    ]
    for end, (zyx, foreground) in enumerate(clicks, start=1):
        session.add_point(zyx, foreground)
        for clicked, expected in dict(clicks[:end]).items():  # of two clicks on one voxel the later one holds
            if box is not None or any(f for _, f in clicks[:end]):
                assert session.mask[clicked] == expected, (end, clicked)
    prompts = ObjectPrompts(tuple(Point(zyx, foreground) for zyx, foreground in clicks), box)
    step_by_step = session.mask.copy()
    session.set_image(image)
    session.set_prompts(prompts)
    np.testing.assert_array_equal(session.mask, step_by_step)


@pytest.mark.parametrize(
    "shape", [(2, 50, 50), (50, 2, 50), (1, 30, 30), (5, 6, 7), (16, 16, 16), (1, 1, 1), (3, 400, 30)]
)
def test_thin_and_small_volumes_are_segmented(session: Session, shape: tuple[int, int, int]) -> None:
    image = np.zeros(shape, np.float32)
    middle = tuple(n // 2 for n in shape)
    image[tuple(slice(max(0, m - 6), m + 7) for m in middle)] = 1.0
    session.set_image(image, (3.0, 1.0, 1.0))
    session.add_point(middle)
    assert session.mask.shape == shape
    if 0 < image.mean() < 1:
        assert session.mask[middle] == 1


def test_anisotropic_voxels_are_sampled_near_isotropically(session: Session) -> None:
    image = np.zeros((12, 100, 100), np.uint8)
    image[4:8, 30:70, 30:70] = 200
    session.set_image(image, (5.0, 1.0, 1.0))
    session.add_point((6, 50, 50))
    window = session.window()
    assert window is not None
    size_mm = [step * spacing for step, spacing in zip(window.step, (5.0, 1.0, 1.0), strict=True)]
    assert max(size_mm) / min(size_mm) < 1.001
    assert dice(session.mask == 1, image > 0) > 0.7


def test_set_image_forgets_the_image_before(session: Session) -> None:
    image, _, _ = two_balls()
    session.set_image(image)
    session.add_point((20, 20, 20))
    session.set_image(np.zeros((8, 9, 10), np.uint8))
    assert session.mask.shape == (8, 9, 10)
    assert not session.mask.any()
    assert session.window() is None


@pytest.mark.parametrize("spacing_mm", [(1, 1), ("a", 1, 1), (0, 1, 1), (1, 1, float("nan"))])
def test_a_wrong_spacing_is_an_error_of_ours(session: Session, spacing_mm: object) -> None:
    with pytest.raises(GstkError, match="spacing"):
        session.set_image(two_balls()[0], spacing_mm)


def test_other_misuse_is_refused_in_one_line(session: Session, engine: FloodEngine) -> None:
    with pytest.raises(GstkError, match="set_image"):
        session.add_point((0, 0, 0))
    session.set_image(np.zeros((8, 8, 8), np.uint8))
    for bad in (np.zeros((4, 4)), np.zeros((0, 4, 4)), np.full((4, 4, 4), np.nan), np.zeros((4, 4, 4), complex)):
        with pytest.raises(GstkError, match="expected"):
            session.set_image(bad)
    with pytest.raises(GstkError):
        session.set_image(np.zeros((4, 4, 4)), (1, 0, 1))
    with pytest.raises(PromptError, match="object id"):
        session.add_point((1, 1, 1), object_id=0)
    with pytest.raises(PromptError, match="corners"):
        session.add_box(((0, 0, 0), (9, 9, 9)))
    with pytest.raises(PromptError, match="two corners"):
        session.add_box((1, 2, 3))  # type: ignore[arg-type]
    with session:
        pass
    assert engine.closed


@pytest.mark.slow
def test_the_tiny_bundle_sees_the_image() -> None:
    """One click on generated volumes that it was not trained on, and the same click where there is nothing to see."""
    import gstk
    from gstk.cases.phantom_case import phantom_case

    seen, blind = [], []
    with gstk.open("tiny", threads=2) as opened:
        for seed, kind in itertools.product(range(4), ("organs", "hot-spots")):
            case = phantom_case(seed, 64, kind, 1)
            assert case.labels is not None
            (object_id,) = case.prompts
            checks = (np.indices(case.image.shape).sum(axis=0) % 2).astype(np.uint8)
            for image, scores in ((case.image, seen), (checks, blind)):
                opened.set_image(image, case.geometry.spacing_mm)
                opened.add_point(case.prompts[object_id].points[0].zyx, object_id=object_id)
                scores.append(dice(opened.mask == object_id, case.labels == object_id))
    assert np.mean(seen) > 0.45
    assert np.mean(seen) > np.mean(blind) + 0.15


def test_prompts_that_are_there_already_leave_redo_as_it_is(session: Session) -> None:
    image, _, _ = two_balls()
    session.set_image(image)
    session.add_point((20, 20, 20))
    session.add_point((20, 44, 40), object_id=2)
    expected = session.mask.copy()
    session.undo()
    session.set_prompts(ObjectPrompts((Point((20, 20, 20), True),)), 1)
    session.redo()
    np.testing.assert_array_equal(session.mask, expected)


def test_redo_does_again_what_was_undone_until_something_new_is_said(session: Session) -> None:
    image, _, _ = two_balls()
    session.set_image(image)
    masks = [session.mask.copy()]
    session.add_point((20, 20, 20))
    masks.append(session.mask.copy())
    session.add_point((20, 44, 40), object_id=2)
    masks.append(session.mask.copy())
    session.undo()
    session.undo()
    for expected in masks[1:]:
        session.redo()
        np.testing.assert_array_equal(session.mask, expected)
    with pytest.raises(PromptError, match="redo"):
        session.redo()
    session.undo()
    session.undo()
    session.redo()
    session.add_point((20, 20, 26), foreground=False)
    with pytest.raises(PromptError, match="redo"):
        session.redo()
    session.undo()
    session.reset()
    with pytest.raises(PromptError, match="redo"):
        session.redo()


def test_a_given_mask_stays_but_for_what_is_near_later_clicks(session: Session) -> None:
    image, first, second = two_balls()
    given = first.copy()
    given[20, 20, 13:24] = False  # a cut through the object
    given[4:7, 4:7, 4:7] = True  # far away, and nothing in the image says so
    session.set_image(image)
    changed = session.set_mask(given)
    np.testing.assert_array_equal(session.mask == 1, given)
    assert all(axis.start <= 4 for axis in changed)
    session.add_point((20, 20, 20))
    assert session.mask[20, 20, 20] == 1
    assert session.mask[4:7, 4:7, 4:7].all()
    assert not (session.mask == 1)[second].any()
    session.undo()
    np.testing.assert_array_equal(session.mask == 1, given)
    session.undo()
    assert not session.mask.any()
    session.redo()
    np.testing.assert_array_equal(session.mask == 1, given)


def test_a_background_click_alone_corrects_a_given_mask(session: Session) -> None:
    image, first, second = two_balls()
    session.set_image(image)
    session.set_mask(first | second)  # the second is no part of it
    session.add_point((20, 44, 40), foreground=False)
    assert session.mask[20, 44, 40] == 0
    assert (session.mask == 1)[first].mean() > 0.9


def test_a_given_mask_is_gone_on_from_after_its_history_was_forgotten(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gstk.session.state._HISTORY_BYTES", 0)
    image, first, second = two_balls()
    given = first.copy()
    given[4:7, 4:7, 4:7] = True
    session.set_image(image)
    session.set_mask(given)
    session.add_point((20, 44, 40))
    assert (session.mask == 1)[second].any()
    session.add_point((20, 20, 27), foreground=False)
    session.undo()
    assert session.mask[4:7, 4:7, 4:7].all()
    assert (session.mask == 1)[second].any()
    session.undo()
    np.testing.assert_array_equal(session.mask == 1, given)


def test_a_given_mask_of_another_shape_or_with_a_box_is_refused(session: Session) -> None:
    image, first, _ = two_balls()
    session.set_image(image)
    with pytest.raises(PromptError, match=r"expected the image's \(40, 60, 60\)"):
        session.set_mask(first[1:])
    session.set_mask(first)
    with pytest.raises(PromptError, match="reset it first"):
        session.add_box(((12, 12, 12), (28, 28, 28)))
    np.testing.assert_array_equal(session.mask == 1, first)


def test_sessions_on_one_engine_keep_their_images_apart(session: Session, engine: FloodEngine) -> None:
    image, first, second = two_balls()
    session.set_image(image)
    session.add_point((20, 20, 20))
    other = session.sibling()
    other.set_image(image[::-1].copy())
    other.add_point((19, 44, 40))
    assert dice(session.mask == 1, first) > 0.9
    assert dice(other.mask == 1, second[::-1]) > 0.85
    other.close()
    assert not engine.closed
    session.add_point((20, 44, 40), object_id=2)
    session.close()
    assert engine.closed

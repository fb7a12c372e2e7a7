"""Progressive answers: a coarse mask at once, the final one later, and prompts in between."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flood import POLICY, FloodEngine, Gate, SlowEngine
from latency import a_model
from numpy.typing import NDArray

from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.regions import Region, voxel_count
from gstk.errors import EngineError
from gstk.session.session import Session

WAIT_S = 60.0
FIRST, SECOND = (32, 32, 32), (44, 20, 20)


def an_image() -> NDArray[np.uint8]:
    """A ball with a thin plate through it, which a coarse window does not show as a fine one does."""
    grid = np.indices((64, 64, 64))
    ball = ((grid - 32) ** 2).sum(0) <= 14**2
    ball |= (np.abs(grid[0] - 32) <= 1) & (np.abs(grid[1:] - 32).max(axis=0) <= 20)
    small = ((grid - np.array(SECOND)[:, None, None, None]) ** 2).sum(0) <= 9
    return np.where(ball | small, 200, 20).astype(np.uint8)


def open_session(engine: FloodEngine) -> Session:
    return Session(engine, POLICY)  # type: ignore[arg-type]


def final_mask(*points: Point) -> NDArray[np.uint16]:
    with open_session(FloodEngine()) as session:
        session.set_image(an_image())
        for point in points:
            session.add_point(point.zyx, point.foreground)
        return session.mask.copy()


def final_mask_of_two() -> NDArray[np.uint16]:
    with open_session(FloodEngine()) as session:
        session.set_image(an_image())
        session.add_point(FIRST)
        session.add_point(SECOND, object_id=2)
        return session.mask.copy()


@pytest.fixture
def gate() -> Iterator[tuple[Gate, Session]]:
    engine = Gate()
    with open_session(engine) as session:
        session.set_image(an_image())
        yield engine, session


def test_a_coarse_mask_comes_first_and_the_final_one_follows(gate: tuple[Gate, Session]) -> None:
    engine, session = gate
    called: list[Region] = []
    session.add_point(FIRST, on_refined=called.append)
    coarse = session.mask.copy()
    assert engine.waiting.wait(WAIT_S)
    assert max(map(np.prod, engine.shapes)) <= 20**3
    assert coarse[FIRST] == 1
    assert not session.is_final
    assert not session.refined(0.05)
    np.testing.assert_array_equal(session.mask, coarse)  # and can be read meanwhile
    engine.open.set()
    assert session.refined(WAIT_S)
    assert session.is_final
    final = session.mask.copy()
    np.testing.assert_array_equal(final, final_mask(Point(FIRST, True)))
    assert (coarse != final).any()
    (region,) = called
    outside = np.ones(final.shape, bool)
    outside[region] = False
    np.testing.assert_array_equal(coarse[outside], final[outside])
    session.undo()
    assert not session.mask.any()
    session.redo()
    np.testing.assert_array_equal(session.mask, final)


@pytest.mark.parametrize("asks_again", [True, False])
def test_a_prompt_meanwhile_is_answered_first(gate: tuple[Gate, Session], asks_again: bool) -> None:
    engine, session = gate
    called: list[Region] = []
    session.add_point(FIRST, on_refined=called.append)
    assert engine.waiting.wait(WAIT_S)
    engine.waiting.clear()
    other = Point((30, 30, 44), False)
    if asks_again:
        encodes = session.encodes
        session.add_point(other.zyx, other.foreground, on_refined=called.append)
        assert session.encodes == encodes  # in the window that there is
        assert engine.waiting.wait(WAIT_S)  # and its final mask is on the way
    engine.open.set()
    if not asks_again:
        session.add_point(other.zyx, other.foreground)
        assert session.is_final
    assert session.refined(WAIT_S)
    np.testing.assert_array_equal(session.mask, final_mask(Point(FIRST, True), other))
    assert len(called) == asks_again
    session.undo()
    session.refined(WAIT_S)
    session.refine()
    np.testing.assert_array_equal(session.mask, final_mask(Point(FIRST, True)))


def test_a_prompt_on_another_object_loses_nothing(gate: tuple[Gate, Session]) -> None:
    engine, session = gate
    called = threading.Event()
    session.add_point(FIRST, on_refined=lambda region: called.set())
    assert engine.waiting.wait(WAIT_S)
    threading.Timer(0.5, engine.open.set).start()
    session.add_point(SECOND, object_id=2)
    assert session.refined(WAIT_S)
    assert called.is_set()
    np.testing.assert_array_equal(session.mask, final_mask_of_two())


def test_undo_and_redo_meanwhile_lose_nothing(gate: tuple[Gate, Session]) -> None:
    engine, session = gate
    called: list[Region] = []
    session.add_point(FIRST, on_refined=called.append)
    session.add_point(SECOND, object_id=2, on_refined=called.append)
    assert engine.waiting.wait(WAIT_S)
    for step in (session.undo, session.redo):
        engine.waiting.clear()
        step()
        assert engine.waiting.wait(WAIT_S)  # what was refined goes on
    engine.open.set()
    assert session.refined(WAIT_S)
    np.testing.assert_array_equal(session.mask, final_mask_of_two())


def test_cancel_leaves_the_coarse_mask(gate: tuple[Gate, Session]) -> None:
    engine, session = gate
    session.add_point(FIRST, on_refined=lambda region: pytest.fail("nothing was refined"))
    assert engine.waiting.wait(WAIT_S)
    before = session.mask.copy()
    while not session.refined(0.02):
        session.cancel()
    np.testing.assert_array_equal(session.mask, before)
    assert not session.is_final
    engine.open.set()
    assert voxel_count(session.refine())
    assert session.is_final
    assert not voxel_count(session.refine())
    np.testing.assert_array_equal(session.mask, final_mask(Point(FIRST, True)))


def test_another_image_or_the_end_drops_what_runs(gate: tuple[Gate, Session]) -> None:
    engine, session = gate
    session.add_point(FIRST, on_refined=lambda region: pytest.fail("of an image that is gone"))
    assert engine.waiting.wait(WAIT_S)
    session.set_image(an_image())
    assert session.refined(0)
    assert not session.mask.any()
    engine.waiting.clear()
    session.add_point(FIRST, on_refined=lambda region: pytest.fail("of a session that is closed"))
    assert engine.waiting.wait(WAIT_S)
    session.close()
    assert engine.closed


def test_who_does_not_ask_and_who_would_gain_nothing_get_one_answer() -> None:
    plain, ready = FloodEngine(), FloodEngine()
    with open_session(plain) as session, open_session(ready) as other:
        session.set_image(an_image())
        session.add_point(FIRST)
        assert session.is_final
        other.set_image(an_image(), look_at=FIRST)
        image = other._current()
        assert image.ahead is not None
        image.ahead[1].result(WAIT_S)
        other.add_point(FIRST, on_refined=lambda region: pytest.fail("the first answer was final"))
        assert other.is_final
        assert other.refined(0)
        assert ready.shapes == plain.shapes
        np.testing.assert_array_equal(other.mask, session.mask)
        session.add_point((32, 32, 30), on_refined=lambda region: pytest.fail("its window was there"))
        assert session.is_final


def test_what_fails_in_the_background_is_raised_where_it_is_waited_for() -> None:
    class Breaks(FloodEngine):
        def encode(self, image: NDArray[np.float32]):  # type: ignore[no-untyped-def]
            if image.size > 20**3:
                raise EngineError("broken")
            return super().encode(image)

    with open_session(Breaks()) as session:
        session.set_image(an_image())
        session.add_point(FIRST, on_refined=lambda region: None)
        before = session.mask.copy()
        with pytest.raises(EngineError, match="broken"):
            session.refined(WAIT_S)
        assert session.refined(0)
        np.testing.assert_array_equal(session.mask, before)


def test_a_target_plans_the_first_answer() -> None:
    """Its windows have what fits into the target, not half the resolution; the final ones do not keep to it."""
    model = a_model(encode=30.0, decode=1.0, spread=1.0)
    engine = SlowEngine(model, itertools.repeat(0.0))
    asked = Session(engine, POLICY, model=model, click_within_s=1.0)  # type: ignore[arg-type]
    with asked as session:
        session.set_image(an_image())
        session.add_point(FIRST, on_refined=lambda region: None)
        assert session.refined(WAIT_S)
        first = np.prod(engine.shapes[0])
        assert 16**3 < first < POLICY.max_voxels
        np.testing.assert_array_equal(session.mask, final_mask(Point(FIRST, True)))


def test_prompts_from_many_threads_end_with_the_mask_of_them_all() -> None:
    """Every prompt is answered once, whatever is refined meanwhile."""
    engine = SlowEngine(a_model(encode=1.0, decode=0.1), itertools.repeat(1.0))
    points = [(32, 32, 28 + k) for k in range(4)]

    def click(session: Session, point: tuple[int, int, int]) -> Callable[[], None]:
        return lambda: session.add_point(point, on_refined=lambda region: None) and None

    with open_session(engine) as session:
        session.set_image(an_image())
        threads = [threading.Thread(target=click(session, point)) for point in points]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert session.refined(WAIT_S)
        assert session.is_final
        given = session.prompts().points
        assert {point.zyx for point in given} == set(points)
        with open_session(FloodEngine()) as plain:
            plain.set_image(an_image())
            plain.set_prompts(ObjectPrompts(given))
            np.testing.assert_array_equal(session.mask, plain.mask)

"""Time: a mask comes before it is over, whatever the engine does; calls can be ended; the background makes way."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from flood import POLICY, FloodEngine, SlowEngine
from latency import a_model
from numpy.typing import NDArray

from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.errors import EngineError, GstkError, Interrupted, PromptError
from gstk.session import deadline
from gstk.session.deadline import Budget, Clock, Deadline, TimeUp
from gstk.session.scheduler import RESUMED
from gstk.session.session import Session


def an_image(side: int = 64) -> NDArray[np.uint8]:
    grid = np.indices((side, side, side))
    ball = ((grid - side // 2) ** 2).sum(0) <= (side // 5) ** 2
    return np.where(ball, 200, 20).astype(np.uint8)


def clicks(*points: tuple[int, int, int]) -> ObjectPrompts:
    return ObjectPrompts(tuple(Point(p, True) for p in points))


def slow_session(engine: SlowEngine, budget_s: float | None = None) -> Session:
    budget = None if budget_s is None else Budget(budget_s)
    return Session(engine, POLICY, model=engine.model, budget=budget)  # type: ignore[arg-type]


def test_a_deadline_counts_down_and_none_never_comes() -> None:
    soon, never = Deadline(60), Deadline()
    assert not never.is_set
    assert never.left_s == float("inf")
    assert soon.is_set
    assert 0 < soon.left_s <= 60
    assert never.sooner(0.01).left_s <= 0.01
    assert soon.sooner(900).left_s <= 60
    over = Deadline(0.01)
    time.sleep(0.02)
    assert over.left_s < 0


def test_a_budget_is_shared_and_never_empty() -> None:
    assert Budget(90, 6).left_s(objects=2, spent_s=4) == pytest.approx(26)
    assert Budget(90, 6).left_s(1, 100) > 0
    for wrong in ((0, 1), (-1, 1), (float("nan"), 1), (5, 0)):
        with pytest.raises(GstkError, match="expected above 0 s"):
            Budget(*wrong)  # type: ignore[arg-type]


def test_a_clock_runs_what_there_is_time_for_and_names_the_rest() -> None:
    def late(deadline: Deadline) -> str:
        raise TimeUp("late")

    clock = Clock(Deadline(60))
    assert clock.attempt("quick", 1, lambda deadline: "done") == "done"
    assert clock.compromises == ()
    assert clock.attempt("long", 61, lambda deadline: "done") is None
    assert clock.attempt("late", 1, late) is None
    later = clock.keeping(50)
    assert 9 < later.left_s <= 10
    assert not later.allows("long", 11)
    assert later.allows("short", 5)
    assert clock.compromises == later.compromises == ("long", "late")
    assert Clock(Deadline()).allows("anything", 1e9)


def three_clicks() -> dict[int, ObjectPrompts]:
    return {1: clicks((32, 32, 32), (30, 32, 32)), 2: clicks((40, 32, 32))}


@pytest.mark.parametrize("deaf", [False, True])
def test_a_mask_is_there_in_time_whatever_the_engine_does(deaf: bool) -> None:
    """Calls would take a minute and more, and can be interrupted or not."""
    engine = SlowEngine(a_model(), itertools.repeat(500.0), deaf)
    session = slow_session(engine)
    session.set_image(an_image())
    session.set_all(three_clicks(), within_s=1.0)
    assert session.report.spent_s < 30
    assert session.mask[32, 32, 32] in (1, 2)
    assert set(np.unique(session.mask)) <= {0, 1, 2}
    assert any("prompts alone" in note for note in session.report.compromises)
    engine.deaf = False
    session.close()


def test_with_time_enough_nothing_is_given_up() -> None:
    image = an_image()
    with slow_session(SlowEngine(a_model(), itertools.repeat(0.1))) as session:
        session.set_image(image)
        session.set_all(three_clicks(), within_s=60.0)
        assert session.report.compromises == ()
        assert session.report.budget_s == 60
        assert session.report.expected_s > 0
        assert set(session.report.object_s) == {1, 2}
        found = session.mask > 0
        assert 2 * (found & (image > 100)).sum() / (found.sum() + (image > 100).sum()) > 0.85


def test_a_target_chooses_windows_and_does_not_replace_the_network() -> None:
    """Each click's runs take longer than the target; a budget of the same seconds ends them."""
    image = an_image()
    model = a_model(encode=4.0, decode=1.0)
    targeted = Session(SlowEngine(model, itertools.repeat(1.0)), POLICY, model=model, click_within_s=0.05)  # type: ignore[arg-type]
    with targeted as session, slow_session(SlowEngine(model, itertools.repeat(0.01))) as free:
        session.set_image(image)
        session.add_point((32, 32, 32))
        free.set_image(image)
        free.add_point((32, 32, 32))
        assert session.report.budget_s == 0.05
        assert not any("prompts alone" in note for note in session.report.compromises)
        assert any("windows of" in note for note in session.report.compromises)
        window, finest = session.window(), free.window()
        assert window is not None
        assert finest is not None
        assert np.prod(window.shape) < np.prod(finest.shape)
        found = session.mask > 0
        assert 2 * (found & (image > 100)).sum() / (found.sum() + (image > 100).sum()) > 0.7
        session.set_all({1: clicks((32, 32, 32), (31, 32, 32))}, within_s=60.0)  # a time that is given counts
        assert session.report.budget_s == 60
    with pytest.raises(GstkError, match="above 0 s"):
        Session(FloodEngine(), POLICY, click_within_s=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("budget_s", "target_s", "given"), [(5.0, 60.0, 5.0), (60.0, 5.0, 5.0)])
def test_the_shorter_of_a_budget_and_a_target_counts(budget_s: float, target_s: float, given: float) -> None:
    model = a_model(encode=1e-3, decode=1e-3)
    session = Session(
        SlowEngine(model, itertools.repeat(0.0)),  # type: ignore[arg-type]
        POLICY,
        model=model,
        budget=Budget(budget_s),
        click_within_s=target_s,
    )
    with session, session.sibling() as sibling:
        sibling.set_image(an_image())
        sibling.add_point((32, 32, 32))
        assert sibling.report.budget_s == given
        sibling.set_all({1: clicks((32, 32, 32), (31, 32, 32)), 2: clicks((9, 9, 9))})
        assert sibling.report.budget_s == 2 * given


def test_a_session_goes_on_after_time_was_up() -> None:
    engine = SlowEngine(a_model(), itertools.chain([500.0], itertools.repeat(0.01)))
    session = slow_session(engine, budget_s=60)
    image = an_image()
    session.set_image(image)
    session.set_all({1: clicks((32, 32, 32))}, within_s=1.0)
    assert session.report.compromises
    assert 0 < (session.mask == 1).sum() < 500  # a ball at the click
    session.add_point((32, 33, 32))
    assert (session.mask == 1).sum() > 0.7 * (image > 100).sum()
    session.undo()
    session.undo()
    assert not session.mask.any()


def test_what_comes_without_the_network_keeps_to_what_was_said() -> None:
    engine = SlowEngine(a_model(), itertools.repeat(100.0))
    session = slow_session(engine, budget_s=0.2)
    session.set_image(np.zeros((50, 60, 70), np.uint8) + np.arange(70, dtype=np.uint8))
    box = Box.from_corners(((10, 12, 14), (30, 42, 54)))
    beside = Point((20, 27, 34), False)
    session.set_prompts(ObjectPrompts((beside, Point((45, 5, 5), True)), box))
    mask = session.mask == 1
    assert mask[45, 5, 5]
    assert not mask[20, 27, 34]
    assert mask[20, 35, 34]
    ellipsoid = 4 / 3 * np.pi * 10.5 * 15.5 * 20.5
    assert mask[10:31, 12:43, 14:55].sum() == pytest.approx(ellipsoid, rel=0.1)
    corner = mask[10:12, 12:14, 14:16]
    assert not corner.any()


def test_clicks_that_do_not_fit_one_after_the_other_are_taken_at_once() -> None:
    engine = SlowEngine(a_model(encode=1.0, decode=1000.0), itertools.repeat(0.001))
    session = slow_session(engine)
    session.set_image(an_image())
    many = clicks(*((32, 32, 28 + k) for k in range(8)))
    session.set_all({1: many}, within_s=20.0)
    assert any("taken at once" in note for note in session.report.compromises)
    assert session.mask[32, 32, 32] == 1


def test_a_given_mask_stays_where_clicks_are_taken_at_once() -> None:
    image = an_image()
    given = np.zeros(image.shape, bool)
    given[4:8, 4:8, 4:8] = True  # nothing in the image is there
    engine = SlowEngine(a_model(encode=1.0, decode=1000.0), itertools.repeat(0.001))
    session = slow_session(engine)
    session.set_image(image)
    session.set_mask(given)
    many = clicks(*((32, 32, 28 + k) for k in range(8)))
    session.set_all({1: many}, within_s=20.0)
    assert any("taken at once" in note for note in session.report.compromises)
    assert all(session.mask[point.zyx] == 1 for point in many.points)
    assert session.mask[given].all()


def test_the_mask_of_another_process_is_gone_on_from_where_time_is_short() -> None:
    image = an_image()
    previous = np.zeros(image.shape, np.uint16)
    previous[10:14, 10:14, 10:14] = 1  # what another session left, far from what this network would make
    engine = SlowEngine(a_model(encode=0.5, decode=300.0), itertools.repeat(0.001))
    with slow_session(engine) as session:
        session.set_image(image)
        said = clicks((11, 11, 11), (12, 12, 12), (32, 32, 32))
        session.set_all({1: said}, previous, within_s=10000.0)
        assert session.mask[13, 13, 13] == 0  # there was time to do all of it
        session.reset()
        session.set_all({1: said}, previous, within_s=50.0)
        assert session.mask[13, 13, 13] == 1
        assert session.mask[32, 32, 32] == 1
        assert RESUMED in session.report.compromises
        with pytest.raises(PromptError, match="previous mask"):
            session.set_all({1: said}, previous[:5], within_s=1.0)


def test_a_call_can_be_cancelled_and_changes_nothing() -> None:
    engine = SlowEngine(a_model(), itertools.repeat(0.01))
    session = slow_session(engine)
    session.set_image(an_image())
    session.add_point((32, 32, 32))
    engine.factors = itertools.repeat(1e6)
    before = session.mask.copy()
    done = threading.Event()

    def insist() -> None:
        while not done.wait(0.1):
            session.cancel()

    thread = threading.Thread(target=insist)
    thread.start()
    with pytest.raises(Interrupted):
        session.add_point((32, 32, 30), foreground=False)
    done.set()
    thread.join()
    np.testing.assert_array_equal(session.mask, before)
    engine.factors = itertools.repeat(0.01)
    session.add_point((32, 32, 30), foreground=False)
    assert session.mask[32, 32, 30] == 0
    session.undo()
    np.testing.assert_array_equal(session.mask, before)


def test_clicked_voxels_are_as_they_were_clicked_without_time_for_the_network() -> None:
    """Clicks lie nearer to each other than the balls that stand for them reach."""
    engine = SlowEngine(a_model(), itertools.repeat(1e6))
    session = slow_session(engine, 0.2)
    session.set_image(an_image())
    clicks = [((32, 32, 32), True), ((32, 32, 34), False), ((32, 33, 34), True), ((32, 33, 33), False)]
    session.set_prompts(ObjectPrompts(tuple(Point(zyx, foreground) for zyx, foreground in clicks)))
    assert any("prompts alone" in note for note in session.report.compromises)
    assert [bool(session.mask[zyx]) for zyx, _ in clicks] == [foreground for _, foreground in clicks]


def test_a_cancel_while_nothing_runs_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a later undo that computes a forgotten mask again, nor what is encoded in the background."""
    monkeypatch.setattr("gstk.session.state._HISTORY_BYTES", 0)
    engine = SlowEngine(a_model(), itertools.repeat(0.01))
    session = slow_session(engine)
    session.set_image(an_image())
    session.add_point((32, 32, 32))
    before = session.mask.copy()
    session.add_point((32, 32, 30), foreground=False)
    session.cancel()
    session.undo()
    np.testing.assert_array_equal(session.mask, before)
    engine.factors = itertools.repeat(0.5)
    session.set_image(an_image(), look_at="centre")
    session.cancel()
    session.add_point((32, 32, 32))
    np.testing.assert_array_equal(session.mask, before)


def test_an_undo_that_computes_can_be_cancelled_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gstk.session.state._HISTORY_BYTES", 0)
    engine = SlowEngine(a_model(), itertools.repeat(0.01))
    session = slow_session(engine)
    session.set_image(an_image())
    session.add_point((32, 32, 32))
    session.add_point((32, 32, 30), foreground=False)
    before = session.mask.copy()
    engine.factors = itertools.repeat(1e6)
    thread = threading.Timer(0.2, session.cancel)
    thread.start()
    with pytest.raises(Interrupted):
        session.undo()
    thread.join()
    np.testing.assert_array_equal(session.mask, before)
    engine.factors = itertools.repeat(0.01)
    session.undo()
    assert session.mask[32, 32, 30] == 1


class Counted(FloodEngine):
    """Tells which thread encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []

    def encode(self, image: NDArray[np.float32]):  # type: ignore[no-untyped-def]
        self.threads.append(threading.current_thread().name)
        return super().encode(image)


def test_a_window_is_encoded_ahead_and_used_by_a_click_near_it() -> None:
    engine, plain = Counted(), FloodEngine()
    image = an_image(100)
    with Session(engine, POLICY) as session, Session(plain, POLICY) as other:  # type: ignore[arg-type]
        session.set_image(image, look_at="centre")
        session.add_point((50, 50, 52))
        other.set_image(image)
        other.add_point((50, 50, 52))
        assert engine.threads[0].startswith("gstk-engine")
        assert len(engine.shapes) == len(plain.shapes)
        ahead, without = session.mask > 0, other.mask > 0
        assert 2 * (ahead & without).sum() / (ahead.sum() + without.sum()) > 0.9
        session.set_image(image, look_at=(20, 20, 20))
        assert session.window() is None
        session.add_point((50, 50, 50))  # far from there
        assert session.mask[50, 50, 50] == 1
        with pytest.raises(PromptError, match="inside the image"):
            session.set_image(image, look_at=(100, 0, 0))


def test_errors_of_an_engine_are_not_taken_for_lack_of_time() -> None:
    class Broken(FloodEngine):
        def encode(self, image: NDArray[np.float32]):  # type: ignore[no-untyped-def]
            raise EngineError("broken")

    session = Session(Broken(), POLICY, model=a_model(), budget=Budget(5))  # type: ignore[arg-type]
    session.set_image(an_image())
    with pytest.raises(EngineError, match="broken"):
        session.add_point((32, 32, 32))
    assert not session.mask.any()


def test_the_age_of_a_process_counts_its_start() -> None:
    code = "import time; time.sleep(1); from gstk.session.deadline import process_age_s; print(process_age_s())"
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True, env=os.environ
    )
    assert 1 <= float(run.stdout) <= time.monotonic() - began + 0.1


def test_the_age_of_a_process_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    exact = deadline.process_age_s()
    monkeypatch.setattr(deadline, "Path", lambda name: tmp_path / "not there")
    assert exact - 1.5 < deadline.process_age_s() < exact + 1.5  # the start of the system counts in whole seconds

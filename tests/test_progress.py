"""What a long command says in a log, and that a terminal gets a bar."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Run
from rich.console import Console

from gstk.cases import prepare as prepare_module
from gstk.cases.npz import Case, save_case
from gstk.cases.phantoms import generate_phantom
from gstk.cli import progress as progress_module
from gstk.cli.progress import LongWork, format_duration, log_interval_s
from gstk.core.geometry import Geometry


class Clock:
    """A monotonic clock that moves when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_a_line_has_totals_and_the_time_left(clock: Clock) -> None:
    with LongWork("evaluate", unit="cases") as work:
        clock.now += 40
        work.update(3, 20, "CT_a DSC 0.871")
        assert work.line() == "evaluate: 3 of 20 cases, CT_a DSC 0.871, 40 s so far, about 4 min left"
        work.update(20)
        assert work.line() == "evaluate: 20 of 20 cases, 40 s so far"


def test_shares_are_per_cent(clock: Clock) -> None:
    with LongWork("calibrate", total=1.0) as work:
        clock.now += 5
        work.update(0.25, text="region 32×32×32")
        assert work.line() == "calibrate: 25%, region 32×32×32, 5 s so far, about 15 s left"


def test_what_an_earlier_run_did_says_nothing_of_the_time_left(clock: Clock) -> None:
    with LongWork("evaluate", unit="cases") as work:
        work.update(10, 20)
        clock.now += 60
        work.update(11)
        assert work.line().endswith("60 s so far, about 9 min left")


def test_steps_count_themselves_and_may_be_more_than_thought(clock: Clock) -> None:
    with LongWork("export", 2, "steps") as work:
        amounts = []
        for number in range(3):
            clock.now += 2
            work.step(f"step {number}")
            amounts.append(work.line())
    assert [line.split(", ")[0] for line in amounts] == [
        "export: 0 of 2 steps",
        "export: 1 of 2 steps",
        "export: 2 of 3 steps",
    ]


def test_a_log_gets_lines_also_while_one_step_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "_FIRST_S", 0.01)
    told = threading.Event()
    line = LongWork.line
    monkeypatch.setattr(LongWork, "line", lambda self: (told.set(), line(self))[1])
    with LongWork("export", 4, "steps") as work:
        work.step("tracing the encoder")
        assert told.wait(60)
        work.say("a warning")
    lines = capsys.readouterr().err.splitlines()
    assert "a warning" in lines
    assert (
        re.fullmatch(r"export: 0 of 4 steps, tracing the encoder, \d+ s so far", lines[-1]) or lines[-1] == "a warning"
    )
    assert not [thread for thread in threading.enumerate() if thread.name == "gstk-progress"]


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with LongWork("evaluate", 1, "cases") as work:
        work.update(1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import rich.console

    def terminal(**options: Any) -> Console:
        return Console(**options, force_terminal=True, width=100)

    monkeypatch.setattr(rich.console, "Console", terminal)
    with LongWork("export", 4, "steps") as work:
        work.step("loading")
        work.step("tracing")
        work.say("a warning [x]")
        work._bar.refresh()
    shown = capsys.readouterr().err
    for said in ("export", "1 of 4 steps", "tracing", "a warning [x]"):
        assert said in shown


def test_a_log_of_hours_stays_short() -> None:
    assert [log_interval_s(seconds) for seconds in (0, 59, 60, 7200)] == [5, 5, 30, 30]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h"), (200_000, "2.3 days")]
)
def test_durations(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


def test_prepare_writes_to_a_log(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_FIRST_S", 0.01)
    for name in ("a", "b"):
        phantom = generate_phantom(1, (16, 16, 16))
        save_case(tmp_path / f"{name}.npz", Case(name, phantom.image, Geometry((16, 16, 16), phantom.spacing_mm)))
    told = threading.Event()
    line, prepare_one = LongWork.line, prepare_module._prepare_one

    def after_a_line(path: Path, *arguments: Any) -> prepare_module.PrepareResult:
        if path.name == "b.npz":
            told.clear()
            assert told.wait(60)
        return prepare_one(path, *arguments)

    monkeypatch.setattr(LongWork, "line", lambda self: (line(self), told.set())[0])
    monkeypatch.setattr(prepare_module, "_prepare_one", after_a_line)
    result = run("prepare", tmp_path, "-o", tmp_path / "out")
    assert result.code == 0
    assert re.search(r"^prepare: 1 of 2 sources, b\.npz, \d+ s so far", result.err, re.MULTILINE)

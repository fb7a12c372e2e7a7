"""Progress display of long work: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import typer

__all__ = ["LongWork", "format_duration", "log_interval_s"]

_FIRST_S, _LATER_S = 5.0, 30.0
"""Seconds between the lines of a log, in the first minute and after it, so that a log of hours stays short."""
_MINUTE_S = 60.0


def format_duration(seconds: float) -> str:
    """A duration in a readable unit: `45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def log_interval_s(so_far_s: float) -> float:
    """Seconds until the next line of a log, for work that has taken `so_far_s` so far."""
    return _FIRST_S if so_far_s < _MINUTE_S else _LATER_S


class LongWork:
    """Shows the progress of long work on stderr: the finished share, the time so far, and an estimate of the rest.

    On a terminal the display is a bar. Elsewhere it is a line every few seconds, even during one long step; work that
    ends before the first line prints nothing. Use the object as a context manager. Any thread may call its methods.
    """

    def __init__(self, title: str, total: float | None = None, unit: str = "") -> None:
        """Prepares the display; `__enter__` starts it.

        Args:
            title: name of the work, such as `export`.
            total: total number of steps, or 1.0 if `update` gets shares; None if a later `update` gives it.
            unit: unit of the steps, such as `cases`; empty for shares, which are shown in per cent.
        """
        from rich.console import Console

        self._title, self._total, self._unit = title, total, unit
        self._done, self._text = 0.0, ""
        self._console = Console(stderr=True)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._teller: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._paced_from = self._began, 0.0
        if self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
            times = (
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False),
            )
            self._bar = Progress(*columns, *times, console=self._console, transient=True)
            self._task = self._bar.add_task(self._title, total=self._total, amount=self._amount(), text="")
            self._bar.start()
        else:
            self._teller = threading.Thread(target=self._tell_regularly, name="gstk-progress", daemon=True)
            self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._teller is None:
            self._bar.stop()
        else:
            self._teller.join()

    def update(self, done: float, total: float | None = None, text: str = "") -> None:
        """Updates the display.

        Args:
            done: number of finished steps, or the finished share.
            total: total number of steps; None keeps the current total.
            text: description of the current step.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._began < 1:  # finished in an earlier run: says nothing about this run's speed
                self._paced_from = now, done
            self._done, self._text = done, text
            self._total = self._total if total is None else total
        if self._teller is None:
            self._bar.update(
                self._task, completed=done, total=self._total, amount=self._amount(), text=text, refresh=False
            )

    def step(self, text: str) -> None:
        """Counts a new step, for work that does not count its own steps.

        Args:
            text: description of the step.
        """
        begun = self._done + 1 if self._text else 0.0
        # There may be more steps than expected.
        total = None if self._total is None else max(self._total, begun + 1)
        self.update(begun, total, text)

    def say(self, line: str) -> None:
        """Prints a permanent line, above the bar if there is one."""
        if self._teller is None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            typer.echo(line, err=True)

    def line(self) -> str:
        """The line for a log: `evaluate: 3 of 20 cases, CT_a DSC 0.871, 40 s so far, about 4 min left`."""
        with self._lock:
            done, total, text = self._done, self._total, self._text
            began, before = self._paced_from
        now = time.monotonic()
        parts = [self._amount(), text, f"{format_duration(now - self._began)} so far"]
        if total and before < done < total:
            parts.append(f"about {format_duration((now - began) * (total - done) / (done - before))} left")
        return f"{self._title}: {', '.join(part for part in parts if part)}"

    def _amount(self) -> str:
        if self._total is None:
            return ""
        if not self._unit:
            return f"{self._done / self._total:.0%}"
        return f"{self._done:.0f} of {self._total:.0f} {self._unit}"

    def _tell_regularly(self) -> None:
        while not self._ended.wait(log_interval_s(time.monotonic() - self._began)):
            typer.echo(self.line(), err=True)

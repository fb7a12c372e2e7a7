"""Time limits: of a case, of a call, and of the steps of one object's update."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gstk.core.processes import start_ticks
from gstk.errors import GstkError

__all__ = ["Budget", "Clock", "Deadline", "TimeUp", "process_age_s"]

_LEAST_S = 0.05
_Result = TypeVar("_Result")


class TimeUp(GstkError):
    """The time for a call is over; the mask is made from what was computed so far."""


class Deadline:
    """A moment by which an answer must be there; or none."""

    def __init__(self, seconds: float | None = None, *, is_firm: bool = True) -> None:
        """Begins now.

        Args:
            seconds: from now; None is never.
            is_firm: whether a run of the network that is late is ended. If not, the time decides what is begun, and
                the answer that a prompt needs comes even if it is late.
        """
        self._is_firm = is_firm
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until then; infinite, or negative when it has passed."""
        return self._end - time.monotonic()

    @property
    def is_set(self) -> bool:
        """Whether there is such a moment."""
        return self._end < math.inf

    @property
    def of_needed(self) -> Deadline:
        """The deadline of what a prompt's answer cannot do without: the same if it is firm, else none."""
        return self if self._is_firm else Deadline()

    def sooner(self, seconds: float) -> Deadline:
        """The same, but `seconds` from now at the latest."""
        earlier = Deadline(seconds, is_firm=self._is_firm)
        earlier._end = min(earlier._end, self._end)
        return earlier


@dataclass(frozen=True)
class Budget:
    """Time for the objects of a case, as the challenge counts it: by the wall clock, the start of processes included.

    Attributes:
        seconds: for an object, in all calls.
        calls: how many calls share them, each a new process or not.
    """

    seconds: float
    calls: int = 1

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.calls >= 1):
            raise GstkError(
                f"got a budget of {self.seconds} s for {self.calls} calls, expected above 0 s for one call or more"
            )

    def left_s(self, objects: int, spent_s: float) -> float:
        """Seconds of one call that are left for its objects after `spent_s`; always above 0."""
        return max(_LEAST_S, objects * self.seconds / self.calls - spent_s)


class Clock:
    """The time for one object's update, and what was skipped to keep to it.

    Every optional step asks it (`allows`), or runs through it (`attempt`), so that one rule applies to all: a step
    is skipped that may take longer than is left, or that was not done in time.

    Attributes:
        deadline: when the time is up.
    """

    def __init__(self, deadline: Deadline, _compromises: dict[str, None] | None = None) -> None:
        self.deadline = deadline
        self._compromises: dict[str, None] = {} if _compromises is None else _compromises

    @property
    def compromises(self) -> tuple[str, ...]:
        """What was skipped, each named once, in order."""
        return tuple(self._compromises)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; infinite where there is none, negative when it has passed."""
        return self.deadline.left_s

    def keeping(self, seconds: float) -> Clock:
        """The same clock with so many seconds kept back for what comes later."""
        return Clock(self.deadline.sooner(self.left_s - seconds), self._compromises)

    def skip(self, step: str) -> None:
        """Notes that a step was skipped."""
        self._compromises[step] = None

    def allows(self, step: str, seconds: float) -> bool:
        """Whether there are so many seconds for a step; where not, it is noted as skipped."""
        if seconds <= self.left_s:
            return True
        self.skip(step)
        return False

    def attempt(self, step: str, seconds: float, run: Callable[[Deadline], _Result]) -> _Result | None:
        """The result of a step, or None, noted as skipped, where it may take too long or was not done in time.

        Args:
            step: its name in a report.
            seconds: what it may take.
            run: does it, and raises `TimeUp` at the deadline that it is given.
        """
        if self.allows(step, seconds):
            try:
                return run(self.deadline)
            except TimeUp:
                self.skip(step)
        return None


def process_age_s() -> float:
    """Seconds since this process was started."""
    ticks = start_ticks(os.getpid())
    with suppress(OSError, ValueError, IndexError):
        if ticks is not None:
            uptime_s = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
            return max(0.0, uptime_s - ticks / os.sysconf("SC_CLK_TCK"))
    import psutil

    return max(0.0, time.time() - float(psutil.Process().create_time()))

"""Seconds that a session's network takes, apart from what gstk does before and after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gstk.engines.base import Engine

__all__ = ["NetworkTime", "watched_network"]


class NetworkTime:
    """Seconds of encodes and decodes since they were last taken."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def take(self) -> float:
        """The seconds, by the clock; begins again at 0."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call whose seconds are added."""

        def run(*given: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*given)
            finally:
                self._seconds += time.perf_counter() - began

        return run


@contextmanager
def watched_network() -> Iterator[NetworkTime]:
    """A block in which the encodes and decodes of all engines are timed."""
    watch = NetworkTime()
    before = Engine.encode, Engine.decode
    Engine.encode, Engine.decode = (watch.timed(call) for call in before)  # type: ignore[method-assign]
    try:
        yield watch
    finally:
        Engine.encode, Engine.decode = before  # type: ignore[method-assign]

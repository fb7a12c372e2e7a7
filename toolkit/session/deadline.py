"""Time that is left, and calls of an engine that nobody waits for longer than that."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gstk.calibration.model import LatencyModel
from gstk.engines.base import Embedding, Engine, Shape
from gstk.errors import GstkError, Interrupted

__all__ = ["Budget", "Deadline", "TimeUp", "TimedEngine", "process_age_s"]

_REMEMBERED = 4
_LEAST_S = 0.05
_Result = TypeVar("_Result")


class TimeUp(GstkError):
    """The time for a call is over; what there is has to do."""


class Deadline:
    """A moment by which an answer must be there; or none."""

    def __init__(self, seconds: float | None = None) -> None:
        """Begins now.

        Args:
            seconds: from now; None is never.
        """
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until then; infinite, or negative when it has passed."""
        return self._end - time.monotonic()

    @property
    def is_set(self) -> bool:
        """Whether there is such a moment."""
        return self._end < math.inf

    def sooner(self, seconds: float) -> Deadline:
        """The same, but `seconds` from now at the latest."""
        found = Deadline(seconds)
        found._end = min(found._end, self._end)
        return found


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
        """Seconds of one call that are left for its objects when `spent_s` are gone; never none at all."""
        return max(_LEAST_S, objects * self.seconds / self.calls - spent_s)


class TimedEngine:
    """An engine whose calls end when their time is up, and what they are expected to take.

    Attributes:
        engine: the engine.
        model: what its calls cost; None where nothing is known.
    """

    def __init__(self, engine: Engine, model: LatencyModel | None = None) -> None:
        self.engine, self.model = engine, model
        self._ratios: deque[float] = deque(maxlen=_REMEMBERED)
        self._seen: set[tuple[str, Shape]] = set()
        self._worker: ThreadPoolExecutor | None = None
        self._cancelled = threading.Event()
        self._cancelling = threading.Lock()
        self._is_running = False

    @property
    def slowdown(self) -> float:
        """How many times longer than the model says the latest calls took, at least 1."""
        return max(1.0, sum(self._ratios) / len(self._ratios)) if self._ratios else 1.0

    def encode_s(self, shape: Shape, cautious: bool = False) -> float:
        """Seconds that an encode will take; 0 where nothing is known."""
        return self._modelled_encode_s(shape, cautious) * self.slowdown

    def decode_s(self, shape: Shape, objects: int = 1, points: int = 1, cautious: bool = False) -> float:
        """Seconds that a decode will take; 0 where nothing is known."""
        return self._modelled_decode_s(shape, objects, points, cautious) * self.slowdown

    def encode(self, image: NDArray[np.float32], deadline: Deadline) -> Embedding:
        """`Engine.encode`.

        Raises:
            TimeUp: it was not done in time.
            Interrupted: by `cancel`.
            EngineError: see `Engine.encode`.
        """
        shape = (image.shape[2], image.shape[3], image.shape[4])
        found = self._timed(lambda: self.engine.encode(image), self._modelled_encode_s(shape), deadline)
        self._seen.add(("encode", shape))
        return found

    def decode(
        self, embedding: Embedding, coords: NDArray[np.float32], labels: NDArray[np.int64], deadline: Deadline
    ) -> NDArray[np.float32]:
        """`Engine.decode`; raises as `encode`."""
        shape = embedding.roi_shape
        modelled_s = self._modelled_decode_s(shape, *labels.shape)
        found = self._timed(lambda: self.engine.decode(embedding, coords, labels), modelled_s, deadline)
        self._seen.add(("decode", shape))
        return found

    def ahead(self, call: Callable[[], _Result]) -> Future[_Result]:
        """Runs a call in the background, after those that run there already."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "gstk-engine")
        return self._worker.submit(call)

    @contextmanager
    def cancellable(self) -> Iterator[None]:
        """A block that `cancel` ends."""
        with self._cancelling:
            self._cancelled.clear()
            self._is_running = True
        try:
            yield
        finally:
            with self._cancelling:
                self._is_running = False

    def cancel(self) -> None:
        """Ends the `cancellable` block that another thread is in: it raises `Interrupted`. Outside of one, nothing."""
        with self._cancelling:
            if self._is_running:
                self._cancelled.set()
                self.engine.interrupt()

    def stop(self) -> None:
        """Ends what runs in the background; the engine stays open."""
        if self._worker is not None:
            self.engine.interrupt()
            self._worker.shutdown(cancel_futures=True)
            self._worker = None

    def close(self) -> None:
        """Ends what runs, and closes the engine."""
        self.stop()
        self.engine.close()

    def _modelled_encode_s(self, shape: Shape, cautious: bool = False) -> float:
        if self.model is None:
            return 0.0
        return self.model.encode_s(shape, first=("encode", shape) not in self._seen, cautious=cautious)

    def _modelled_decode_s(self, shape: Shape, objects: int, points: int, cautious: bool = False) -> float:
        if self.model is None:
            return 0.0
        first = ("decode", shape) not in self._seen
        return self.model.decode_s(shape, objects, points, first=first, cautious=cautious)

    def _timed(self, call: Callable[[], _Result], modelled_s: float, deadline: Deadline) -> _Result:
        if self._cancelled.is_set():
            raise Interrupted("interrupted by cancel")
        began = time.perf_counter()
        found = self.wait(self.ahead(call), deadline) if deadline.is_set else call()
        if modelled_s > 0:
            self._ratios.append((time.perf_counter() - began) / modelled_s)
        return found

    def wait(self, future: Future[_Result], deadline: Deadline) -> _Result:
        """The result of what runs in the background.

        Raises:
            TimeUp: it was not done in time, and is ended.
            Interrupted: by `cancel`.
        """
        try:
            return future.result(timeout=max(0.0, deadline.left_s) if deadline.is_set else None)
        except TimeoutError:
            if not future.cancel():  # it has begun
                self.engine.interrupt()
            raise TimeUp("the time is up") from None


def process_age_s() -> float:
    """Seconds since this process was started, as Linux tells; 0 where it does not."""
    try:
        # proc(5): field 22 of stat, after a name that may hold spaces, is the start in clock ticks after boot.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0]) - started)
    except (OSError, ValueError, IndexError):
        return 0.0

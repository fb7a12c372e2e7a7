"""An engine whose calls end when their time is up, or when they are cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gstk.engines.base import Embedding, Engine
from gstk.errors import Interrupted
from gstk.session.costs import Costs
from gstk.session.deadline import Deadline, TimeUp

__all__ = ["TimedEngine"]

_Result = TypeVar("_Result")


class TimedEngine:
    """Runs an engine's calls against a deadline, and records their time.

    Attributes:
        engine: the engine.
        costs: records the time of each call.
    """

    def __init__(self, engine: Engine, costs: Costs) -> None:
        self.engine, self.costs = engine, costs
        self._worker: ThreadPoolExecutor | None = None
        self._cancelled = threading.Event()
        self._cancelling = threading.Lock()
        self._is_running = False

    def encode(self, image: NDArray[np.float32], deadline: Deadline) -> Embedding:
        """`Engine.encode`.

        Raises:
            TimeUp: it was not done in time.
            Interrupted: by `cancel`.
            EngineError: see `Engine.encode`.
        """
        began = time.perf_counter()
        embedding = self._run(lambda: self.engine.encode(image), deadline)
        self.costs.ran("encode", embedding.roi_shape, time.perf_counter() - began)
        return embedding

    def decode(
        self, embedding: Embedding, coords: NDArray[np.float32], labels: NDArray[np.int64], deadline: Deadline
    ) -> NDArray[np.float32]:
        """`Engine.decode`; raises as `encode`."""
        began = time.perf_counter()
        logits = self._run(lambda: self.engine.decode(embedding, coords, labels), deadline)
        self.costs.ran("decode", embedding.roi_shape, time.perf_counter() - began, *labels.shape)
        return logits

    def class_features(self, image: NDArray[np.float32], deadline: Deadline) -> NDArray[np.float32]:
        """`Engine.class_features`; raises as `encode`."""
        z, y, x = image.shape[2:]
        began = time.perf_counter()
        features = self._run(lambda: self.engine.class_features(image), deadline)
        self.costs.ran("classes", (z, y, x), time.perf_counter() - began)
        return features

    def ahead(self, call: Callable[[], _Result]) -> Future[_Result]:
        """Runs a call in the background, after those that run there already."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "gstk-engine")
        return self._worker.submit(call)

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

    def _run(self, call: Callable[[], _Result], deadline: Deadline) -> _Result:
        if self._cancelled.is_set():
            raise Interrupted("interrupted by cancel")
        return self.wait(self.ahead(call), deadline) if deadline.is_set else call()

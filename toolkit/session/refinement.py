"""Progressive answers: a mask from a coarse window at once, and the finer one afterwards, in the background."""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gstk.core.regions import Region, voxel_count
from gstk.errors import Interrupted

__all__ = ["Refinement"]

PATIENCE_S = 0.3
"""A prompt waits for a finer answer that is expected within so many seconds; else it ends that, which begins anew."""
_INSIST_S = 0.02


class Refinement:
    """Computes finer answers in a thread of its own, and makes way for prompts."""

    def __init__(self, refine: Callable[[], Region], cancel: Callable[[], None]) -> None:
        """Begins with nothing to do.

        Args:
            refine: computes the finer masks and puts them into place; returns the region that changed.
            cancel: ends `refine` in another thread, which raises `Interrupted`; may have to be repeated.
        """
        self._refine, self._cancel = refine, cancel
        self._expected_end_s = math.inf
        self._thread: threading.Thread | None = None
        self._on_refined: Callable[[Region], None] | None = None
        self._makes_way = False
        self._error: BaseException | None = None

    def start(self, on_refined: Callable[[Region], None]) -> None:
        """Begins, or goes on after `make_way`.

        Args:
            on_refined: called in the background with the region that changed, where any did.
        """
        self._on_refined, self._makes_way, self._error = on_refined, False, None
        self._expected_end_s = math.inf
        atexit.register(self.drop)  # a process that ends would tear the engine down under a thread that computes
        self._thread = threading.Thread(target=self._run, args=(on_refined,), name="gstk-refine", daemon=True)
        self._thread.start()

    def make_way(self) -> Callable[[Region], None] | None:
        """Ends what runs, or waits for it where that is nearly done.

        Returns:
            The callback of what was ended and has to `start` again; None where nothing was.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return None
        end = time.monotonic() + PATIENCE_S
        if self._expected_end_s <= end:
            thread.join(max(0.0, end - time.monotonic()))
        self._makes_way = True
        while thread.is_alive() and self._on_refined is not None:
            self._cancel()
            thread.join(_INSIST_S)
        self._thread = None
        return self._on_refined

    def expect(self, seconds: float) -> None:
        """Says that what runs is expected to end so many seconds from now."""
        self._expected_end_s = time.monotonic() + seconds

    @contextmanager
    def holding(self, lock: threading.RLock) -> Iterator[None]:
        """A block that holds a lock, which the prompt that this makes way for may hold.

        Raises:
            Interrupted: it is to make way before it has the lock.
        """
        while not lock.acquire(timeout=_INSIST_S):
            if self._makes_way and threading.current_thread() is self._thread:
                raise Interrupted("a prompt came")
        try:
            yield
        finally:
            lock.release()

    def drop(self) -> None:
        """Ends what runs; it does not begin again."""
        self.make_way()
        self._on_refined = None

    def wait(self, timeout_s: float | None) -> bool:
        """Waits for what runs; whether it came to its end, with the finer masks or with none to make.

        Raises:
            GstkError: what the finer answer failed of; the coarse mask stays.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (thread := self._thread) is not None and thread is not threading.current_thread():
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            thread.join(left_s)
            if thread.is_alive():
                return False
            if thread is self._thread:  # else another prompt began it anew
                break
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._on_refined is None

    def _run(self, on_refined: Callable[[Region], None]) -> None:
        try:
            self._run_once(on_refined)
        finally:
            if self._thread is threading.current_thread():  # else the callback began it anew
                atexit.unregister(self.drop)

    def _run_once(self, on_refined: Callable[[Region], None]) -> None:
        try:
            changed = self._refine()
        except Interrupted:
            if not self._makes_way:  # somebody cancelled it
                self._on_refined = None
            return
        except BaseException as error:
            self._error, self._on_refined = error, None
            return
        self._on_refined = None
        if voxel_count(changed):
            on_refined(changed)

"""The compute thread: runs the engine's calls of all sessions, one after the other."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gstk.errors import Interrupted

__all__ = ["ComputeThread", "Job", "Stopping"]

_RETRY_S = 0.01
_Result = TypeVar("_Result")


class Stopping(Interrupted):
    """The server is stopping, and ended a call or did not begin it."""


@dataclass(eq=False)
class Job:
    """A call that waits or runs.

    Attributes:
        owner: the lease or client that made the call.
        name: of the task, for messages.
        call: what is run.
        cancel: ends it while it runs, from another thread; may have to be repeated.
        future: its result.
        began_s: when it began, by the monotonic clock; None while it waits.
        unwanted: whether somebody asked to end it.
    """

    owner: object
    name: str
    call: Callable[[], Any]
    cancel: Callable[[], None]
    future: Future[Any] = field(default_factory=Future)
    began_s: float | None = None
    unwanted: bool = False


class ComputeThread:
    """Runs jobs in the order in which they came. `run`, `cancel` and `close` are for the event loop's thread."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: list[Job] = []
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="gstk-compute", daemon=True)
        self._thread.start()

    async def run(
        self,
        owner: object,
        name: str,
        call: Callable[[], _Result],
        cancel: Callable[[], None],
        gone: Callable[[], Awaitable[object]] | None = None,
    ) -> _Result:
        """Runs a call and returns its result.

        Args:
            gone: returns when nobody waits for the result any more; the call is then ended.

        Raises:
            Interrupted: by `cancel`, `close`, or because the caller was gone. What the call raises besides.
        """
        if self._closed:
            raise Stopping("the server is stopping")
        job = Job(owner, name, call, cancel)
        self._jobs.append(job)
        self._waiting.put(job)
        result = asyncio.wrap_future(job.future)
        watcher = None if gone is None else asyncio.ensure_future(self._end_when(gone, job))
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not job.future.cancelled():  # it is the caller that was cancelled
                await self._end(job)
                raise
            raise (Stopping if self._closed else Interrupted)(f"{name} was ended before it began") from None
        except Interrupted:
            if self._closed:
                raise Stopping(f"{name} was ended: the server is stopping") from None
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
            self._jobs.remove(job)

    def jobs(self) -> list[Job]:
        """What runs and waits, in order."""
        return list(self._jobs)

    async def cancel(self, owner: object, name: str | None = None) -> bool:
        """Ends what runs and waits for an owner, or those calls of a name alone; says whether there was anything."""
        jobs = [job for job in self._jobs if job.owner is owner and name in (None, job.name)]
        for job in jobs:
            await self._end(job)
        return bool(jobs)

    async def close(self) -> None:
        """Ends everything, and the thread."""
        if not self._closed:
            self._closed = True
            for job in reversed(self._jobs):
                await self._end(job)
            self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _end(self, job: Job) -> None:
        job.unwanted = True
        job.future.cancel()
        while not job.future.done():
            # A call that has only just begun may not heed the first of these.
            if job.began_s is not None:
                job.cancel()
            await asyncio.sleep(_RETRY_S)

    async def _end_when(self, gone: Callable[[], Awaitable[object]], job: Job) -> None:
        await gone()
        await self._end(job)

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            job.began_s = time.monotonic()
            try:
                result = self._attempt(job)
            except BaseException as error:
                with suppress(Exception):
                    job.future.set_exception(error)
            else:
                job.future.set_result(result)

    @staticmethod
    def _attempt(job: Job) -> Any:
        try:
            return job.call()
        except Interrupted:
            if job.unwanted:
                raise
            return job.call()  # another's call was to end, and this one had begun meanwhile

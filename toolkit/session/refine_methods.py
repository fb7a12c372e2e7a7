"""First answers in coarse windows and the finer ones that follow, and the time that each may take."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gstk.core.regions import Region, union
from gstk.engines.failures import memory_errors
from gstk.session.costs import Costs
from gstk.session.deadline import Budget
from gstk.session.refinement import Refinement
from gstk.session.scheduler import Schedule, Scheduler
from gstk.session.segmenter import ObjectSegmenter
from gstk.session.state import ImageState

__all__ = ["RefineMethods"]


class RefineMethods(ABC):
    """The part of a session that answers at once and refines afterwards.

    `_lock` guards the session's state, and calls hold it. `_computing` is held while the engine is used; in the
    background without `_lock`, so that the mask can be read meanwhile.
    """

    _lock: threading.RLock
    _computing: threading.RLock
    _refinement: Refinement
    _scheduler: Scheduler
    _segmenter: ObjectSegmenter
    _costs: Costs
    _image: ImageState | None
    _budget: Budget | None
    _click_within_s: float | None

    @abstractmethod
    def _current(self) -> ImageState:
        """The image that is open.

        Raises:
            GstkError: there is none.
        """

    @property
    def is_final(self) -> bool:
        """Whether no mask is a first, coarse answer that `refine` would make finer."""
        with self._lock:
            return self._image is None or not any(state.is_coarse for state in self._image.objects.values())

    @memory_errors("refine the masks")
    def refine(self) -> Region:
        """Replaces first, coarse answers by what the prompts give without `coarse_first`.

        Prompts of another thread are not held up: masks that they change meanwhile stay as those prompts made them.

        Returns:
            The slices (z,y,x) of the volume outside which no mask changed.

        Raises:
            Interrupted: by `cancel`; nothing has changed.
        """
        with self._refinement.holding(self._lock):
            image = self._current()
            coarse = {k: state for k, state in image.objects.items() if state.is_coarse}
        if not coarse:
            return union(None, None)
        with self._computing, self._segmenter.engine.cancellable():
            within_s, is_firm = self._time_for(len(coarse), None, has_target=False)
            prompts = {k: state.prompts for k, state in coarse.items()}
            schedule = self._scheduler.schedule(image, prompts, None, within_s, is_firm)
            seconds = schedule.expected_s or self._costs.measured_encode_s(
                planned.window.shape for planned in schedule.plan.windows
            )
            self._refinement.expect(seconds)
            deadline = self._costs.deadline(within_s, image.source.volume.size, is_firm=is_firm)
            updated, _ = self._scheduler.run(image, schedule, deadline)
        with self._refinement.holding(self._lock):
            if image is not self._image:
                return union(None, None)
            return image.replace_coarse({k: (coarse[k], fine) for k, fine in updated.items()})

    def refined(self, timeout_s: float | None = None) -> bool:
        """Waits for the finer masks of prompts with `on_refined`.

        Args:
            timeout_s: most seconds to wait; None is any time.

        Returns:
            Whether there is nothing left to wait for; False where the time ran out.

        Raises:
            GstkError: a finer mask could not be made, for a reason that the message gives; the coarse one stays.
        """
        return self._refinement.wait(timeout_s)

    @contextmanager
    def _making_way(self, on_refined: Callable[[Region], None] | None = None) -> Iterator[None]:
        """A block that has the engine to itself; what was refined in the background goes on after it.

        Args:
            on_refined: the callback of what the block adds; None is the one of what was ended for it.
        """
        ended = self._refinement.make_way()
        try:
            with self._computing:
                yield
        finally:
            on_refined = on_refined or ended
            if on_refined is not None and not self.is_final:
                self._refinement.start(on_refined)
            elif ended is not None:
                self._refinement.drop()

    def _draft(self, image: ImageState, schedule: Schedule, target_s: float | None) -> Schedule:
        """The schedule of a first, coarse answer where that saves time, else the same.

        Args:
            target_s: seconds for each object; None takes windows of half the resolution.
        """
        max_voxels = None
        if target_s is not None and schedule.plan.windows:
            within_s = target_s * len(schedule.prompts)
            max_voxels = self._scheduler.plan(image, schedule.prompts, within_s, is_firm=False).policy.max_voxels
        return self._scheduler.coarse(image, schedule, max_voxels) or schedule

    def _time_for(self, objects: int, within_s: float | None, *, has_target: bool = True) -> tuple[float | None, bool]:
        """Seconds of a call for so many objects, None for no limit; and whether its mask has to be there by then.

        Args:
            within_s: what the caller gave it; None is the session's budget and target, whichever is less.
            has_target: whether the session's target counts.
        """
        if within_s is not None:
            return within_s, True
        budget_s = math.inf if self._budget is None else self._budget.left_s(objects, 0.0)
        target_s = math.inf if self._click_within_s is None or not has_target else objects * self._click_within_s
        seconds = min(budget_s, target_s)
        return (None if seconds == math.inf else seconds), budget_s <= target_s

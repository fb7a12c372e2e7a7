"""Plans and runs one call of a session: windows, the state that each object is updated from, its share of the time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gstk.calibration import memory
from gstk.core.prompts import ObjectPrompts
from gstk.core.window import WindowPolicy
from gstk.session.costs import WindowCost
from gstk.session.deadline import Deadline
from gstk.session.planner import Plan, can_start, make_plan
from gstk.session.segmenter import ObjectSegmenter, coarser_window, lies_in_window_ahead
from gstk.session.state import ImageState, ObjectState, resume_from_mask

__all__ = ["RESUMED", "Schedule", "Scheduler"]

COARSER = 8
"""How many times fewer voxels a first, coarse answer's windows have: half the resolution along each axis."""
SOON_S = 0.5
"""An answer that is expected within so many seconds needs no coarse one before it."""
MOST_COARSE = 0.5
"""Most voxels of a coarse window, over those of the final one, for which a first answer in it is worth its time."""
RESUMED = "an answer to all clicks: the last click corrects the previous mask"


@dataclass(frozen=True)
class Schedule:
    """What a call will do.

    Attributes:
        prompts: by object id.
        plan: the first windows of objects that have none yet.
        states: what each object is updated from.
        expected_s: seconds of all; 0 without a latency model.
        compromises: what is skipped to stay in time.
    """

    prompts: Mapping[int, ObjectPrompts]
    plan: Plan
    states: Mapping[int, ObjectState]
    expected_s: float
    compromises: tuple[str, ...]

    @property
    def order(self) -> list[int]:
        """Objects of one window follow each other, so that it is encoded once however small the cache is."""
        planned = [k for window in self.plan.windows for k in window.objects]
        return [*planned, *(k for k in self.prompts if k not in planned)]


class Scheduler:
    """Plans the calls of a session, and runs them.

    Attributes:
        segmenter: updates one object.
        policy: how windows are made where there is time.
    """

    def __init__(self, segmenter: ObjectSegmenter, policy: WindowPolicy) -> None:
        self.segmenter, self.policy = segmenter, policy
        self._costs = segmenter.costs

    def plan(
        self,
        image: ImageState,
        prompts: Mapping[int, ObjectPrompts],
        within_s: float | None,
        once: bool = False,
        is_firm: bool = True,
    ) -> Plan:
        """The plan of the objects whose window has to be chosen yet; see `make_plan`."""
        model = self._costs.model
        # The image's own training window and finest spacing stay.
        policy = replace(self.policy, training_window=image.policy.training_window, min_mm=image.policy.min_mm)
        fresh = {k: own for k, own in prompts.items() if can_start(own) and not _has_window(image, k)}
        return make_plan(
            image.geometry,
            fresh,
            policy,
            model,
            budget_s=within_s,
            memory_bytes=None if model is None else model.base_bytes + memory.free_bytes(),
            slowdown=self._costs.slowdown,
            once=once,
            is_firm=is_firm,
        )

    def schedule(
        self,
        image: ImageState,
        prompts: Mapping[int, ObjectPrompts],
        previous: NDArray[np.integer] | None,
        within_s: float | None,
        is_firm: bool = True,
    ) -> Schedule:
        """What a call will do; nothing runs.

        Args:
            prompts: by object id, only those that changed.
            previous: object ids (z,y,x) before the last click on each object; where there is no time to answer all
                clicks again, the last click corrects this mask.
            within_s: seconds for all of them; None is any time.
            is_firm: see `make_plan`.
        """
        plan = self.plan(image, prompts, within_s, is_firm=is_firm)
        states = {k: image.objects.get(k, ObjectState()) for k in prompts}
        compromises = plan.compromises
        if plan.compromises and previous is not None:
            resumed = {k: resume_from_mask(previous, k, prompts[k], image) for k in plan.window_by_object}
            resumed = {k: state for k, state in resumed.items() if state.region is not None}
            if resumed:
                states |= resumed
                plan = self.plan(image, prompts, within_s, once=True, is_firm=is_firm)
                compromises = (RESUMED, *plan.compromises)
        return Schedule(prompts, plan, states, self._expected_s(image, plan, prompts), compromises)

    def coarse(self, image: ImageState, schedule: Schedule, max_voxels: int | None = None) -> Schedule | None:
        """The schedule of a first answer in coarser windows of the same field of view; its states are not final.

        Args:
            schedule: of the final answer.
            max_voxels: of the coarse windows; None is `COARSER` times fewer than the final ones have.

        Returns:
            The schedule; None where it would save little: windows are small or encoded already, or the final answer is
            expected soon.
        """
        expected_s = schedule.expected_s or self._costs.measured_encode_s(p.window.shape for p in schedule.plan.windows)
        if expected_s < SOON_S and not any(state.is_coarse for state in schedule.states.values()):
            return None
        fine = schedule.plan.policy
        if max_voxels is None:
            max_voxels = fine.max_voxels // COARSER
        policy = replace(fine, max_voxels=max(max_voxels, fine.min_side**3), is_draft=True)
        windows = []
        for planned in schedule.plan.windows:
            window = coarser_window(image.geometry, planned.window, policy)
            share = float(np.prod(window.shape) / np.prod(planned.window.shape))
            cost = planned.cost
            cost = WindowCost(share * cost.encode_s, share * cost.decode_s, share * cost.p95_s, cost.peak_bytes)
            windows.append(replace(planned, window=window, cost=cost))
            if all(_goes_on_coarse(schedule.states[k], schedule.prompts[k]) for k in planned.objects):
                continue  # in the window of the first answer, with a decode alone
            is_ready = planned.window in self.segmenter.embeddings
            if image.ahead is not None and image.ahead[1].done():
                is_ready = is_ready or all(lies_in_window_ahead(image, schedule.prompts[k]) for k in planned.objects)
            if is_ready or share > MOST_COARSE:
                return None
        if not windows:
            return None
        plan = replace(schedule.plan, windows=tuple(windows), policy=policy, second_window_s=0.0)
        return replace(schedule, plan=plan, expected_s=self._expected_s(image, plan, schedule.prompts), compromises=())

    def run(
        self, image: ImageState, schedule: Schedule, deadline: Deadline
    ) -> tuple[dict[int, ObjectState], dict[int, float]]:
        """Updates all objects of a schedule; each gets its share of the time that is left.

        Returns:
            Object id → its new state, and → the seconds that it took.
        """
        policy = image.policy
        if schedule.plan.windows:
            image.policy = schedule.plan.policy
        updated: dict[int, ObjectState] = {}
        object_s: dict[int, float] = {}
        order = schedule.order
        try:
            for index, k in enumerate(order):
                share = deadline.sooner(deadline.left_s / (len(order) - index))
                window = schedule.plan.window_by_object.get(k)
                began = time.perf_counter()
                updated[k] = self.segmenter.update(image, schedule.states[k], schedule.prompts[k], window, share)
                object_s[k] = time.perf_counter() - began
        finally:
            if image.policy.is_draft:  # this answer alone is
                image.policy = policy
        return updated, object_s

    def _expected_s(self, image: ImageState, plan: Plan, prompts: Mapping[int, ObjectPrompts]) -> float:
        """Seconds of a plan and of the updates of objects that need no new window; 0 without a latency model."""
        if self._costs.model is None:
            return 0.0
        planned = plan.window_by_object
        seconds = plan.expected_s
        for k, own in prompts.items():
            state = image.objects.get(k, ObjectState())
            window = planned.get(k, state.window)
            seconds += self._costs.update_s(image, state, own, window, k in planned, self.segmenter.extra)
        return seconds


def _goes_on_coarse(state: ObjectState, prompts: ObjectPrompts) -> bool:
    return state.is_coarse and state.is_extended_by(prompts)


def _has_window(image: ImageState, object_id: int) -> bool:
    """Whether an object keeps its window. Where its mask was made without the network, a new window is planned."""
    state = image.objects.get(object_id, ObjectState())
    return state.window is not None and not state.is_fallback and not state.is_coarse

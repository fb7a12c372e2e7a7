"""Plans the first windows of objects and their resolution, within a time limit and the free memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gstk.calibration.model import LatencyModel
from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts
from gstk.core.window import Faces, Window, WindowPolicy, frame
from gstk.errors import OutOfMemory
from gstk.session.costs import WindowCost, second_window_s, window_cost
from gstk.session.window_selection import initial_extent, initial_window, network_points

__all__ = [
    "MEMORY_SHARE",
    "Plan",
    "PlannedWindow",
    "can_start",
    "format_ids",
    "initial_prompts",
    "make_plan",
    "window_sizes",
]

MEMORY_SHARE = 0.8
"""Share of the free memory that a window may need to be planned."""
_SHARING = (0.0, 1.1, 1.6, 2.5, math.inf)
"""How much coarser a window may be that several objects share than each one's own, voxel side over voxel side.

The first value shares none: even in a joint window as fine, masks were worse (Dice 0.62 in place of 0.71 on one case).
"""
_SMALLER = 2**-0.5
_RESERVE_BYTES = 48e6
"""What there must be besides windows: a backend's kernels for a new shape, libraries that are loaded late, masks."""


@dataclass(frozen=True)
class PlannedWindow:
    """A window that is encoded once, and the objects that are decoded in it.

    Attributes:
        objects: their ids.
        window: what the network sees.
        cost: its encode and the decodes of all prompts of its objects, one after the other.
    """

    objects: tuple[int, ...]
    window: Window
    cost: WindowCost = WindowCost()


@dataclass(frozen=True)
class Plan:
    """First windows of objects, and what they and one more window for each object are expected to take.

    Attributes:
        windows: in the order in which they are encoded.
        policy: how windows are made, with the voxels that were chosen.
        budget_s: seconds available; None is no limit.
        second_window_s: expected seconds of a second window for each object, which suits its mask better.
        compromises: what a larger budget or more memory would have allowed, a sentence each.
    """

    windows: tuple[PlannedWindow, ...]
    policy: WindowPolicy
    budget_s: float | None
    second_window_s: float
    compromises: tuple[str, ...] = ()

    @property
    def expected_s(self) -> float:
        """Seconds of all first and second windows."""
        return sum(planned.cost.encode_s + planned.cost.decode_s for planned in self.windows) + self.second_window_s

    @property
    def p95_s(self) -> float:
        """Seconds of the first windows at the 95th percentile."""
        return sum(planned.cost.p95_s for planned in self.windows)

    @property
    def peak_bytes(self) -> float:
        """Most memory of the process at a time."""
        return max((planned.cost.peak_bytes for planned in self.windows), default=0.0)

    @property
    def window_by_object(self) -> dict[int, Window]:
        """The first window of each object."""
        return {k: planned.window for planned in self.windows for k in planned.objects}


def can_start(prompts: ObjectPrompts) -> bool:
    """Whether the prompts locate the object: a box or a foreground click."""
    return prompts.box is not None or any(point.foreground for point in prompts.points)


def initial_prompts(prompts: ObjectPrompts) -> ObjectPrompts:
    """The prompts that the first window is chosen by: the box, or all clicks up to the first on the object."""
    if prompts.box is not None:
        return ObjectPrompts(box=prompts.box)
    first = next(index for index, point in enumerate(prompts.points) if point.foreground)
    return ObjectPrompts(prompts.points[: first + 1])


def window_sizes(policy: WindowPolicy) -> list[int]:
    """Voxels that windows may have, from the most down to the least that the network takes, each √2 times fewer."""
    least = policy.min_side**3
    sizes = [policy.max_voxels]
    while sizes[-1] > least:
        sizes.append(max(least, int(sizes[-1] * _SMALLER)))
    return sizes


def format_ids(objects: Sequence[int]) -> str:
    """Ids in rising order as text; three or more in a row as a range, such as `1-3, 7`."""
    runs = [[k for _, k in run] for _, run in itertools.groupby(enumerate(objects), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def make_plan(
    geometry: Geometry,
    prompts: Mapping[int, ObjectPrompts],
    policy: WindowPolicy,
    model: LatencyModel | None = None,
    *,
    budget_s: float | None = None,
    memory_bytes: float | None = None,
    slowdown: float = 1.0,
    once: bool = False,
    is_firm: bool = True,
) -> Plan:
    """The finest windows that time and memory allow.

    Windows become smaller, and objects share them, until the first windows of all objects are expected to take half
    of the budget even at the 95th percentile: the other half is for windows that suit the masks better. Deterministic.

    Args:
        geometry: the image's.
        prompts: by object id; objects without a box or foreground click are left out.
        policy: how windows are made where there is time.
        model: what calls cost; None plans without.
        budget_s: seconds for all objects; None is no limit.
        memory_bytes: for the whole process; None is no limit.
        slowdown: how much slower than the model says the host is now.
        is_firm: whether masks that are late are made without the network. If not, the first call in windows of a
            shape, which takes longer, does not count.
        once: one decode for each object, whatever its prompts; else one after each click.

    Raises:
        OutOfMemory: even the smallest windows take more than `memory_bytes`.
    """
    started = {k: own for k, own in sorted(prompts.items()) if can_start(own)}

    def fits(plan: Plan) -> bool:
        in_memory = memory_bytes is None or plan.peak_bytes <= MEMORY_SHARE * memory_bytes
        return in_memory and (budget_s is None or 2 * plan.p95_s <= budget_s)

    ways = itertools.product(window_sizes(policy), _SHARING if len(started) > 1 else _SHARING[:1])
    plans = (
        _plan_of(geometry, started, replace(policy, max_voxels=v), s, model, budget_s, slowdown, once, is_firm)
        for v, s in ways
    )
    finest = next(plans)
    if fits(finest):
        return finest
    others = list(plans)
    possible = [plan for plan in others if fits(plan)]
    if possible:
        best = max(possible, key=lambda plan: _quality(plan, geometry))
    else:
        best = min([finest, *others], key=lambda plan: plan.p95_s)
        if memory_bytes is not None and best.peak_bytes + _RESERVE_BYTES > memory_bytes:
            best = min([finest, *others], key=lambda plan: plan.peak_bytes)
            least_bytes = best.peak_bytes + _RESERVE_BYTES
            if best.windows and least_bytes > memory_bytes:
                raise OutOfMemory(
                    f"got {memory_bytes / 1e9:.2g} GB of memory for this process, expected {least_bytes / 1e9:.2g} "
                    "GB or more, which the smallest windows take; free memory, raise the limit, or take an int8 bundle "
                    "or fewer --threads"
                )
    return replace(best, compromises=_compromises(finest, best, budget_s, memory_bytes, is_firm))


def _quality(plan: Plan, geometry: Geometry) -> float:
    """Larger for finer and for larger windows: voxels of twice the length count as an eighth of the voxels."""
    counts_sides = [(len(planned.objects), planned.window.side_mm(geometry)) for planned in plan.windows]
    objects = max(1, sum(count for count, _ in counts_sides))
    mean_log_side = sum(count * math.log(side) for count, side in counts_sides) / objects
    return float(math.log(plan.policy.max_voxels) / 3 - mean_log_side)


def _plan_of(
    geometry: Geometry,
    prompts: Mapping[int, ObjectPrompts],
    policy: WindowPolicy,
    sharing: float,
    model: LatencyModel | None,
    budget_s: float | None,
    slowdown: float,
    once: bool,
    is_firm: bool,
) -> Plan:
    windows: list[PlannedWindow] = []
    more_s = 0.0
    shapes: set[tuple[int, int, int]] = set()
    placing = prompts if once else {k: initial_prompts(own) for k, own in prompts.items()}
    for objects, window in _grouped(geometry, placing, policy, sharing):
        shape = window.shape
        # A click is decoded with those before it, one after the other.
        totals = [len(network_points(prompts[k])[1]) for k in objects]
        counts = totals if once else [n for total in totals for n in range(1, total + 1)]
        first = is_firm and shape not in shapes  # a session of clicks has many of a shape, and one that is the first
        cost = window_cost(model, shape, counts, first=first, slowdown=slowdown)
        windows.append(PlannedWindow(objects, window, cost))
        more_s += len(objects) * second_window_s(model, shape, slowdown)
        shapes.add(shape)
    return Plan(tuple(windows), policy, budget_s, more_s)


def _grouped(
    geometry: Geometry, prompts: Mapping[int, ObjectPrompts], policy: WindowPolicy, sharing: float
) -> list[tuple[tuple[int, ...], Window]]:
    """Objects and their windows: one joins the first group whose window stays fine enough for all that are in it."""
    groups: list[tuple[list[int], Window, float, Faces]] = []
    for k, own_prompts in prompts.items():
        faces = initial_extent(geometry, own_prompts, policy)
        own = initial_window(geometry, own_prompts, policy)
        for index, (objects, _, finest, among) in enumerate(groups):
            both = np.minimum(faces[0], among[0]), np.maximum(faces[1], among[1])
            joint, finest = frame(geometry, *both, policy), min(finest, own.side_mm(geometry))
            if joint.side_mm(geometry) <= sharing * finest:
                groups[index] = ([*objects, k], joint, finest, both)
                break
        else:
            groups.append(([k], own, own.side_mm(geometry), faces))
    return [(tuple(objects), window) for objects, window, _, _ in groups]


def _compromises(
    best: Plan, plan: Plan, budget_s: float | None, memory_bytes: float | None, is_firm: bool
) -> tuple[str, ...]:
    """What `plan` gives up compared with `best`, and why."""
    compromises = []
    if plan.policy.max_voxels < best.policy.max_voxels:
        why = []
        if memory_bytes is not None and best.peak_bytes > MEMORY_SHARE * memory_bytes:
            why.append(f"{best.peak_bytes / 1e9:.1f} GB, of {memory_bytes / 1e9:.1f} GB that are free")
        if budget_s is not None and 2 * best.p95_s > budget_s:
            why.append(f"up to {best.p95_s:.3g} s for the first masks, more than half of {budget_s:.3g} s")
        compromises.append(
            f"windows of {best.policy.max_voxels} voxels: {plan.policy.max_voxels} voxels instead, since they need "
            f"{' and '.join(why)}"
        )
    alone = {planned.objects for planned in best.windows}
    for planned in plan.windows:
        if len(planned.objects) > 1 and planned.objects not in alone:
            compromises.append(f"a window for each of the objects {format_ids(planned.objects)}: they share one")
    if is_firm and budget_s is not None and plan.p95_s > budget_s:
        compromises.append(
            f"certainty that each mask comes from the network: even the smallest windows may take {plan.p95_s:.3g} s "
            f"of {budget_s:.3g} s; masks that are not done by then are made from their prompts alone"
        )
    return tuple(compromises)

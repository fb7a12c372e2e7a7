"""What to look at, and how finely, inside a time and the memory there is: decided before anything runs."""

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
from gstk.session.tiling import THIN, parts_of, solid
from gstk.session.window_selection import initial_extent, network_points

__all__ = ["MEMORY_SHARE", "Plan", "PlannedWindow", "can_start", "format_ids", "initial_prompts", "make_plan", "sizes"]

MEMORY_SHARE = 0.8
"""Of the memory that is free; a region that needs more is not planned."""
_SHARING = (0.0, 1.1, 1.6, 2.5, math.inf)
"""How much coarser a window may be that several objects share than each one's own, voxel side over voxel side.

At first not at all: even in a window as fine, but around both, masks were worse (0.62 for 0.71 Dice on one case).
"""
_SMALLER = 2**-0.5


@dataclass(frozen=True)
class PlannedWindow:
    """A window that is encoded once, and the objects that are decoded in it.

    Attributes:
        objects: their ids.
        window: what the network sees.
        encode_s, decode_s: what is expected; the decode of all of its objects' prompts, one after the other.
        p95_s: both together, at the 95th percentile.
        peak_bytes: memory of the process meanwhile; 0 where nothing is known.
    """

    objects: tuple[int, ...]
    window: Window
    encode_s: float = 0.0
    decode_s: float = 0.0
    p95_s: float = 0.0
    peak_bytes: float = 0.0


@dataclass(frozen=True)
class Plan:
    """First windows of objects, and what they and one more window each are expected to take.

    Attributes:
        windows: in the order in which they run.
        policy: how windows are made, with the voxels that were chosen.
        budget_s: seconds there are; None is any number.
        second_window_s: expected of a second window an object, which suits its mask better.
        compromises: what a larger budget or memory would have allowed, a sentence each.
        chains: finer windows along objects that one window shows too coarsely, as far as that is known beforehand; they
            are looked at after the object's first.
        unchained: objects whose chain was given up.
    """

    windows: tuple[PlannedWindow, ...]
    policy: WindowPolicy
    budget_s: float | None
    second_window_s: float
    compromises: tuple[str, ...] = ()
    chains: tuple[PlannedWindow, ...] = ()
    unchained: tuple[int, ...] = ()

    @property
    def expected_s(self) -> float:
        """Seconds of all first windows, the second windows and the chains."""
        return (
            sum(planned.encode_s + planned.decode_s for planned in (*self.windows, *self.chains)) + self.second_window_s
        )

    @property
    def p95_s(self) -> float:
        """Seconds of the first windows at the 95th percentile."""
        return sum(planned.p95_s for planned in self.windows)

    @property
    def peak_bytes(self) -> float:
        """Most memory at a time."""
        return max((planned.peak_bytes for planned in (*self.windows, *self.chains)), default=0.0)

    @property
    def window_by_object(self) -> dict[int, Window]:
        """The first window of each object."""
        return {k: planned.window for planned in self.windows for k in planned.objects}


def can_start(prompts: ObjectPrompts) -> bool:
    """Whether something says where the object is."""
    return prompts.box is not None or any(point.foreground for point in prompts.points)


def initial_prompts(prompts: ObjectPrompts) -> ObjectPrompts:
    """The box, or what was clicked up to the first point on the object: what the first look at it goes by."""
    if prompts.box is not None:
        return ObjectPrompts(box=prompts.box)
    first = next(index for index, point in enumerate(prompts.points) if point.foreground)
    return ObjectPrompts(prompts.points[: first + 1])


def sizes(policy: WindowPolicy) -> list[int]:
    """Voxels that windows may have, the most first, each √2 times fewer, down to the least that the network takes."""
    least = policy.min_side**3
    found = [policy.max_voxels]
    while found[-1] > least:
        found.append(max(least, int(found[-1] * _SMALLER)))
    return found


def format_ids(objects: Sequence[int]) -> str:
    """Ids in rising order as text; three or more in a row as a range, such as `1-3, 7`."""
    rows = [[k for _, k in row] for _, row in itertools.groupby(enumerate(objects), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{row[0]}-{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)


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
) -> Plan:
    """The finest windows that time and memory allow.

    Windows become smaller, and objects share them, until the first look at every object is expected to take half of
    the budget even at the 95th percentile: the other half is for windows that suit the masks better. Deterministic.

    Args:
        geometry: the image's.
        prompts: what was said, by object id; objects that nothing is known of are left out.
        policy: how windows are made where there is time.
        model: what calls cost; None plans without.
        budget_s: seconds for all objects; None is any number.
        memory_bytes: for the whole process; None is any number.
        slowdown: how much slower than the model says the host is now.
        once: one decode an object, whatever was said; else one after each click.
    """
    started = {k: said for k, said in sorted(prompts.items()) if can_start(said)}

    def fits(plan: Plan) -> bool:
        in_memory = memory_bytes is None or plan.peak_bytes <= MEMORY_SHARE * memory_bytes
        return in_memory and (budget_s is None or 2 * plan.p95_s <= budget_s)

    ways = itertools.product(sizes(policy), _SHARING if len(started) > 1 else _SHARING[:1])
    plans = (
        _with(geometry, started, replace(policy, max_voxels=v), s, model, budget_s, slowdown, once) for v, s in ways
    )
    finest = next(plans)
    if fits(finest):
        return _chained(finest, geometry, started, model, slowdown)
    others = list(plans)
    possible = [plan for plan in others if fits(plan)]
    if possible:
        best = max(possible, key=lambda plan: _quality(plan, geometry))
    else:
        best = min([finest, *others], key=lambda plan: plan.p95_s)
    best = replace(best, compromises=_compromises(finest, best, budget_s, memory_bytes))
    return _chained(best, geometry, started, model, slowdown)


def _chained(
    plan: Plan, geometry: Geometry, prompts: Mapping[int, ObjectPrompts], model: LatencyModel | None, slowdown: float
) -> Plan:
    """The plan with chains of finer windows, where boxes or clicks ask for them and there is time besides."""
    for planned in plan.windows:
        for k in planned.objects:
            chain = _chain_of(k, geometry, prompts[k], planned.window, plan.policy, model, slowdown)
            more_s = sum(link.p95_s for link in chain)
            if plan.budget_s is None or plan.expected_s + more_s <= plan.budget_s:
                plan = replace(plan, chains=(*plan.chains, *chain))
            elif chain:
                where = "the object" if len(prompts) == 1 else f"object {k}"
                note = f"{len(chain)} finer windows along {where}: they may take {more_s:.3g} s more"
                plan = replace(plan, compromises=(*plan.compromises, note), unchained=(*plan.unchained, k))
    return plan


def _chain_of(
    object_id: int,
    geometry: Geometry,
    prompts: ObjectPrompts,
    window: Window,
    policy: WindowPolicy,
    model: LatencyModel | None,
    slowdown: float,
) -> tuple[PlannedWindow, ...]:
    """Windows along an object's box, or of its clicks where they lie far apart."""
    clicks = prompts.clicked(foreground_only=True)
    if prompts.box is not None:
        low, high = (np.array(corner, np.float64) for corner in prompts.box.corners())
        cells = solid(low, high + 1)
        thickness_mm = float(((high + 1 - low) * geometry.spacing_mm).min())
        if thickness_mm > 2 * THIN * window.side_mm(geometry):
            return ()
    elif len(clicks) > 1:
        cells = clicks, clicks + 1
        window = frame(geometry, *initial_extent(geometry, prompts, policy), policy)
    else:
        return ()
    planned_windows = []
    for part in parts_of(geometry, cells, policy, window.side_mm(geometry)):
        planned = PlannedWindow((object_id,), part.window)
        if model is not None:
            shape = part.window.shape
            points = 1 + int(part.window.holds(prompts.clicked()).sum())
            encode = [model.encode_s(shape, cautious=c) * slowdown for c in (False, True)]
            decode = [
                sum(model.decode_s(shape, 1, n, cautious=c) for n in range(1, points + 1)) * slowdown
                for c in (False, True)
            ]
            planned = PlannedWindow(
                (object_id,), part.window, encode[0], decode[0], encode[1] + decode[1], model.peak_bytes(shape)
            )
        planned_windows.append(planned)
    return tuple(planned_windows)


def _quality(plan: Plan, geometry: Geometry) -> float:
    """Larger for finer and for larger windows: one whose voxels are twice as long is as one of an eighth of them."""
    planned_windows = [(len(planned.objects), planned.window.side_mm(geometry)) for planned in plan.windows]
    objects = max(1, sum(count for count, _ in planned_windows))
    return float(
        math.log(plan.policy.max_voxels) / 3 - sum(n * math.log(side) for n, side in planned_windows) / objects
    )


def _with(
    geometry: Geometry,
    prompts: Mapping[int, ObjectPrompts],
    policy: WindowPolicy,
    sharing: float,
    model: LatencyModel | None,
    budget_s: float | None,
    slowdown: float,
    once: bool,
) -> Plan:
    planned_windows: list[PlannedWindow] = []
    second_window_s = 0.0
    seen: set[tuple[int, int, int]] = set()
    places = prompts if once else {k: initial_prompts(said) for k, said in prompts.items()}
    for objects, window in _grouped(geometry, places, policy, sharing):
        planned = PlannedWindow(objects, window)
        if model is not None:
            shape = window.shape
            encode = [model.encode_s(shape, first=shape not in seen, cautious=c) * slowdown for c in (False, True)]
            # A click is decoded with those before it, one after the other.
            points = [len(network_points(prompts[k])[1]) for k in objects]
            counts = points if once else [n for last in points for n in range(1, last + 1)]
            decode = [sum(model.decode_s(shape, 1, n, cautious=c) for n in counts) * slowdown for c in (False, True)]
            second_window_s += len(objects) * (model.encode_s(shape) + model.decode_s(shape)) * slowdown
            planned = PlannedWindow(
                objects, window, encode[0], decode[0], encode[1] + decode[1], model.peak_bytes(shape)
            )
            seen.add(shape)
        planned_windows.append(planned)
    return Plan(tuple(planned_windows), policy, budget_s, second_window_s)


def _grouped(
    geometry: Geometry, prompts: Mapping[int, ObjectPrompts], policy: WindowPolicy, sharing: float
) -> list[tuple[tuple[int, ...], Window]]:
    """Objects and their windows: one joins the first group whose window stays fine enough for all that are in it."""
    groups: list[tuple[list[int], Window, float, Faces]] = []
    for k, said in prompts.items():
        faces = initial_extent(geometry, said, policy)
        own = frame(geometry, *faces, policy)
        for index, (objects, _, finest, among) in enumerate(groups):
            both = np.minimum(faces[0], among[0]), np.maximum(faces[1], among[1])
            joint, finest = frame(geometry, *both, policy), min(finest, own.side_mm(geometry))
            if joint.side_mm(geometry) <= sharing * finest:
                groups[index] = ([*objects, k], joint, finest, both)
                break
        else:
            groups.append(([k], own, own.side_mm(geometry), faces))
    return [(tuple(objects), window) for objects, window, _, _ in groups]


def _compromises(best: Plan, plan: Plan, budget_s: float | None, memory_bytes: float | None) -> tuple[str, ...]:
    """What `plan` does not have of `best`, and why."""
    found = []
    if plan.policy.max_voxels < best.policy.max_voxels:
        why = []
        if memory_bytes is not None and best.peak_bytes > MEMORY_SHARE * memory_bytes:
            why.append(f"{best.peak_bytes / 1e9:.1f} GB of the {memory_bytes / 1e9:.1f} GB that are free")
        if budget_s is not None and 2 * best.p95_s > budget_s:
            why.append(f"half of {budget_s:.3g} s, where the first look at all objects may take {best.p95_s:.3g} s")
        found.append(
            f"windows of {best.policy.max_voxels} voxels: they have {plan.policy.max_voxels}, "
            f"for want of {' and '.join(why)}"
        )
    alone = {planned.objects for planned in best.windows}
    for planned in plan.windows:
        if len(planned.objects) > 1 and planned.objects not in alone:
            found.append(f"windows of their own for the objects {format_ids(planned.objects)}: they share one")
    if budget_s is not None and plan.p95_s > budget_s:
        found.append(
            f"a mask that surely comes from the network: the least first look may take {plan.p95_s:.3g} s of "
            f"{budget_s:.3g} s; what is not done then is filled in from the prompts alone"
        )
    return tuple(found)

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
from gstk.core.window import Faces, Framing, Window, frame
from gstk.session.tiling import THIN, parts_of, solid
from gstk.session.window_selection import first_faces, network_points

__all__ = ["MEMORY_SHARE", "Look", "Plan", "can_start", "first_said", "listed", "make_plan", "sizes"]

MEMORY_SHARE = 0.8
"""Of the memory that is free; a region that needs more is not planned."""
_SHARING = (0.0, 1.1, 1.6, 2.5, math.inf)
"""How much coarser a window may be that several objects share than each one's own, voxel side over voxel side.

At first not at all: even in a window as fine, but around both, masks were worse (0.62 for 0.71 Dice on one case).
"""
_SMALLER = 2**-0.5


@dataclass(frozen=True)
class Look:
    """A window that is encoded once, and the objects that are decoded in it.

    Attributes:
        objects: their ids.
        window: what the network sees.
        encode_s, decode_s: what is expected; the decode of all of its objects' prompts, one after the other.
        cautious_s: both together, at the 95th percentile.
        peak_bytes: memory of the process meanwhile; 0 where nothing is known.
    """

    objects: tuple[int, ...]
    window: Window
    encode_s: float = 0.0
    decode_s: float = 0.0
    cautious_s: float = 0.0
    peak_bytes: float = 0.0


@dataclass(frozen=True)
class Plan:
    """First windows of objects, and what they and one more window each are expected to take.

    Attributes:
        looks: in the order in which they run.
        framing: how windows are made, with the voxels that were chosen.
        budget_s: seconds there are; None is any number.
        again_s: expected of a second window an object, which suits its mask better.
        given_up: what a larger budget or memory would have allowed, a sentence each.
        chains: finer windows along objects that one window shows too coarsely, as far as that is known beforehand; they
            are looked at after the object's first.
        unchained: objects whose chain was given up.
    """

    looks: tuple[Look, ...]
    framing: Framing
    budget_s: float | None
    again_s: float
    given_up: tuple[str, ...] = ()
    chains: tuple[Look, ...] = ()
    unchained: tuple[int, ...] = ()

    @property
    def expected_s(self) -> float:
        """Seconds of all looks, the second windows and the chains."""
        return sum(look.encode_s + look.decode_s for look in (*self.looks, *self.chains)) + self.again_s

    @property
    def cautious_s(self) -> float:
        """The first looks at the 95th percentile."""
        return sum(look.cautious_s for look in self.looks)

    @property
    def peak_bytes(self) -> float:
        """Most memory at a time."""
        return max((look.peak_bytes for look in (*self.looks, *self.chains)), default=0.0)

    @property
    def windows(self) -> dict[int, Window]:
        """The first window of each object."""
        return {k: look.window for look in self.looks for k in look.objects}


def can_start(prompts: ObjectPrompts) -> bool:
    """Whether something says where the object is."""
    return prompts.box is not None or any(point.foreground for point in prompts.points)


def first_said(prompts: ObjectPrompts) -> ObjectPrompts:
    """The box, or what was clicked up to the first point on the object: what the first look at it goes by."""
    if prompts.box is not None:
        return ObjectPrompts(box=prompts.box)
    first = next(index for index, point in enumerate(prompts.points) if point.foreground)
    return ObjectPrompts(prompts.points[: first + 1])


def sizes(framing: Framing) -> list[int]:
    """Voxels that windows may have, the most first, each √2 times fewer, down to the least that the network takes."""
    least = framing.minimum**3
    found = [framing.voxels]
    while found[-1] > least:
        found.append(max(least, int(found[-1] * _SMALLER)))
    return found


def listed(objects: Sequence[int]) -> str:
    """Ids in rising order as text; three or more in a row as a range, such as `1-3, 7`."""
    rows = [[k for _, k in row] for _, row in itertools.groupby(enumerate(objects), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{row[0]}-{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)


def make_plan(
    geometry: Geometry,
    prompts: Mapping[int, ObjectPrompts],
    framing: Framing,
    model: LatencyModel | None = None,
    *,
    budget_s: float | None = None,
    memory_bytes: float | None = None,
    pace: float = 1.0,
    once: bool = False,
) -> Plan:
    """The finest windows that time and memory allow.

    Windows become smaller, and objects share them, until the first look at every object is expected to take half of
    the budget even at the 95th percentile: the other half is for windows that suit the masks better. Deterministic.

    Args:
        geometry: the image's.
        prompts: what was said, by object id; objects that nothing is known of are left out.
        framing: how windows are made where there is time.
        model: what calls cost; None plans without.
        budget_s: seconds for all objects; None is any number.
        memory_bytes: for the whole process; None is any number.
        pace: how much slower than the model says the host is now.
        once: one decode an object, whatever was said; else one after each click.
    """
    started = {k: said for k, said in sorted(prompts.items()) if can_start(said)}

    def fits(plan: Plan) -> bool:
        in_memory = memory_bytes is None or plan.peak_bytes <= MEMORY_SHARE * memory_bytes
        return in_memory and (budget_s is None or 2 * plan.cautious_s <= budget_s)

    ways = itertools.product(sizes(framing), _SHARING if len(started) > 1 else _SHARING[:1])
    plans = (_with(geometry, started, replace(framing, voxels=v), s, model, budget_s, pace, once) for v, s in ways)
    finest = next(plans)
    if fits(finest):
        return _chained(finest, geometry, started, model, pace)
    others = list(plans)
    possible = [plan for plan in others if fits(plan)]
    if possible:
        best = max(possible, key=lambda plan: _quality(plan, geometry))
    else:
        best = min([finest, *others], key=lambda plan: plan.cautious_s)
    best = replace(best, given_up=_given_up(finest, best, budget_s, memory_bytes))
    return _chained(best, geometry, started, model, pace)


def _chained(
    plan: Plan, geometry: Geometry, prompts: Mapping[int, ObjectPrompts], model: LatencyModel | None, pace: float
) -> Plan:
    """The plan with chains of finer windows, where boxes or clicks ask for them and there is time besides."""
    for look in plan.looks:
        for k in look.objects:
            chain = _chain_of(k, geometry, prompts[k], look.window, plan.framing, model, pace)
            more_s = sum(link.cautious_s for link in chain)
            if plan.budget_s is None or plan.expected_s + more_s <= plan.budget_s:
                plan = replace(plan, chains=(*plan.chains, *chain))
            elif chain:
                where = "the object" if len(prompts) == 1 else f"object {k}"
                note = f"{len(chain)} finer windows along {where}: they may take {more_s:.3g} s more"
                plan = replace(plan, given_up=(*plan.given_up, note), unchained=(*plan.unchained, k))
    return plan


def _chain_of(
    object_id: int,
    geometry: Geometry,
    prompts: ObjectPrompts,
    window: Window,
    framing: Framing,
    model: LatencyModel | None,
    pace: float,
) -> tuple[Look, ...]:
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
        window = frame(geometry, *first_faces(geometry, prompts, framing), framing)
    else:
        return ()
    looks = []
    for part in parts_of(geometry, cells, framing, window.side_mm(geometry)):
        look = Look((object_id,), part.window)
        if model is not None:
            shape = part.window.shape
            points = 1 + int(part.window.holds(prompts.clicked()).sum())
            encode = [model.encode_s(shape, cautious=c) * pace for c in (False, True)]
            decode = [
                sum(model.decode_s(shape, 1, n, cautious=c) for n in range(1, points + 1)) * pace for c in (False, True)
            ]
            look = Look((object_id,), part.window, encode[0], decode[0], encode[1] + decode[1], model.peak_bytes(shape))
        looks.append(look)
    return tuple(looks)


def _quality(plan: Plan, geometry: Geometry) -> float:
    """Larger for finer and for larger windows: one whose voxels are twice as long is as one of an eighth of them."""
    looks = [(len(look.objects), look.window.side_mm(geometry)) for look in plan.looks]
    objects = max(1, sum(count for count, _ in looks))
    return float(math.log(plan.framing.voxels) / 3 - sum(n * math.log(side) for n, side in looks) / objects)


def _with(
    geometry: Geometry,
    prompts: Mapping[int, ObjectPrompts],
    framing: Framing,
    sharing: float,
    model: LatencyModel | None,
    budget_s: float | None,
    pace: float,
    once: bool,
) -> Plan:
    looks: list[Look] = []
    again_s = 0.0
    seen: set[tuple[int, int, int]] = set()
    places = prompts if once else {k: first_said(said) for k, said in prompts.items()}
    for objects, window in _grouped(geometry, places, framing, sharing):
        look = Look(objects, window)
        if model is not None:
            shape = window.shape
            encode = [model.encode_s(shape, first=shape not in seen, cautious=c) * pace for c in (False, True)]
            # A click is decoded with those before it, one after the other.
            points = [len(network_points(prompts[k])[1]) for k in objects]
            counts = points if once else [n for last in points for n in range(1, last + 1)]
            decode = [sum(model.decode_s(shape, 1, n, cautious=c) for n in counts) * pace for c in (False, True)]
            again_s += len(objects) * (model.encode_s(shape) + model.decode_s(shape)) * pace
            look = Look(objects, window, encode[0], decode[0], encode[1] + decode[1], model.peak_bytes(shape))
            seen.add(shape)
        looks.append(look)
    return Plan(tuple(looks), framing, budget_s, again_s)


def _grouped(
    geometry: Geometry, prompts: Mapping[int, ObjectPrompts], framing: Framing, sharing: float
) -> list[tuple[tuple[int, ...], Window]]:
    """Objects and their windows: one joins the first group whose window stays fine enough for all that are in it."""
    groups: list[tuple[list[int], Window, float, Faces]] = []
    for k, said in prompts.items():
        faces = first_faces(geometry, said, framing)
        own = frame(geometry, *faces, framing)
        for index, (objects, _, finest, among) in enumerate(groups):
            both = np.minimum(faces[0], among[0]), np.maximum(faces[1], among[1])
            joint, finest = frame(geometry, *both, framing), min(finest, own.side_mm(geometry))
            if joint.side_mm(geometry) <= sharing * finest:
                groups[index] = ([*objects, k], joint, finest, both)
                break
        else:
            groups.append(([k], own, own.side_mm(geometry), faces))
    return [(tuple(objects), window) for objects, window, _, _ in groups]


def _given_up(best: Plan, plan: Plan, budget_s: float | None, memory_bytes: float | None) -> tuple[str, ...]:
    """What `plan` does not have of `best`, and why."""
    found = []
    if plan.framing.voxels < best.framing.voxels:
        why = []
        if memory_bytes is not None and best.peak_bytes > MEMORY_SHARE * memory_bytes:
            why.append(f"{best.peak_bytes / 1e9:.1f} GB of the {memory_bytes / 1e9:.1f} GB that are free")
        if budget_s is not None and 2 * best.cautious_s > budget_s:
            why.append(
                f"half of {budget_s:.3g} s, where the first look at all objects may take {best.cautious_s:.3g} s"
            )
        found.append(
            f"windows of {best.framing.voxels} voxels: they have {plan.framing.voxels}, for want of {' and '.join(why)}"
        )
    alone = {look.objects for look in best.looks}
    for look in plan.looks:
        if len(look.objects) > 1 and look.objects not in alone:
            found.append(f"windows of their own for the objects {listed(look.objects)}: they share one")
    if budget_s is not None and plan.cautious_s > budget_s:
        found.append(
            f"a mask that surely comes from the network: the least first look may take {plan.cautious_s:.3g} s of "
            f"{budget_s:.3g} s; what is not done then is filled in from the prompts alone"
        )
    return tuple(found)

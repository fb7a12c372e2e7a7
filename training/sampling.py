"""Which points a training step clicks: VISTA3D's own way, the paper's edge-center way, and the way of use.

A sampler is a function of (labels, classes, rng, predict) that returns `Prompts`, one row a class. Three exist, made by
`make_sampler`: `vista3d` (stage 1), `edge-center` (stage 2, the paper's equations 1 and 2) and `error`, which clicks
where the current prediction is wrong. NumPy and SciPy alone, so that samplers run where the data are loaded.

Point labels: 1 on the object, 0 outside, 3 and 2 the same for VISTA3D's special classes, -1 padding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gstk.core.click_rule import component_centre, next_click
from gstk.core.prompts import Point
from gstk.errors import TrainingError

__all__ = [
    "COUNT_LAWS",
    "SAMPLERS",
    "Prompts",
    "Sampler",
    "authors_count",
    "centre_point",
    "edge_center_points",
    "error_point",
    "gaussian_count",
    "make_sampler",
    "pack",
    "random_choice",
]

CENTER_FRACTION = 0.5
"""Deeper than this share of the greatest depth is the centre (τ_c of the paper's equation 2)."""
EDGE_FRACTION = 0.1
"""From this share to `CENTER_FRACTION` is the edge (τ_e of the paper's equation 2)."""
MAX_EDT_VOXELS = 20_000
"""Training looks for the centre of anything larger at half the resolution: the click moves by a voxel at most."""
FIRST_CLICKS = (0.35, 0.3, 0.15, 0.2)
"""How often `error` begins with the official click, any voxel, the box's middle, several points."""
ANYWHERE = 0.25
"""How often a click of `error` on a mistake is anywhere on it, not in the middle of its largest part."""
SAMPLERS = ("vista3d", "edge-center", "error")
COUNT_LAWS = ("paper", "authors")

Labels = NDArray[np.integer]
Box = tuple[slice, ...]


class Prompts(NamedTuple):
    """Points of B objects, padded to one length.

    Attributes:
        coords: int64 [B,N,3], voxels (z,y,x) of the patch; zeros where there is no point.
        labels: int64 [B,N], as at the top of this module. A class that the patch does not show has padding alone.
    """

    coords: NDArray[np.int64]
    labels: NDArray[np.int64]


Predict = Callable[[Prompts], NDArray[np.bool_]]
"""Masks [B,z,y,x] that the network makes of prompts."""
Sampler = Callable[[Labels, Sequence[int], np.random.Generator, Predict | None], Prompts]


def make_sampler(
    name: str,
    max_points: int = 5,
    count_law: str = "paper",
    max_rounds: int = 4,
    special_classes: Collection[int] = (),
    workers: int = 1,
) -> Sampler:
    """Makes one of `SAMPLERS`: labels int (z,y,x), class ids, generator, network → `Prompts`.

    Args:
        name: `vista3d`, `edge-center` or `error`.
        max_points: most points of a sign; of the first prompt, for `error`.
        count_law: of `edge-center`, and of the first prompt of `error`: `paper` (`gaussian_count`) or `authors`
            (`authors_count`). `vista3d` has its own, which is the authors'.
        max_rounds: most clicks on the error, for `error`; 0 up to that many are drawn.
        special_classes: class ids whose points carry 2/3, as MONAI trains `spec.SPECIAL_CLASSES`. Inference clicks
            with 0/1, and so does training unless told otherwise.
        workers: threads that look at objects side by side.

    Raises:
        TrainingError: no such sampler or count law, or a number below its least.
    """
    if name not in SAMPLERS:
        raise TrainingError(f"got sampler {name!r}, expected one of {', '.join(SAMPLERS)}")
    if count_law not in COUNT_LAWS:
        raise TrainingError(f"got count law {count_law!r}, expected one of {', '.join(COUNT_LAWS)}")
    if max_points < 1 or max_rounds < 0 or workers < 1:
        raise TrainingError(
            f"got {max_points} points, {max_rounds} rounds, {workers} workers; expected 1, 0, 1 or more"
        )
    count = gaussian_count if count_law == "paper" else authors_count
    special = frozenset(int(label) for label in special_classes)
    ways = {"vista3d": _vista3d, "edge-center": _edge_center, "error": _error}
    return partial(ways[name], _How(max_points, count, max_rounds, special, workers))


@dataclass(frozen=True)
class _How:
    """What `make_sampler` was told."""

    max_points: int
    count: Callable[[np.random.Generator, int, int], int]
    max_rounds: int
    special: frozenset[int]
    workers: int

    def flags(self, classes: Sequence[int]) -> list[bool]:
        return [label in self.special for label in classes]

    def counts(self, rng: np.random.Generator) -> tuple[int, int]:
        return self.count(rng, self.max_points, 1), self.count(rng, self.max_points, 0)


def pack(clicks: Sequence[Sequence[Point]], special: Sequence[bool] | None = None) -> Prompts:
    """Clicks of B objects as `Prompts`; `special` says which objects' points carry 2/3."""
    longest = max((len(c) for c in clicks), default=0) or 1
    coords = np.zeros((len(clicks), longest, 3), np.int64)
    labels = np.full((len(clicks), longest), -1, np.int64)
    for b, of_object in enumerate(clicks):
        for n, click in enumerate(of_object):
            coords[b, n] = click.zyx
            labels[b, n] = int(click.foreground) + (2 if special is not None and special[b] else 0)
    return Prompts(coords, labels)


def gaussian_count(rng: np.random.Generator, maximum: int, minimum: int = 0) -> int:
    """A number of points, normal around half the maximum (the paper, section 2.2), within [minimum, maximum]."""
    return int(np.clip(np.rint(rng.normal(maximum / 2, maximum / 4)), minimum, maximum))


def authors_count(rng: np.random.Generator, maximum: int, minimum: int = 0) -> int:
    """The law of the authors' code and of MONAI's sampler: |N(0, maximum // 2)| cut to a whole number, + minimum."""
    return min(maximum, int(abs(rng.normal(0, maximum // 2))) + minimum)


def edge_center_points(
    mask: NDArray[np.bool_], rng: np.random.Generator, foreground: int, background: int
) -> list[Point]:
    """Points by the paper's equations 1 and 2: the first from the centre, the rest from the edge, the others outside.

    Args:
        mask: bool (z,y,x), one object; the distance transform runs on its bounding box alone.
        foreground, background: how many points; where a region has too few voxels, any of the object's serve.

    Returns:
        The points, foreground first; empty for an empty mask.
    """
    labels = mask.view(np.uint8)
    box = ndimage.find_objects(labels)
    return _edge_center_of(labels, 1, box[0], rng, foreground, background) if box else []


def _edge_center_of(
    labels: Labels, label: int, box: Box, rng: np.random.Generator, foreground: int, background: int
) -> list[Point]:
    inside = labels[box] == label
    crop = np.pad(inside, 1)
    # The volume's own face is no border of the object: it goes on there unseen.
    for axis, extent in enumerate(box):
        for face, neighbour, touches in ((0, 1, extent.start == 0), (-1, -2, extent.stop == labels.shape[axis])):
            if touches:
                along = np.moveaxis(crop, axis, 0)
                along[face] = along[neighbour]
    depth = np.ones(crop.shape) if crop.all() else ndimage.distance_transform_edt(crop)
    depth = depth[1:-1, 1:-1, 1:-1] * inside
    deepest = depth.max()
    center = depth > CENTER_FRACTION * deepest
    regions = [np.flatnonzero(center)]
    if foreground > 1:
        regions.append(np.flatnonzero((depth > EDGE_FRACTION * deepest) & ~center))
    origin = [axis.start for axis in box]
    points: list[Point] = []
    for index in range(foreground):
        region = regions[min(index, 1)]
        if not len(region):
            region = regions[1] = np.flatnonzero(inside)
        points.append(_click(np.unravel_index(region[rng.integers(len(region))], inside.shape), True, origin))
    return points + _outside(labels, label, rng, background)


def _outside(labels: Labels, label: int, rng: np.random.Generator, count: int) -> list[Point]:
    """Points beside one object, each voxel as likely as any; none where the object fills the patch."""
    points: list[Point] = []
    for _ in range(4 if count else 0):  # guesses are cheap, and nearly always enough
        guesses = rng.integers(0, labels.shape, (4 * count, 3))
        points += [_click(g, False) for g in guesses[labels[tuple(guesses.T)] != label]]
        if len(points) >= count:
            return points[:count]
    beside = np.flatnonzero(labels != label) if count else np.array([])
    while len(beside) and len(points) < count:
        points.append(_click(np.unravel_index(beside[rng.integers(len(beside))], labels.shape), False))
    return points


def centre_point(mask: NDArray[np.bool_], rng: np.random.Generator) -> Point:
    """The official first click: the object's most central voxel."""
    return Point(component_centre(mask, random_choice(rng), MAX_EDT_VOXELS), True)


def error_point(prediction: NDArray[np.bool_], mask: NDArray[np.bool_], rng: np.random.Generator) -> Point | None:
    """The official next click: the centre of the largest error; None where the prediction is the mask."""
    return next_click(prediction, mask, random_choice(rng), MAX_EDT_VOXELS)


def anywhere_in_error(prediction: NDArray[np.bool_], mask: NDArray[np.bool_], rng: np.random.Generator) -> Point | None:
    """A click of somebody in a hurry: any wrong voxel; None where the prediction is the mask."""
    wrong = np.flatnonzero(prediction != mask)
    if not len(wrong):
        return None
    voxel = np.unravel_index(wrong[rng.integers(len(wrong))], mask.shape)
    return _click(voxel, bool(mask[voxel]))


def random_choice(rng: np.random.Generator) -> Callable[[int], int]:
    """A tie-break for `gstk.core.click_rule` that draws from `rng`."""
    return lambda count: int(rng.integers(count))


def _vista3d(
    how: _How, labels: Labels, classes: Sequence[int], rng: np.random.Generator, predict: Predict | None = None
) -> Prompts:
    """MONAI's `sample_prompt_pairs`, its points: as many for each class, anywhere on it and anywhere beside it."""
    foreground, background = authors_count(rng, how.max_points, 1), authors_count(rng, how.max_points)
    boxes = ndimage.find_objects(labels)
    clicks = []
    for label in classes:
        box = _box_of(boxes, label)
        points: list[Point] = []
        if box is not None:
            inside = np.flatnonzero(labels[box] == label)
            chosen = inside[rng.integers(0, len(inside), min(foreground, len(inside)))]
            shape, origin = labels[box].shape, [axis.start for axis in box]
            points = [_click(np.unravel_index(flat, shape), True, origin) for flat in chosen]
            points += _outside(labels, label, rng, background)
        clicks.append(points)
    return pack(clicks, how.flags(classes))


def _edge_center(
    how: _How, labels: Labels, classes: Sequence[int], rng: np.random.Generator, predict: Predict | None = None
) -> Prompts:
    boxes = ndimage.find_objects(labels)

    def of_class(label: int, own: np.random.Generator) -> list[Point]:
        box = _box_of(boxes, label)
        foreground, background = how.counts(own)
        return [] if box is None else _edge_center_of(labels, label, box, own, foreground, background)

    clicks = _side_by_side(of_class, classes, rng, how.workers)
    return pack(clicks, how.flags(classes))


def _error(
    how: _How, labels: Labels, classes: Sequence[int], rng: np.random.Generator, predict: Predict | None = None
) -> Prompts:
    """Begins as users do, then clicks where the network errs.

    The first click is the official one, any voxel of the object, the middle of its box (which a session gives the
    network in the place of the box, and which need not lie on the object), or several points at once.
    """
    boxes = ndimage.find_objects(labels)
    flags = how.flags(classes)

    def first(label: int, own: np.random.Generator) -> list[Point]:
        box = _box_of(boxes, label)
        if box is None:
            return []
        way = own.choice(len(FIRST_CLICKS), p=FIRST_CLICKS)
        origin = [axis.start for axis in box]
        if way == 0:
            return [_click(centre_point(labels[box] == label, own).zyx, True, origin)]
        if way == 1:
            inside = np.flatnonzero(labels[box] == label)
            voxel = np.unravel_index(inside[own.integers(len(inside))], labels[box].shape)
            return [_click(voxel, True, origin)]
        if way == 2:
            return [_click([(axis.start + axis.stop - 1) // 2 for axis in box], True)]
        foreground, background = how.counts(own)
        return _edge_center_of(labels, label, box, own, foreground, background)

    clicks = _side_by_side(first, classes, rng, how.workers)
    if predict is None:
        raise TrainingError("got no network for the error sampler, expected the one that is trained")
    for _ in range(int(rng.integers(0, how.max_rounds + 1)) if any(clicks) else 0):
        clicks = _correct(labels, classes, clicks, predict(pack(clicks, flags)), rng, how.workers)
    return pack(clicks, flags)


def _correct(
    labels: Labels,
    classes: Sequence[int],
    clicks: list[list[Point]],
    masks: NDArray[np.bool_],
    rng: np.random.Generator,
    workers: int,
) -> list[list[Point]]:
    """One more click on each object whose mask is wrong."""

    def of_object(index: int, own: np.random.Generator) -> list[Point]:
        before = clicks[index]
        where = error_point if own.random() >= ANYWHERE else anywhere_in_error
        click = where(masks[index], labels == classes[index], own) if before else None
        return [*before, click] if click else before

    return _side_by_side(of_object, range(len(classes)), rng, workers)


def _side_by_side(
    of_object: Callable[[int, np.random.Generator], list[Point]],
    objects: Sequence[int],
    rng: np.random.Generator,
    workers: int,
) -> list[list[Point]]:
    """One generator an object, so that the points do not depend on the number of threads."""
    own = rng.spawn(len(objects))
    if workers == 1 or len(objects) < 2:
        return [of_object(o, g) for o, g in zip(objects, own, strict=True)]
    with ThreadPoolExecutor(min(workers, len(objects))) as pool:
        return list(pool.map(of_object, objects, own))


def _box_of(boxes: Sequence[Box | None], label: int) -> Box | None:
    return boxes[label - 1] if 1 <= label <= len(boxes) else None


def _click(
    voxel: Sequence[np.integer | int] | NDArray[np.integer], foreground: bool, origin: Sequence[int] = (0, 0, 0)
) -> Point:
    z, y, x = (int(v) + o for v, o in zip(voxel, origin, strict=True))
    return Point((z, y, x), foreground)

"""A chain of windows along an object that one window shows too coarsely: a vessel, a spine, clicks that lie far apart.

The whole is looked at first, coarsely. Where its mask is thin there, what the mask and the clicks take up is halved,
and its halves again, as long as their windows become finer. Each part is then looked at in a window of its own,
prompted by the clicks that lie in it and by points in the middle of the coarse mask; and all answers are blended, the
coarse one where no other reaches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts
from gstk.core.resampling import resample
from gstk.core.window import Faces, Window, WindowPolicy, frame
from gstk.session.click_update import clicked_components

__all__ = ["Chain", "Link", "Part", "Seed", "blend", "grid_of", "links_of", "parts_of", "solid"]

MOST_PARTS = 6
FINER = 1.5
"""A chain is made where the voxels of its windows are so many times shorter than those of the one window."""
THIN = 3
"""A mask is thin whose voxels are all so near to its border, counted in voxels of the one window along the axes. What
is thicker is shown well enough there: for `tiny`, windows that hold less of it were worse (0.72 for 0.83 Dice)."""
SEEDS = 3
"""Points of the coarse mask that prompt a window. With one, `tiny` found less than half of what it did with three."""
ENOUGH = 1.1
"""Of the chains that are finer by no more than this, the one of the fewest windows is made."""
RAMP = 0.2
"""Share of a window's side over which its answer fades out towards a face that has the volume on both sides."""
BLENDED_VOXELS = 4_000_000
"""Most voxels of the grid that answers are blended on."""
_SOLID = 8


@dataclass(frozen=True, eq=False)
class Part:
    """A part of an object.

    Attributes:
        cells: which of the cells that the object was divided from, int64 (K,), rising.
        window: around them.
    """

    cells: NDArray[np.int64]
    window: Window


class Seed(NamedTuple):
    """A point that stands for a click.

    Attributes:
        zyx: a voxel of the volume inside the coarse mask.
        reach_mm: how far around it all was inside.
    """

    zyx: tuple[float, float, float]
    reach_mm: float


@dataclass(frozen=True, eq=False)
class Link:
    """A window of a chain and what the network made of it.

    Attributes:
        window: what the network saw.
        seeds: where the coarse mask was deepest in it.
        logits: float32 (z,y,x) on the window's grid; None before it was looked at.
    """

    window: Window
    seeds: tuple[Seed, ...] = ()
    logits: NDArray[np.float32] | None = None

    def points(self, prompts: ObjectPrompts, geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """What the network is told: (K,3) voxels of the volume and their labels, seeds before clicks.

        A click beside the object within a seed's reach takes the seed back.
        """
        own = [p for p in prompts.points if self.window.holds(np.array(p.zyx, np.float64))]
        points: list[tuple[Sequence[float], int]] = []
        for seed in self.seeds:
            away = [(np.array(p.zyx) - seed.zyx) * geometry.spacing_mm for p in own if not p.foreground]
            if all(float((d * d).sum()) > seed.reach_mm**2 for d in away):
                points.append((seed.zyx, 1))
        points += [(p.zyx, int(p.foreground)) for p in own]
        coords = np.array([zyx for zyx, _ in points], np.float64).reshape(-1, 3)
        return coords, np.array([label for _, label in points], np.int64)

    def weight(self, zyx: Sequence[float], shape: Sequence[int]) -> float:
        """Of its answer at a voxel of a volume of `shape`, 0–1."""
        at = [np.array([i + 0.5]) for i in zyx]
        return float(math.prod(float(w[0]) for w in _weights(self.window, at, shape)))


@dataclass(frozen=True, eq=False)
class Chain:
    """Answers for an object in several windows.

    Attributes:
        coarse: float32 logits on the grid of the object's window, of the whole.
        links: those that were looked at.
        grid: what they are blended on.
    """

    coarse: NDArray[np.float32]
    links: tuple[Link, ...]
    grid: Window

    @property
    def size_bytes(self) -> int:
        return self.coarse.nbytes + sum(link.logits.nbytes for link in self.links if link.logits is not None)

    def weight(self, zyx: Sequence[float], shape: Sequence[int]) -> float:
        """Of the links' answers at a voxel of a volume of `shape`, 0–1; the rest is the coarse one's."""
        return min(1.0, sum(link.weight(zyx, shape) for link in self.links))

    def blended(self, window: Window, shape: Sequence[int]) -> NDArray[np.float32]:
        """Logits on the grid.

        Args:
            window: the object's, that `coarse` is on.
            shape: of the volume.
        """
        start = [(a - b) / t for a, b, t in zip(self.grid.start, window.start, window.step, strict=True)]
        step = [a / b for a, b in zip(self.grid.step, window.step, strict=True)]
        coarse = resample(self.coarse, start, step, self.grid.shape, outside="edge")
        answers = [(link.window, link.logits) for link in self.links if link.logits is not None]
        return blend(self.grid, shape, coarse, answers)


def parts_of(geometry: Geometry, cells: Faces, policy: WindowPolicy, side_mm: float) -> list[Part]:
    """The parts that an object is looked at in, or none where no chain is much finer than one window.

    Args:
        geometry: the volume's.
        cells: first and last faces, float64 (K,3) voxels of the volume, of small boxes that fill the object.
        policy: how windows are made; they are not finer than the volume.
        side_mm: of a voxel of the one window.
    """
    found = [_part(geometry, cells, np.arange(len(cells[0])), policy)]
    chains = [found]
    finest_mm = min(geometry.spacing_mm)
    while len(found) < MOST_PARTS:
        # The coarsest that can be halved, the first of them.
        order = sorted(range(len(found)), key=lambda i: -found[i].window.side_mm(geometry))
        for index in order:
            halves = (
                [] if found[index].window.side_mm(geometry) <= finest_mm else _halves(geometry, cells, found[index])
            )
            if halves:
                new = [_part(geometry, cells, half, policy) for half in halves]
                found = [*found[:index], *new, *found[index + 1 :]]
                break
        else:
            break
        chains.append(found)
    sides = [max(part.window.side_mm(geometry) for part in chain) for chain in chains]
    chosen = next(i for i, side in enumerate(sides) if side <= ENOUGH * min(sides))
    return chains[chosen] if chosen > 0 and sides[chosen] * FINER <= side_mm else []


def _part(geometry: Geometry, cells: Faces, own: NDArray[np.int64], policy: WindowPolicy) -> Part:
    low, high = cells[0][own].min(axis=0), cells[1][own].max(axis=0)
    spacing = np.array(geometry.spacing_mm)
    # A click alone says nothing about the object's size; its window is one of the volume's finest spacing.
    least = min(geometry.spacing_mm) * policy.max_voxels ** (1 / 3) / (1 + 2 * policy.margin) / spacing
    wider = np.maximum(least - (high - low), 0) / 2
    return Part(own, frame(geometry, low - wider, high + wider, replace(policy, min_step=1.0)))


def _halves(geometry: Geometry, cells: Faces, part: Part) -> list[NDArray[np.int64]]:
    """The cells before and behind the middle of the longest axis; nothing where they are all on one side."""
    low, high = cells[0][part.cells], cells[1][part.cells]
    first, last = low.min(axis=0), high.max(axis=0)
    axis = int(np.argmax((last - first) * geometry.spacing_mm))
    before = (low[:, axis] + high[:, axis]) / 2 < (first[axis] + last[axis]) / 2
    halves = [part.cells[before], part.cells[~before]]
    return halves if all(len(half) for half in halves) else []


def solid(low: NDArray[np.float64], high: NDArray[np.float64]) -> Faces:
    """Cells that fill a box between two faces, (3,) voxels of the volume."""
    index = np.indices((_SOLID,) * 3).reshape(3, -1).T
    size = (high - low) / _SOLID
    return low + index * size, low + (index + 1) * size


def links_of(
    geometry: Geometry, window: Window, logits: NDArray[np.float32], prompts: ObjectPrompts, policy: WindowPolicy
) -> list[Link]:
    """What to look at, in order, after a coarse look; nothing where that was fine enough or saw nothing.

    Args:
        geometry: the volume's.
        window, logits: of the coarse look, float32 (z,y,x) on the window's grid.
        prompts: what was said.
        policy: how windows are made.
    """
    side_mm = window.side_mm(geometry)
    if side_mm < FINER * min(geometry.spacing_mm):
        return []
    clicks = prompts.clicked(foreground_only=True)
    mask = clicked_components(logits > 0, window.to_window(clicks))
    voxels = np.argwhere(mask)
    low = np.concatenate([voxels * window.step + window.start, clicks])
    high = np.concatenate([(voxels + 1) * window.step + window.start, clicks + 1])
    if not len(low):
        return []
    from scipy import ndimage  # see `gstk.core.regions`

    # Beyond the ends of the window and of the volume the object may go on.
    shown = mask | _beyond(window, geometry.shape)
    depth = ndimage.distance_transform_cdt(shown, "taxicab")
    if shown.all() or depth[mask].max(initial=0) > THIN:
        return []
    centres = np.asarray((voxels + 0.5) * window.step + window.start - 0.5, np.float64)
    links = []
    for part in parts_of(geometry, (low, high), policy, side_mm):
        within = voxels[part.window.holds(centres)].astype(np.int64)
        seeds = [_deepest(depth, stretch) for stretch in _stretches(within)]
        places = [((voxel + 0.5) * window.step + window.start - 0.5).tolist() for voxel, _ in seeds]
        found = [Seed((z, y, x), d * side_mm) for (z, y, x), (_, d) in zip(places, seeds, strict=True)]
        links.append(Link(part.window, tuple(found)))
    return links


def _beyond(window: Window, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Which voxels of a window have their centres outside a volume of `shape`."""
    beyond = np.zeros(window.shape, bool)
    for axis, (start, step, n) in enumerate(zip(window.start, window.step, shape, strict=True)):
        centre = (np.arange(window.shape[axis]) + 0.5) * step + start
        np.moveaxis(beyond, axis, 0)[(centre < 0) | (centre > n)] = True
    return beyond


def _stretches(voxels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Voxels (K,3) divided along the axis on which they are longest, those parts that are not empty."""
    if not len(voxels):
        return []
    first, last = voxels.min(axis=0), voxels.max(axis=0)
    axis = int(np.argmax(last - first))
    index = SEEDS * (voxels[:, axis] - first[axis]) // (last[axis] - first[axis] + 1)
    return [voxels[index == i] for i in range(SEEDS) if (index == i).any()]


def _deepest(depth: NDArray[np.int32], voxels: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The voxel of (K,3) that is deepest, the nearest to the middle of all of those that are as deep; and its depth."""
    depths = depth[tuple(voxels.T)]
    deepest = voxels[depths == depths.max()]
    off = ((2 * deepest - voxels.min(axis=0) - voxels.max(axis=0)) ** 2).sum(axis=1)
    return deepest[np.argmin(off)], int(depths.max())


def grid_of(geometry: Geometry, window: Window, links: Sequence[Link]) -> Window:
    """What the answers of a chain are blended on: a part of the object's window, divided up to the volume's spacing."""
    start, step = np.array(window.start), np.array(window.step)
    low = (np.min([link.window.start for link in links], axis=0) - start) / step
    high = (np.max([link.window.stop for link in links], axis=0) - start) / step
    first = np.maximum(np.floor(low), 0).astype(int).tolist()
    last = np.minimum(np.ceil(high), window.shape).astype(int).tolist()
    voxels = math.prod(b - a for a, b in zip(first, last, strict=True))
    finer = max(1, round(window.side_mm(geometry) / min(geometry.spacing_mm)))
    while finer > 1 and voxels * finer**3 > BLENDED_VOXELS:
        finer -= 1
    return window.part(first, last, finer)


def blend(
    grid: Window,
    shape: Sequence[int],
    coarse: NDArray[np.float32],
    answers: Sequence[tuple[Window, NDArray[np.float32]]],
) -> NDArray[np.float32]:
    """Answers of overlapping windows as one, without seams; where they are constant, so is it.

    A window's answer fades out towards its faces, but not at the volume's ends; weights are then made to sum to 1, and
    what the windows leave of it is the coarse answer's.

    Args:
        grid: where the result is wanted.
        shape: of the volume, (z,y,x).
        coarse: float32 (z,y,x) on `grid`.
        answers: windows, and values on their grids, float32 (z,y,x).

    Returns:
        float32 (z,y,x) on `grid`.
    """
    total, weights = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    sides = zip(grid.start, grid.step, grid.shape, strict=True)
    faces = [np.asarray(a + (np.arange(n) + 0.5) * t, np.float64) for a, t, n in sides]
    for window, values in answers:
        start = [(a - b) / t for a, b, t in zip(window.start, grid.start, grid.step, strict=True)]
        step = [a / b for a, b in zip(window.step, grid.step, strict=True)]
        local = Window(tuple(start), tuple(step), window.shape)  # type: ignore[arg-type]
        where = local.inside(grid.shape)
        z, y, x = _weights(window, [axis[s] for axis, s in zip(faces, where, strict=True)], shape)
        weight = z[:, None, None] * y[None, :, None] * x[None, None, :]
        total[where] += weight * local.back(values, grid.shape)
        weights[where] += weight
    rest = np.maximum(np.float32(1) - weights, np.float32(0))
    return np.asarray((total + rest * coarse) / (weights + rest))


def _weights(window: Window, faces: Sequence[NDArray[np.float64]], shape: Sequence[int]) -> list[NDArray[np.float32]]:
    """Of a window's answer along each axis, float32 0–1, at face coordinates of the volume."""
    found = []
    for at, start, stop, n in zip(faces, window.start, window.stop, shape, strict=True):
        ramp = RAMP * (stop - start)
        rising = np.ones_like(at) if start <= 0 else (at - start) / ramp
        falling = np.ones_like(at) if stop >= n else (stop - at) / ramp
        found.append(np.clip(np.minimum(rising, falling), 0, 1).astype(np.float32))
    return found

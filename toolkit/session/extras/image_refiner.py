"""Refines a network's logits by the image: by its edges and brightness, by the box, and by the clicks.

Three kinds of evidence are added to the logits:

- a box prior: how far a voxel lies from the middle of the box, except where clicks show that it is no ellipsoid;
- a geodesic score: whether it is nearer to clicks on the object or to background seeds, along paths that cross few
  edges (as in GeoS, Criminisi et al., doi:10.1007/978-3-540-88682-2_9);
- appearance: whether its brightness and texture are the object's or the background's, by histograms that are taken from
  the mask and change it in turn (as in GrabCut, Rother et al., doi:10.1145/1015706.1015720).

Weights were chosen on real cases.

Sums run in a fixed order, mostly in float32, so that `cpp/src/refine.cpp` finds the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts
from gstk.core.window import Window
from gstk.session.click_update import clicked_components

__all__ = [
    "ImageFields",
    "LocalPrompts",
    "fine_part",
    "geodesic_score",
    "geodesic_steps",
    "local_prompts",
    "refine_logits",
    "squared_radii",
]

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Shape = tuple[int, ...]

MAX_LOGIT = np.float32(6)
"""Beyond it, a logit says no more about how sure the network is."""
TRUST, TRUST_WITH_BOX = np.float32(0.75), np.float32(0.5)
"""Weight of the network's logits, less where a box says where the object ends."""
BOX_WEIGHT, LEAST_BOX = np.float32(6), np.float32(-3)
"""Weight of 1 - r², r being 1 on the ellipsoid that the box holds; and its least value."""
SURROUNDINGS = np.float32(1.5)
"""The appearance of the background is taken from within this many half sides of the box."""
BEYOND = np.float32(1.15)
"""All that is further out than this many half sides is a background seed."""
PATH_WEIGHT = np.float32(8)
EDGE = np.float32(0.05)
"""Change of brightness from voxel to voxel that makes a step as long as one voxel."""
FLAT = np.float32(0.02)
"""Length of a step where brightness does not change, in voxels."""
SWEEPS = 2
FAR = np.float32(1e6)
APPEARANCE_WEIGHT, MAX_APPEARANCE = np.float32(2), np.float32(3)
"""Weight of the logarithm of the ratio of two histograms, and where that is cut off."""
APPEARANCE_ROUNDS = 2
BRIGHTNESS_BINS, TEXTURE_BINS = 24, 12
CLICKED_SHARE = 0.3
"""Weight of the voxels around clicks in a histogram, over all others."""
EVEN_SHARE = 0.1
"""Share that is spread evenly over a histogram, over all else, so that no bin is empty."""
BINOMIAL = (1, 4, 6, 4, 1)
COARSE = 1.4
"""A window whose voxels are this many times as long as the volume's shortest is refined on a finer grid."""
MOST_FINER, FINE_VOXELS = 3, 2_200_000
RIM = 2
"""Voxels of the window around what that grid has to contain."""


class LocalPrompts(NamedTuple):
    """An object's prompts on the grid of a window.

    Attributes:
        points: float64 (K,3), voxel coordinates of the clicks (z,y,x), integers at voxel centres; may lie outside.
        foreground: bool (K,).
        box: float64 (2,3), first and last face of the box in voxel coordinates, or None.
    """

    points: NDArray[np.float64]
    foreground: Mask
    box: NDArray[np.float64] | None = None


def local_prompts(window: Window, prompts: ObjectPrompts) -> LocalPrompts:
    """Prompts in voxel coordinates of a window."""
    faces = None
    if prompts.box is not None:
        low, high = np.array(prompts.box.corners(), np.float64)
        faces = window.to_window(np.stack([low - 0.5, high + 0.5])).astype(np.float64)
    foreground = np.array([p.foreground for p in prompts.points], bool)
    return LocalPrompts(window.to_window(prompts.clicked()).astype(np.float64), foreground, faces)


@dataclass
class ImageFields:
    """What refinement takes from the image alone, and what clicks leave as it was; kept from click to click.

    Attributes:
        smooth: float32 (z,y,x), mean of three voxels a side.
        appearance: uint16 (z,y,x), bin of brightness and texture.
        steps: geodesic length of a step from a plane to the next, planes of each axis in turn first.
        distances: seeds and the distances from them, of the object's seeds and of the background's, as computed last.
    """

    smooth: Field
    appearance: NDArray[np.uint16]
    steps: list[Field]
    distances: dict[str, tuple[Mask, Field]] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Field) -> ImageFields:
        """The fields of an image, float32 (z,y,x), 0–1; two voxels or more along each axis."""
        smooth = _mean3(image)
        spread = np.sqrt(np.maximum(_mean3(image * image) - smooth * smooth, np.float32(0)))
        appearance = _bins(smooth, BRIGHTNESS_BINS) * TEXTURE_BINS + _bins(2 * spread, TEXTURE_BINS)
        return cls(smooth, appearance.astype(np.uint16), geodesic_steps(smooth))

    def distances_from(self, kind: str, seeds: Mask) -> Field:
        """Geodesic distances from seeds of a kind; those of the last call where its seeds were the same."""
        last = self.distances.get(kind)
        if last is not None and np.array_equal(last[0], seeds):
            return last[1]
        distances = _distances(seeds, self.steps)
        self.distances[kind] = seeds, distances
        return distances


def refine_logits(image: Field, logits: Field, local: LocalPrompts, fields: ImageFields | None = None) -> Field:
    """Logits corrected by the image and the prompts.

    Args:
        image: float32 (z,y,x), 0–1, the network's input; two voxels or more along each axis.
        logits: float32 (z,y,x), the network's, above 0 inside the object.
        fields: of the image, from an earlier call; None computes them. The result is the same.

    Returns:
        float32 (z,y,x), a fresh array, above 0 inside the object.
    """
    on, off = local.points[local.foreground], local.points[~local.foreground]
    trust = TRUST if local.box is None else TRUST_WITH_BOX
    total = np.clip(logits, -MAX_LOGIT, MAX_LOGIT) * trust
    if local.box is None:
        near = np.ones(image.shape, bool)
        beyond = logits < 0  # on the faces of the window, where nothing else says what is beside the object
        beyond[1:-1, 1:-1, 1:-1] = False
    else:
        on = np.concatenate([on, (local.box[:1] + local.box[1:]) / 2])
        # A click on the object beyond the box shows that the box is too small.
        low, high = np.minimum(local.box[0], on.min(axis=0) - 0.5), np.maximum(local.box[1], on.max(axis=0) + 0.5)
        radius2, farthest2 = squared_radii(image.shape, low, high)
        prior = np.maximum(1 - radius2, LEAST_BOX)
        relax_box_prior(prior, low, high, ((on, True), (off, False)))
        total += BOX_WEIGHT * prior
        near, beyond = farthest2 < SURROUNDINGS * SURROUNDINGS, farthest2 > BEYOND * BEYOND
    fields = ImageFields.of(image) if fields is None else fields
    inner, outer = _around(image.shape, on), _around(image.shape, off)
    total += PATH_WEIGHT * geodesic_score(fields, inner, (outer | beyond) & ~inner)
    appearance = fields.appearance.astype(np.intp)
    result = total
    for _ in range(APPEARANCE_ROUNDS):
        inside = 1 / (1 + np.exp(-result))
        mask = clicked_components(result > 0, on.astype(np.float32))
        own = _histogram(appearance, inside * mask if mask.any() else inside, inner)
        others = _histogram(appearance, (1 - inside) * near, outer)
        ratio = np.clip(np.log(own / others).astype(np.float32), -MAX_APPEARANCE, MAX_APPEARANCE)
        result = total + APPEARANCE_WEIGHT * _mean3(ratio[appearance])
    return result


def fine_part(geometry: Geometry, window: Window, local: LocalPrompts) -> tuple[list[int], list[int], int]:
    """The part of a window that logits are refined on, and how many times finer than the window.

    A window of a large object is coarser than the volume, and the image knows its border better than that. Where it is,
    the grid is refined up to the volume's finest spacing, three times at most, and as `FINE_VOXELS` allow. Around a box
    (and the clicks on the object) it then ends where the background's appearance is no longer taken from.

    Returns:
        First voxels, last ones plus one, along (z,y,x), and the factor; the whole window and 1 where it is fine enough.
    """
    low, high = [0, 0, 0], list(window.shape)
    coarser = window.side_mm(geometry) / min(geometry.spacing_mm)
    if coarser < COARSE:
        return low, high, 1
    if local.box is not None:
        on = local.points[local.foreground]
        for axis, n in enumerate(window.shape):
            middle, half = local.box[:, axis].mean(), np.diff(local.box[:, axis])[0] / 2
            ends = [middle - SURROUNDINGS * half, middle + SURROUNDINGS * half, *on[:, axis]]
            low[axis], high[axis] = max(0, math.floor(min(ends)) - RIM), min(n, math.ceil(max(ends)) + RIM + 1)
    voxels = math.prod(b - a for a, b in zip(low, high, strict=True))
    finer = min(MOST_FINER, round(coarser))
    while finer > 1 and voxels * finer**3 > FINE_VOXELS:
        finer -= 1
    return (low, high, finer) if finer > 1 else ([0, 0, 0], list(window.shape), 1)


def squared_radii(shape: Shape, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[Field, Field]:
    """Squared distance from a box's middle in half sides: Euclidean, and along the axis where it is largest."""
    axes = []
    for n, a, b in zip(shape, low, high, strict=True):
        half = max((b - a) / 2, 0.5)
        axes.append((((np.arange(n) - (a + b) / 2) / half) ** 2).astype(np.float32))
    z, y, x = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    return z + y + x, np.maximum(np.maximum(z, y), x)


def relax_box_prior(
    prior: Field,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    clicks: Iterable[tuple[NDArray[np.float64], bool]],
) -> None:
    """Reduces the box prior, in place, around clicks that contradict it: 0 there, unchanged far away.

    The further a click is from the ellipsoid, in half sides, the more of the object is not as the box has it.
    """
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 0.5)
    for points, foreground in clicks:
        for point in points:
            z, y, x = np.clip(np.rint(point), 0, np.array(prior.shape) - 1).astype(int)
            value = prior[z, y, x]
            if (value > 0) == foreground:
                continue
            width = half * abs(1 - math.sqrt(float((((point - middle) / half) ** 2).sum())))
            radius2, _ = squared_radii(prior.shape, point - width, point + width)
            prior -= value * np.exp(-radius2)


def _around(shape: Shape, points: NDArray[np.float64]) -> Mask:
    """A mask of the cubes of three voxels a side around each point."""
    mask = np.zeros(shape, bool)
    for voxel in np.clip(np.rint(points), 0, np.array(shape) - 1).astype(int):
        mask[tuple(slice(max(0, i - 1), i + 2) for i in voxel)] = True
    return mask


def _mean3(values: Field) -> Field:
    """Mean of three voxels a side, those at the faces taken twice."""
    for axis in range(3):
        total = values.copy()
        given, sums = np.moveaxis(values, axis, 0), np.moveaxis(total, axis, 0)
        sums[1:] += given[:-1]
        sums[0] += given[0]
        sums[:-1] += given[1:]
        sums[-1] += given[-1]
        total *= np.float32(1 / 3)
        values = total
    return values


def geodesic_score(fields: ImageFields, inner: Mask, outer: Mask) -> Field:
    """1 at inner seeds, -1 at outer ones, between them by geodesic distances; 0 where one kind is missing."""
    if not inner.any() or not outer.any():
        return np.zeros_like(fields.smooth)
    near, far = fields.distances_from("inner", inner), fields.distances_from("outer", outer)
    return (far - near) / (far + near)


def geodesic_steps(smooth: Field) -> list[Field]:
    """Length of a step from a plane to the next, along each axis: long where brightness changes, planes first."""
    slope2 = np.zeros_like(smooth)
    for axis in range(3):
        given, sums = np.moveaxis(smooth, axis, 0), np.moveaxis(slope2, axis, 0)
        change = np.empty_like(given)
        change[1:-1] = (given[2:] - given[:-2]) * np.float32(0.5)
        change[0], change[-1] = given[1] - given[0], given[-1] - given[-2]
        sums += change * change
    cost = slope2 * (1 / (EDGE * EDGE)) + FLAT
    lines = [np.moveaxis(cost, axis, 0) for axis in range(3)]
    return [np.ascontiguousarray((line[1:] + line[:-1]) * np.float32(0.5)) for line in lines]


def _distances(seeds: Mask, steps: list[Field]) -> Field:
    """Geodesic distance from the nearest seed, by sweeps along z, y and x, forth and back.

    Args:
        steps: what a step from a plane to the next costs, planes of each axis in turn first.
    """
    distance = np.where(seeds, np.float32(0), FAR)
    for _ in range(SWEEPS):
        for axis, step in enumerate(steps):
            along = np.moveaxis(distance, axis, 0)
            planes = np.ascontiguousarray(along)  # a copy for y and x: their planes are scattered in memory
            reached = np.empty(planes.shape[1:], np.float32)
            for i in range(1, len(planes)):
                np.minimum(planes[i], np.add(planes[i - 1], step[i - 1], out=reached), out=planes[i])
            for i in range(len(planes) - 2, -1, -1):
                np.minimum(planes[i], np.add(planes[i + 1], step[i], out=reached), out=planes[i])
            if axis:
                along[...] = planes
    return distance


def _bins(values: Field, count: int) -> NDArray[np.intp]:
    return np.minimum((values * np.float32(count)).astype(np.intp), count - 1)


def _histogram(appearance: NDArray[np.intp], weights: Field, clicked: Mask) -> NDArray[np.float64]:
    """Shares of the bins, float64, smoothed, with extra weight for what was clicked; they sum to 1 + EVEN_SHARE."""
    size = BRIGHTNESS_BINS * TEXTURE_BINS
    shares = _shares(np.bincount(appearance.ravel(), weights.ravel(), size))
    if clicked.any():
        shares = _shares(shares + CLICKED_SHARE * _shares(np.bincount(appearance[clicked], minlength=size)))
    grid = shares.reshape(BRIGHTNESS_BINS, TEXTURE_BINS)
    for axis in range(2):
        padded = np.pad(np.moveaxis(grid, axis, 0), ((2, 2), (0, 0)), mode="edge")
        count = grid.shape[axis]
        rows = [weight / 16 * padded[i : i + count] for i, weight in enumerate(BINOMIAL)]
        grid = np.moveaxis(rows[0] + rows[1] + rows[2] + rows[3] + rows[4], 0, axis)
    return _shares(grid.ravel()) + EVEN_SHARE / size


def _shares(counts: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
    return np.asarray(counts / max(float(counts.sum()), 1e-6))

"""Applies a click to a mask: only voxels connected to the click and near it change.

A mask is kept as logits on a region of the volume, above 0 inside the object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.regions import Region, components_with, union

__all__ = [
    "ERROR_REACH",
    "ClickScope",
    "apply_click",
    "clicked_components",
    "enforce_clicks",
    "fallback_mask",
    "keep_clicked_components",
    "spread",
    "squared_distance",
]

Weigh = Callable[[Region, NDArray[np.float32], NDArray[np.float32]], None]
"""Called with a region, the logits before a click and those after it; changes the latter in place."""

BALL_VOXELS = 3
"""Radius of the ball that stands for a click without the network, in voxels of the finest spacing."""
ERROR_REACH = 5.0
"""A click changes voxels up to this many times as far from it as from the nearest voxel that is right as it is: a wrong
part is seldom longer, and a border that shifts everywhere is no local correction. At least `BALL_VOXELS`."""
REACH = 2.0**0.5
"""A click changes voxels up to this many times as far from it as from the nearest click that says the opposite."""


def clicked_components(mask: NDArray[np.bool_], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The 26-connected components of a mask that contain a point; the whole mask where none does."""
    index = np.rint(points.reshape(-1, 3)).astype(int)
    index = index[((index >= 0) & (index < mask.shape)).all(axis=1)]
    return components_with(mask, index) if mask[tuple(index.T)].any() else mask


def keep_clicked_components(values: NDArray[np.float32], region: Region, prompts: ObjectPrompts) -> NDArray[np.float32]:
    """The logits, -1 in components of the mask that no foreground click lies in; unchanged where it lies in none."""
    local = (prompts.clicked(foreground_only=True) - [axis.start for axis in region]).astype(np.float32)
    mask = values > 0
    return np.where(mask & ~clicked_components(mask, local), np.float32(-1), values)


def enforce_clicks(values: NDArray[np.float32], region: Region, prompts: ObjectPrompts) -> None:
    """Sets the clicked voxels to what the clicks say, in place: at least 1 on the object, at most -1 off it."""
    for point in prompts.points:
        voxel = tuple(i - axis.start for i, axis in zip(point.zyx, region, strict=True))
        if all(0 <= i < n for i, n in zip(voxel, values.shape, strict=True)):
            values[voxel] = max(values[voxel], 1) if point.foreground else min(values[voxel], -1)


class ClickScope(NamedTuple):
    """How far a click may change a mask.

    Attributes:
        click: where, and whether the object is there.
        opposite: voxels (z,y,x) of the clicks that say the opposite.
        spacing_mm: voxel size (z,y,x) that distances from them are measured in.
        weigh: changes the new logits by their distance from the click; None takes them as they are.
        is_boxed: whether a box says where the object ends.
    """

    click: Point
    opposite: list[tuple[int, int, int]]
    spacing_mm: tuple[float, float, float]
    weigh: Weigh | None = None
    is_boxed: bool = False

    @classmethod
    def of(
        cls, click: Point, prompts: ObjectPrompts, spacing_mm: tuple[float, float, float], weigh: Weigh | None = None
    ) -> ClickScope:
        """The scope of a click among all prompts of its object; a box's centre counts as a foreground click."""
        opposite = [p.zyx for p in prompts.points if p.foreground != click.foreground]
        if prompts.box is not None and not click.foreground:
            opposite.append(prompts.box.centre())
        return cls(click, opposite, spacing_mm, weigh, prompts.box is not None)


def apply_click(
    scope: ClickScope,
    before_region: Region,
    before: NDArray[np.float32],
    after_region: Region,
    after: NDArray[np.float32],
) -> tuple[Region, NDArray[np.float32]]:
    """The mask before a click, changed to the one after it only where the click asks for that.

    As VISTA3D's own inference does (`connected_components_combine`), a foreground click adds what is connected to it
    and a background click removes what is connected to it. Neither reaches far beyond a click that says the opposite,
    nor further than `ERROR_REACH` times the distance to where the mask before is as the click says. That far reaches an
    answer which changes nothing else, or is bounded by a box; the less of what it changes belongs to the click, the
    less it is about the click, and the factor falls with the root of that share, towards 1.

    Returns:
        A region around both masks, and float32 logits on it, a fresh array.
    """
    click = scope.click
    region = union(before_region, after_region)
    if not all(axis.start <= i < axis.stop for i, axis in zip(click.zyx, region, strict=True)):
        return before_region, before.copy()  # the click lies outside both masks' regions
    old, new = (spread(r, v, region) for r, v in ((before_region, before), (after_region, after)))
    if scope.weigh is not None:
        scope.weigh(region, old, new)
    changed = (new > 0) & (old <= 0) if click.foreground else (new <= 0) & (old > 0)
    asked = tuple(slice(a.start - w.start, a.stop - w.start) for a, w in zip(after_region, region, strict=True))
    everywhere = int(np.count_nonzero(changed[asked]))
    distance2 = squared_distance(click.zyx, region, scope.spacing_mm)
    right = (old > 0) == click.foreground
    radius2 = distance2.min(initial=np.float32(np.inf), where=right)
    for point in scope.opposite:
        changed &= distance2 < REACH**2 * squared_distance(point, region, scope.spacing_mm)
    voxel = tuple(i - axis.start for i, axis in zip(click.zyx, region, strict=True))
    least2 = np.float32((BALL_VOXELS * min(scope.spacing_mm)) ** 2)

    def clicked(part: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
        """Of a part that ends at the reach, what is connected to the click."""
        near = part & (distance2 <= max(np.float32(reach**2) * radius2, least2))
        return components_with(near, np.array([voxel]))

    if not changed[voxel]:
        return region, old
    own = clicked(changed, ERROR_REACH)
    share = int(np.count_nonzero(own)) / max(everywhere, 1)
    if share < 1 and not scope.is_boxed:
        own = clicked(own, 1 + (ERROR_REACH - 1) * math.sqrt(share))
    return region, np.where(own, new, old)


def fallback_mask(
    prompts: ObjectPrompts, geometry: Geometry, region: Region | None, logits: NDArray[np.float32] | None
) -> tuple[Region, NDArray[np.float32]]:
    """A mask made without the network: the mask before, else the ellipsoid in the box, with a small ball at each click.

    Args:
        prompts: those that the mask before does not include yet; a box, foreground click or mask before is required.
        geometry: the volume's.
        region, logits: the mask before; None where there is none.
    """
    radius_mm = BALL_VOXELS * min(geometry.spacing_mm)
    parts = [] if region is None else [region]
    if prompts.box is not None:
        low, high = prompts.box.corners()
        parts.append(_clipped(np.array(low), np.array(high) + 1, geometry.shape))
    reach = np.ceil(radius_mm / np.array(geometry.spacing_mm)).astype(int)
    parts += [_clipped(p.zyx - reach, p.zyx + reach + 1, geometry.shape) for p in prompts.points if p.foreground]
    whole = parts[0]
    for part in parts[1:]:
        whole = union(whole, part)
    values = np.full([axis.stop - axis.start for axis in whole], -1, np.float32)
    if region is not None and logits is not None:
        values = spread(region, logits, whole)
    elif prompts.box is not None:
        inside = np.zeros(values.shape, np.float32)
        for axis, (first, last) in enumerate(zip(*prompts.box.corners(), strict=True)):
            at = np.arange(whole[axis].start, whole[axis].stop, dtype=np.float32)
            along = ((at - (first + last) / 2) / ((last - first + 1) / 2)) ** 2
            inside += along.reshape([-1 if a == axis else 1 for a in range(3)])
        values[inside <= 1] = 1
    for point in prompts.points:
        near = _clipped(point.zyx - reach, point.zyx + reach + 1, geometry.shape)
        inner = tuple(
            slice(max(a.start - w.start, 0), max(min(a.stop, w.stop) - w.start, 0))
            for a, w in zip(near, whole, strict=True)
        )
        ball = squared_distance(point.zyx, _shifted(inner, whole), geometry.spacing_mm) <= radius_mm**2
        values[inner][ball] = 1 if point.foreground else -1
    return whole, values


def _shifted(inner: tuple[slice, ...], whole: Region) -> Region:
    z, y, x = (slice(i.start + w.start, i.stop + w.start) for i, w in zip(inner, whole, strict=True))
    return (z, y, x)


def _clipped(low: NDArray[Any], high: NDArray[Any], shape: tuple[int, int, int]) -> Region:
    z, y, x = (slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, shape, strict=True))
    return (z, y, x)


def squared_distance(
    zyx: tuple[int, int, int], region: Region, spacing_mm: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Squared distance of each voxel of a region from a voxel, mm², float32 (z,y,x)."""
    axes = [
        ((np.arange(axis.start, axis.stop, dtype=np.float32) - i) * np.float32(s)) ** 2
        for axis, i, s in zip(region, zyx, spacing_mm, strict=True)
    ]
    return np.asarray(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])


def spread(region: Region, values: NDArray[np.float32], wider: Region) -> NDArray[np.float32]:
    """Logits of a region on a wider one; -1, outside the mask, beyond the region, which may be empty."""
    wide = np.full([axis.stop - axis.start for axis in wider], -1, np.float32)
    if values.size:
        inner = tuple(slice(a.start - w.start, a.stop - w.start) for a, w in zip(region, wider, strict=True))
        wide[inner] = values
    return wide

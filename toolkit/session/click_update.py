"""What a click does to a mask: it changes what is connected to it and near it.

A mask is kept as logits on a box of the volume, above 0 inside the object. How clicks weigh on refined logits was
chosen while looking at the real cases that `benchmarks/real_cases.py` scores, and at generated phantoms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.regions import Region, connected_components, union

__all__ = [
    "ClickScope",
    "apply_click",
    "clicked_components",
    "enforce_clicks",
    "fallback_mask",
    "keep_clicked_components",
    "squared_distance",
]

BALL_VOXELS = 3
"""Radius of the ball that a click makes without the network, over the finest spacing."""
REACH = 2.0**0.5
"""A click changes voxels up to this many times as far from it as from the nearest click that says the opposite."""

CENTRE = np.float32(12)
"""Weight of 1 - r² for what was clicked, r being 1 on the ball around a click that touches the border of the mask."""
FAR_SHARE, WIDE = np.float32(0.3), np.float32(3)
"""Share of the answer to a background click, beside the mask before, far from it; half way there at so many radii."""
MAX_LOGIT = np.float32(6)
"""Beyond it, two masks are equally sure."""


def clicked_components(mask: NDArray[np.bool_], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The 26-connected parts of a mask that hold a point; all of it where none does."""
    parts, count = connected_components(mask)
    index = np.rint(points.reshape(-1, 3)).astype(int)
    index = index[((index >= 0) & (index < mask.shape)).all(axis=1)]
    held = np.zeros(count + 1, bool)
    held[parts[tuple(index.T)]] = True
    held[0] = False
    if not held.any():
        return mask
    return mask if held[1:].all() else held[parts]


def keep_clicked_components(values: NDArray[np.float32], region: Region, prompts: ObjectPrompts) -> NDArray[np.float32]:
    """Logits below 0 wherever the mask is not connected to a foreground click."""
    local = (prompts.clicked(foreground_only=True) - [axis.start for axis in region]).astype(np.float32)
    mask = values > 0
    return np.where(mask & ~clicked_components(mask, local), np.float32(-1), values)


def enforce_clicks(values: NDArray[np.float32], region: Region, prompts: ObjectPrompts) -> None:
    """Makes the clicked voxels what they were clicked as, in place: at least 1 on the object, at most -1 off it."""
    for point in prompts.points:
        voxel = tuple(i - axis.start for i, axis in zip(point.zyx, region, strict=True))
        if all(0 <= i < n for i, n in zip(voxel, values.shape, strict=True)):
            values[voxel] = max(values[voxel], 1) if point.foreground else min(values[voxel], -1)


class ClickScope(NamedTuple):
    """What says how far a click changes a mask.

    Attributes:
        click: where, and whether the object is there.
        opposite: voxels (z,y,x) of the clicks that say the opposite.
        spacing_mm: voxel size (z,y,x) that distances from them are measured in.
        weighed: logits are evidence of one scale (`session.image_refiner`), to be weighed against where the click is.
    """

    click: Point
    opposite: list[tuple[int, int, int]]
    spacing_mm: tuple[float, float, float]
    weighed: bool = False


def apply_click(
    reach: ClickScope,
    before_region: Region,
    before: NDArray[np.float32],
    after_region: Region,
    after: NDArray[np.float32],
) -> tuple[Region, NDArray[np.float32]]:
    """The mask before, changed to the one after in the part that the click asked for.

    As VISTA3D's own inference does (`connected_components_combine`), a foreground click adds what is connected to it
    and a background click takes such away. Neither reaches far beyond a click that said the opposite. Logits that may
    be weighed are, first, against where the click is.
    """
    click = reach.click
    region = union(before_region, after_region)
    if not all(axis.start <= i < axis.stop for i, axis in zip(click.zyx, region, strict=True)):
        return before_region, before  # neither mask comes near
    old, new = (_spread(r, v, region) for r, v in ((before_region, before), (after_region, after)))
    if reach.weighed:
        _weigh(click, region, old, new)
    changed = (new > 0) & (old <= 0) if click.foreground else (new <= 0) & (old > 0)
    own = squared_distance(click.zyx, region, reach.spacing_mm)
    for point in reach.opposite:
        changed &= own < REACH**2 * squared_distance(point, region, reach.spacing_mm)
    parts, _ = connected_components(changed)
    part = parts[tuple(i - axis.start for i, axis in zip(click.zyx, region, strict=True))]
    return region, np.where(parts == part, new, old) if part else old


def _weigh(click: Point, region: Region, old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
    """Makes the mask after a click, in place, what the click's place says of it too; both on the region, float32.

    Who corrects a mask clicks in the middle of what is wrong: so the official protocol does, and users. The ball around
    the click up to the border of the mask before is wrong, then, or most of it; and what a background click takes away
    from the mask far beyond that ball has to be plain from both masks: the same shift all around is no local error.
    """
    z, y, x = (i - axis.start for i, axis in zip(click.zyx, region, strict=True))
    right = (old > 0) == click.foreground
    away2 = squared_distance(click.zyx, region, (1.0, 1.0, 1.0))
    radius2 = float(away2.min(initial=np.inf, where=right))
    if not click.foreground:  # beyond the region there is no object
        radius2 = min(radius2, *((min(i + 1, n - i)) ** 2 for i, n in zip((z, y, x), old.shape, strict=True)))
    if right[z, y, x] or radius2 == np.inf:
        return
    radii2 = away2 / np.float32(radius2)
    np.clip(new, -MAX_LOGIT, MAX_LOGIT, out=new)
    if click.foreground:
        new += CENTRE * np.maximum(1 - radii2, 0)
        new[z, y, x] = max(new[z, y, x], 1)
    else:
        share = FAR_SHARE + (1 - FAR_SHARE) / (1 + radii2 / (WIDE * WIDE))
        new *= share
        new += (1 - share) * np.clip(old, -MAX_LOGIT, MAX_LOGIT)
        new -= CENTRE * np.maximum(1 - radii2, 0)
        new[z, y, x] = min(new[z, y, x], -1)


def fallback_mask(
    prompts: ObjectPrompts, geometry: Geometry, region: Region | None, logits: NDArray[np.float32] | None
) -> tuple[Region, NDArray[np.float32]]:
    """A mask without the network: the one before, or the ellipsoid in the box; with a small ball at each click.

    Args:
        prompts: what was said; there is a box, a foreground click or a mask before.
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
        values = _spread(region, logits, whole)
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
    """Of the voxels (z,y,x) of a region from a voxel, mm², float32."""
    axes = [
        ((np.arange(axis.start, axis.stop, dtype=np.float32) - i) * np.float32(s)) ** 2
        for axis, i, s in zip(region, zyx, spacing_mm, strict=True)
    ]
    return np.asarray(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])


def _spread(region: Region, values: NDArray[np.float32], wider: Region) -> NDArray[np.float32]:
    """Values of a region on a wider one; -1, outside the mask, where it does not reach."""
    spread = np.full([axis.stop - axis.start for axis in wider], -1, np.float32)
    inner = tuple(slice(a.start - w.start, a.stop - w.start) for a, w in zip(region, wider, strict=True))
    spread[inner] = values
    return spread

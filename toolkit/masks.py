"""What a click does to a mask: it changes what is connected to it and near it.

A mask is kept as logits on a box of the volume, above 0 inside the object.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gstk.prompts import ObjectPrompts, Point

__all__ = ["ChangedBox", "Reach", "change_near", "clean", "clicked_components", "union"]

ChangedBox = tuple[slice, slice, slice]

REACH = 2.0**0.5
"""A click changes voxels up to this many times as far from it as from the nearest click that says the opposite."""


def clicked_components(mask: NDArray[np.bool_], points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The 26-connected parts of a mask that hold a point; all of it where none does."""
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3, 3), bool))
    index = np.rint(points.reshape(-1, 3)).astype(int)
    index = index[((index >= 0) & (index < mask.shape)).all(axis=1)]
    held = np.unique(parts[tuple(index.T)])
    held = held[held > 0]
    return np.isin(parts, held) if len(held) else mask


def clean(values: NDArray[np.float32], region: ChangedBox, prompts: ObjectPrompts) -> NDArray[np.float32]:
    """Logits below 0 wherever the mask is not connected to a foreground click."""
    points = np.array([p.zyx for p in prompts.points if p.foreground], np.float64).reshape(-1, 3)
    local = (points - [axis.start for axis in region]).astype(np.float32)
    mask = values > 0
    return np.where(mask & ~clicked_components(mask, local), np.float32(-1), values)


class Reach(NamedTuple):
    """A click, the voxels of the clicks that say the opposite, and the voxel size that distances are measured in."""

    click: Point
    opposite: list[tuple[int, int, int]]
    spacing_mm: tuple[float, float, float]


def change_near(
    reach: Reach,
    before_region: ChangedBox,
    before: NDArray[np.float32],
    after_region: ChangedBox,
    after: NDArray[np.float32],
) -> tuple[ChangedBox, NDArray[np.float32]]:
    """The mask before, changed to the one after in the part that the click asked for.

    As VISTA3D's own inference does (`connected_components_combine`), a foreground click adds what is connected to it
    and a background click takes such away. Neither reaches far beyond a click that said the opposite.
    """
    click = reach.click
    region = union(before_region, after_region)
    old, new = (_spread(r, v, region) for r, v in ((before_region, before), (after_region, after)))
    changed = (new > 0) & (old <= 0) if click.foreground else (new <= 0) & (old > 0)
    own = _squared_distance(click.zyx, region, reach.spacing_mm)
    for point in reach.opposite:
        changed &= own < REACH**2 * _squared_distance(point, region, reach.spacing_mm)
    parts, _ = ndimage.label(changed, structure=np.ones((3, 3, 3), bool))
    part = parts[tuple(i - axis.start for i, axis in zip(click.zyx, region, strict=True))]
    return region, np.where(parts == part, new, old) if part else old


def _squared_distance(
    zyx: tuple[int, int, int], region: ChangedBox, spacing_mm: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Of the voxels of a region from a voxel, mm², float32."""
    axes = [
        ((np.arange(axis.start, axis.stop, dtype=np.float32) - i) * np.float32(s)) ** 2
        for axis, i, s in zip(region, zyx, spacing_mm, strict=True)
    ]
    return np.asarray(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])


def _spread(region: ChangedBox, values: NDArray[np.float32], wider: ChangedBox) -> NDArray[np.float32]:
    """Values of a region on a wider one; -1, outside the mask, where it does not reach."""
    spread = np.full([axis.stop - axis.start for axis in wider], -1, np.float32)
    inner = tuple(slice(a.start - w.start, a.stop - w.start) for a, w in zip(region, wider, strict=True))
    spread[inner] = values
    return spread


def union(first: ChangedBox | None, second: ChangedBox | None) -> ChangedBox:
    """The smallest box around both; empty where there is neither."""
    regions = [region for region in (first, second) if region is not None]
    if not regions:
        return (slice(0, 0), slice(0, 0), slice(0, 0))
    z, y, x = (slice(min(r[axis].start for r in regions), max(r[axis].stop for r in regions)) for axis in range(3))
    return (z, y, x)

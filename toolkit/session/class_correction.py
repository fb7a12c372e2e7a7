"""Corrections by clicks of an object that came from a class prompt.

MONAI's rule (`VISTA3D.connected_components_combine`), on the training's grid: a region changes only if it is connected
to a click. What the clicks' answer adds counts where a foreground click touches it, what it removes where a background
click does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gstk.core.network_image import NetworkImage
from gstk.core.regions import Region, bounds, connected_components, union
from gstk.core.window import Window

__all__ = ["GridMask", "combine_with_clicks", "correct_class"]

_MARGIN = 3
"""A click touches a region that is fewer voxels than this away along every axis."""


class GridMask(NamedTuple):
    """A mask on the training's grid, which may be finer than the volume: what clicks correct.

    Attributes:
        first: the grid's voxel (z,y,x) that `values` begin at.
        values: bool (z,y,x).
    """

    first: tuple[int, int, int]
    values: NDArray[np.bool_]

    @classmethod
    def cropped(cls, first: Sequence[int], values: NDArray[np.bool_]) -> Self:
        """The part of a mask that holds all of it; a copy."""
        box = bounds(values) or (slice(0, 1),) * 3
        z, y, x = (a + axis.start for a, axis in zip(first, box, strict=True))
        return cls((z, y, x), values[box].copy())

    def at(self, first: Sequence[int], shape: Sequence[int]) -> NDArray[np.bool_]:
        """The mask on other voxels of the grid; False outside its own part."""
        there = np.zeros(tuple(shape), bool)
        low = [max(a, b) for a, b in zip(first, self.first, strict=True)]
        high = [min(a + m, b + n) for a, m, b, n in zip(first, shape, self.first, self.values.shape, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            to = tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first, strict=True))
            source = tuple(slice(a - f, b - f) for a, b, f in zip(low, high, self.first, strict=True))
            there[to] = self.values[source]
        return there

    def replaced(self, first: Sequence[int], values: NDArray[np.bool_]) -> Self:
        """The mask with other values on some voxels of the grid."""
        low = [min(a, b) for a, b in zip(first, self.first, strict=True)]
        high = [
            max(a + m, b + n) for a, m, b, n in zip(first, values.shape, self.first, self.values.shape, strict=True)
        ]
        whole = self.at(low, [b - a for a, b in zip(low, high, strict=True)])
        whole[tuple(slice(a - f, a - f + n) for a, n, f in zip(first, values.shape, low, strict=True))] = values
        return self.cropped(low, whole)


def combine_with_clicks(
    before: NDArray[np.bool_],
    answer: NDArray[np.bool_],
    points: NDArray[np.floating],
    foreground: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """The mask before, changed to the answer in the regions that the clicks touch.

    Args:
        before, answer: bool [H,W,D], in the network's axes.
        points: (K,3) voxels of both.
        foreground: (K,), whether each click is on the object.

    Returns:
        bool [H,W,D].
    """
    voxels = np.clip(np.rint(points).astype(int), 0, np.array(before.shape) - 1)
    on_it = before[tuple(voxels.T)].any()
    # A click inside the mask confirms it: the answer there counts as added, so that it stays whole.
    added = answer & (~before | on_it)
    removed = before & ~answer
    changed = np.zeros(before.shape, bool)
    touched = {True: added, False: removed}
    components = {kind: connected_components(touched[kind])[0] for kind in set(foreground.tolist())}
    for voxel, is_foreground in zip(voxels, foreground, strict=True):
        found = components[bool(is_foreground)]
        for margin in range(_MARGIN):
            near = found[tuple(slice(max(0, i - margin), i + margin + 1) for i in voxel)]
            if near.any():
                changed |= found == near.max()
                break
    return np.where(changed, answer, before)


def correct_class(
    image: NetworkImage,
    window: Window,
    logits: NDArray[np.float32],
    mask: GridMask,
    region: Region | None,
    before: NDArray[np.float32] | None,
    points_zyx: NDArray[np.float64],
    foreground: NDArray[np.bool_],
) -> tuple[GridMask, Region, NDArray[np.float32]]:
    """An object's mask after the network's answer to its clicks in one window of the training grid.

    Args:
        image: with a training grid.
        window: of the grid.
        logits: the answer (z,y,x) on it.
        mask: the mask so far on the grid.
        region, before: the same on the volume, float32 (z,y,x) above 0 inside, on a region of it; None where empty.
        points_zyx: (K,3) the clicks in the window, voxels of the volume.
        foreground: (K,), whether each is on the object.

    Returns:
        The mask on the grid; a region of the volume around the mask before and after, and float32 on it, 1 inside and
        -1 outside.
    """
    grid, axes = image.grid, image.axes
    assert grid is not None
    first = grid.first_of(window)
    old_window = mask.at(first, window.shape)
    local = image.points(window, points_zyx)
    combined = axes.to_volume(
        combine_with_clicks(axes.to_network(old_window), axes.to_network(logits > 0), local, foreground)
    )
    inside, moved = grid.nearest(window, (combined != old_window).astype(np.float32))
    _, values = grid.nearest(window, combined.astype(np.float32))
    box = bounds(moved > 0)
    old = np.zeros(image.volume.shape, bool)
    if region is not None and before is not None:
        old[region] = before > 0
    if box is not None:
        old[inside] = np.where(moved > 0, values > 0, old[inside])
        z, y, x = (slice(i.start + b.start, i.start + b.stop) for i, b in zip(inside, box, strict=True))
        region = union(region, (z, y, x))
    if region is None:
        z, y, x = (slice(int(i), int(i) + 1) for i in points_zyx[-1])
        region = (z, y, x)
    return mask.replaced(first, combined), region, np.where(old[region], np.float32(1), np.float32(-1))

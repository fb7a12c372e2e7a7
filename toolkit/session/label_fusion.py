"""Whose a voxel is that several objects claim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.regions import Region, connected_components
from gstk.session.click_update import squared_distance

__all__ = ["ObjectLogits", "label_map"]

Voxel = tuple[int, int, int]

MOST_SURE = np.float32(6)
"""Beyond it, logits say no more: those of different objects are not of one scale."""
SMALLNESS = 4.0
"""Logits by which a mask is surer than another that is e times as large. What is small is seldom claimed by mistake;
what is large often holds too much, and would swallow what is inside it."""


class ObjectLogits(NamedTuple):
    """An object's mask, and where it was said to be.

    Attributes:
        region, logits: float32 (z,y,x) at the volume's voxels of the region, above 0 inside the object.
        clicks: voxels (z,y,x) that were clicked on the object.
        middle: of its box; None where there is none.
    """

    region: Region
    logits: NDArray[np.float32]
    clicks: tuple[Voxel, ...] = ()
    middle: Voxel | None = None

    def at(self, voxels: tuple[NDArray[np.int64], ...], region: Region) -> NDArray[np.float32]:
        """Logits at voxels that are given within another region."""
        starts = [theirs.start - own.start for theirs, own in zip(region, self.region, strict=True)]
        found: NDArray[np.float32] = self.logits[tuple(i + start for i, start in zip(voxels, starts, strict=True))]
        return found


def label_map(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], claims: Mapping[int, ObjectLogits]
) -> NDArray[np.uint16]:
    """Object ids, uint16 (z,y,x), 0 elsewhere.

    Where objects overlap, the logits decide, and how large the masks are (`SMALLNESS`). A click on an object that lies
    in another's mask shows that this is wrong there: what both claim around it and is nearer to it than to where the
    other was said to be goes to the clicked one. So a voxel that was clicked as one object's is that object's.

    Args:
        shape: of the volume.
        spacing_mm: its voxel size.
        claims: by object id, 1 to 65535.
    """
    labels = np.zeros(shape, np.uint16)
    handicaps: dict[int, np.float32] = {}
    for object_id, claim in sorted(claims.items()):
        mine = claim.logits > 0
        handicaps[object_id] = np.float32(SMALLNESS * math.log(max(1, int(np.count_nonzero(mine)))))
        there = labels[claim.region]
        contested = np.nonzero(mine & (there != 0))
        there[mine & (there == 0)] = object_id
        holders = there[contested]
        own = np.minimum(claim.logits[contested], MOST_SURE) - handicaps[object_id]
        for holder in np.unique(holders):
            held = holders == holder
            voxels = tuple(index[held] for index in contested)
            other = claims[holder].at(voxels, claim.region)
            won = own[held] > np.minimum(other, MOST_SURE) - handicaps[holder]
            there[tuple(index[won] for index in voxels)] = object_id
    for object_id, claim in sorted(claims.items()):
        for click in claim.clicks:
            owner = int(labels[click])
            if owner not in (0, object_id):
                _give_way(labels, spacing_mm, owner, claims[owner], object_id, claim, click)
    return labels


def _shared(first: ObjectLogits, second: ObjectLogits) -> Region:
    z, y, x = (
        slice(max(a.start, b.start), max(a.start, b.start, min(a.stop, b.stop)))
        for a, b in zip(first.region, second.region, strict=True)
    )
    return z, y, x


def _give_way(
    labels: NDArray[np.uint16],
    spacing_mm: tuple[float, float, float],
    owner: int,
    held: ObjectLogits,
    object_id: int,
    claim: ObjectLogits,
    click: Voxel,
) -> None:
    """Takes for an object, in place, what it claims and another holds around a click."""
    shared = _shared(held, claim)
    if not all(axis.start <= i < axis.stop for i, axis in zip(click, shared, strict=True)):
        return
    part = labels[shared]
    inner = tuple(slice(s.start - r.start, s.stop - r.start) for s, r in zip(shared, claim.region, strict=True))
    parts, _ = connected_components((part == owner) & (claim.logits[inner] > 0))
    clicked = parts[tuple(i - axis.start for i, axis in zip(click, shared, strict=True))]
    if clicked:
        others = held.clicks if held.middle is None else (*held.clicks, held.middle)
        far = [squared_distance(place, shared, spacing_mm) for place in others]
        near = squared_distance(click, shared, spacing_mm) < np.minimum.reduce(far, initial=np.inf)
        part[(parts == clicked) & near] = object_id

"""Resolves overlapping object masks into one label map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.prompts import Voxel
from gstk.core.regions import Region, connected_components
from gstk.session.click_update import squared_distance

__all__ = ["ObjectLogits", "label_map"]

MAX_LOGIT = np.float32(6)
"""Logits are cut off here: beyond it, those of different objects are not of one scale."""
SIZE_PENALTY = 4.0
"""Logits by which a mask yields to one that is e times as small. A small mask seldom contains voxels by mistake; a
large one often contains too many, and would swallow the objects inside it."""


class ObjectLogits(NamedTuple):
    """An object's mask, and where its prompts are.

    Attributes:
        region, logits: float32 (z,y,x) at the volume's voxels of the region, above 0 inside the object.
        clicks: voxels (z,y,x) of the clicks on the object.
        box_centre: voxel (z,y,x); None where there is no box.
    """

    region: Region
    logits: NDArray[np.float32]
    clicks: tuple[Voxel, ...] = ()
    box_centre: Voxel | None = None

    def at(self, voxels: tuple[NDArray[np.int64], ...], region: Region) -> NDArray[np.float32]:
        """Logits at voxels whose indices are relative to another region."""
        offsets = [other.start - own.start for other, own in zip(region, self.region, strict=True)]
        values: NDArray[np.float32] = self.logits[tuple(i + n for i, n in zip(voxels, offsets, strict=True))]
        return values

    def moved(self, origin: Voxel) -> ObjectLogits:
        """The same with indices from another voxel on."""
        z, y, x = (slice(a.start - o, a.stop - o) for a, o in zip(self.region, origin, strict=True))
        clicks = tuple(_moved(click, origin) for click in self.clicks)
        centre = None if self.box_centre is None else _moved(self.box_centre, origin)
        return ObjectLogits((z, y, x), self.logits, clicks, centre)


def _moved(voxel: Voxel, origin: Voxel) -> Voxel:
    return voxel[0] - origin[0], voxel[1] - origin[1], voxel[2] - origin[2]


def _contains(region: Region, voxel: Voxel) -> bool:
    return all(axis.start <= i < axis.stop for i, axis in zip(voxel, region, strict=True))


def label_map(
    shape: Sequence[int], spacing_mm: tuple[float, float, float], objects: Mapping[int, ObjectLogits]
) -> NDArray[np.uint16]:
    """The label map of overlapping objects.

    Where masks overlap, the higher logit wins, after a penalty for large masks (`SIZE_PENALTY`). A click on an object
    that lies where another object won shows that this was wrong: around it, the overlap that is nearer to the click
    than to the other object's own prompts goes to the clicked object. So a clicked voxel is the clicked object's.

    Args:
        shape: of the volume.
        spacing_mm: its voxel size.
        objects: by object id, 1 to 65535.

    Returns:
        Object ids, uint16 (z,y,x), 0 elsewhere.
    """
    labels = np.zeros(shape, np.uint16)
    penalties: dict[int, np.float32] = {}
    for object_id, new in sorted(objects.items()):
        inside = new.logits > 0
        penalties[object_id] = np.float32(SIZE_PENALTY * math.log(max(1, int(np.count_nonzero(inside)))))
        part = labels[new.region]
        overlap = np.nonzero(inside & (part != 0))
        part[inside & (part == 0)] = object_id
        owners = part[overlap]
        score = np.minimum(new.logits[overlap], MAX_LOGIT) - penalties[object_id]
        for owner in np.unique(owners):
            is_owned = owners == owner
            voxels = tuple(index[is_owned] for index in overlap)
            other = objects[owner].at(voxels, new.region)
            wins = score[is_owned] > np.minimum(other, MAX_LOGIT) - penalties[owner]
            part[tuple(index[wins] for index in voxels)] = object_id
    for object_id, clicked in sorted(objects.items()):
        for click in clicked.clicks:
            if not _contains(clicked.region, click):
                continue
            owner = int(labels[click])
            if owner not in (0, object_id):
                _give_overlap(labels, spacing_mm, owner, objects[owner], object_id, clicked, click)
    return labels


def _intersection(first: ObjectLogits, second: ObjectLogits) -> Region:
    z, y, x = (
        slice(max(a.start, b.start), max(a.start, b.start, min(a.stop, b.stop)))
        for a, b in zip(first.region, second.region, strict=True)
    )
    return z, y, x


def _give_overlap(
    labels: NDArray[np.uint16],
    spacing_mm: tuple[float, float, float],
    owner_id: int,
    owner: ObjectLogits,
    object_id: int,
    clicked: ObjectLogits,
    click: Voxel,
) -> None:
    """Gives the clicked object, in place, what both masks contain around a click on it and the other object won."""
    shared = _intersection(owner, clicked)
    if not _contains(shared, click):
        return
    part = labels[shared]
    inner = tuple(slice(s.start - r.start, s.stop - r.start) for s, r in zip(shared, clicked.region, strict=True))
    components, _ = connected_components((part == owner_id) & (clicked.logits[inner] > 0))
    component = components[tuple(i - axis.start for i, axis in zip(click, shared, strict=True))]
    if component:
        prompts = owner.clicks if owner.box_centre is None else (*owner.clicks, owner.box_centre)
        distances2 = [squared_distance(voxel, shared, spacing_mm) for voxel in prompts]
        is_nearer = squared_distance(click, shared, spacing_mm) < np.minimum.reduce(distances2, initial=np.inf)
        part[(components == component) & is_nearer] = object_id

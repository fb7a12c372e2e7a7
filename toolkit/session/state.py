"""The state of a session on one image: its objects, their prompts and masks, and the history for undo and redo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.network_image import NetworkImage
from gstk.core.prompts import ObjectPrompts
from gstk.core.regions import Region, bounds, intersects, union, voxel_count
from gstk.core.window import Window, WindowPolicy, frame
from gstk.engines.base import Embedding
from gstk.errors import PromptError
from gstk.session.class_correction import GridMask
from gstk.session.label_fusion import ObjectLogits, label_map
from gstk.session.timed_classes import TimedClasses

__all__ = ["ImageState", "ObjectState", "class_mask", "given_mask", "resume_from_mask"]

_HISTORY_BYTES, _HISTORY_MASKS = 2**29, 100
"""Memory for the masks of the history, and their number; `undo` computes older ones again."""
_HISTORY_STEPS = 1000
"""Changes that `undo` takes back: fewer, where the masks that objects began with take more than `_GIVEN_BYTES`."""
_GIVEN_BYTES = 2**29


@dataclass(frozen=True)
class GivenMask:
    """A mask that an object began with, in a bit a voxel: `undo` cannot compute it again.

    Attributes:
        window: what the network sees first; None where the mask is empty.
        region: the mask's place; None where it is empty.
        bits: `numpy.packbits` of its voxels in the region.
        class_id, grid_mask: as of `ObjectState`.
    """

    window: Window | None
    region: Region | None
    bits: NDArray[np.uint8]
    class_id: int | None = None
    grid_mask: GridMask | None = None

    @property
    def size_bytes(self) -> int:
        """Memory of the mask."""
        return self.bits.nbytes + (0 if self.grid_mask is None else self.grid_mask.values.nbytes)

    def begun(self) -> ObjectState:
        """The object that begins with it, without prompts."""
        state = ObjectState(window=self.window, class_id=self.class_id, grid_mask=self.grid_mask, given=self)
        if self.region is None:
            return state
        shape = [axis.stop - axis.start for axis in self.region]
        mask = np.unpackbits(self.bits, count=voxel_count(self.region)).reshape(shape).view(np.bool_)
        return replace(state, region=self.region, logits=_as_logits(mask))


@dataclass
class ObjectState:
    """One object: its prompts, and the mask that answers them.

    Attributes:
        prompts: all of them.
        window: what the network saw.
        region, logits: float32 at the volume's voxels of the region, above 0 inside the object; None before the first
            mask, and for states of the history beyond its memory.
        is_fallback: the mask is not the network's answer to all prompts.
        class_id: the class that the object came from; None where it came from none.
        grid_mask: of an object of a class, its mask on the training grid.
        is_tiled: whether the network saw it in tiles at the training's resolution.
        is_coarse: the mask is a first answer in coarse windows, which a finer one is to replace.
        given: the mask from outside that it began with; None where it began with prompts.
        compromises: what was skipped to have this mask in time.
    """

    prompts: ObjectPrompts = field(default_factory=ObjectPrompts)
    window: Window | None = None
    region: Region | None = None
    logits: NDArray[np.float32] | None = None
    is_fallback: bool = False
    given: GivenMask | None = None
    compromises: tuple[str, ...] = ()
    class_id: int | None = None
    grid_mask: GridMask | None = None
    is_tiled: bool = False
    is_coarse: bool = False

    @property
    def size_bytes(self) -> int:
        """Memory of its mask."""
        return 0 if self.logits is None else self.logits.nbytes

    def begun_anew(self, prompts: ObjectPrompts) -> ObjectState:
        """The object before its first click: with the mask that it began with, or without one."""
        if self.given is None:
            return ObjectState(ObjectPrompts(box=prompts.box, novel=prompts.novel))
        return self.given.begun()

    def is_extended_by(self, prompts: ObjectPrompts) -> bool:
        """Whether `prompts` only add clicks, which then change the present mask one after the other."""
        extends = prompts.box == self.prompts.box and prompts.points[: len(self.prompts.points)] == self.prompts.points
        extends = extends and prompts.novel == self.prompts.novel
        return extends and self.region is not None and not self.is_fallback

    def pending_decodes(self, prompts: ObjectPrompts) -> int:
        """How many decodes the update to `prompts` takes."""
        if self.is_extended_by(prompts):
            return len(prompts.points) - len(self.prompts.points)
        return len(prompts.points) + (prompts.box is not None)


@dataclass
class ImageState:
    """Everything that belongs to one image; `set_image` replaces it whole.

    Attributes:
        source: the volume, prepared for the network.
        policy: how windows are made.
        objects: by object id.
        history: object ids and their states before each change, the oldest first.
        undone: object ids and the states that `undo` took back, the oldest first.
        labels: the label map of all objects; None where a change made it outdated.
        changed: the region outside which no object's mask changed since `take_changed`.
        ahead: a window and its embedding, encoded in the background.
        classes: segments classes; None before the first class prompt.
    """

    source: NetworkImage
    policy: WindowPolicy
    objects: dict[int, ObjectState] = field(default_factory=dict)
    history: list[tuple[int, ObjectState]] = field(default_factory=list)
    undone: list[tuple[int, ObjectState]] = field(default_factory=list)
    labels: NDArray[np.uint16] | None = None
    changed: Region | None = None
    ahead: tuple[Window, Future[Embedding]] | None = None
    classes: TimedClasses | None = None

    @classmethod
    def of(cls, source: NetworkImage, policy: WindowPolicy) -> ImageState:
        """An image without objects; where the network has a resolution, windows begin with the training's."""
        if source.grid is not None:
            finest_mm = min(t * s for t, s in zip(source.grid.step, source.geometry.spacing_mm, strict=True))
            policy = replace(policy, training_window=source.training_window, min_mm=finest_mm)
        return cls(source, policy)

    @property
    def geometry(self) -> Geometry:
        """The volume's."""
        return self.source.geometry

    def commit(self, states: Mapping[int, ObjectState]) -> Region:
        """Puts objects into new states that `undo` takes back, and forgets what `redo` could do.

        Returns:
            The region outside which no mask changed.
        """
        if states:  # the prompts that an object has already change nothing
            self.undone.clear()
        return _around([self._replace(k, state) for k, state in states.items()])

    def replace_coarse(self, finer: Mapping[int, tuple[ObjectState, ObjectState]]) -> Region:
        """Puts finer masks in the place of coarse ones, where no prompt came meanwhile; `undo` does not see them.

        Args:
            finer: by object id, the coarse state and the finer one.

        Returns:
            The region outside which no mask changed.
        """
        changed = []
        for object_id, (coarse, fine) in finer.items():
            if self.objects.get(object_id) is coarse:
                self.objects[object_id] = fine
                changed.append(self._masks_changed(coarse.region, fine.region))
        return _around(changed)

    def latest_before(self) -> ObjectState:
        """The state, before its latest change, of the object that changed last.

        Raises:
            PromptError: nothing changed.
        """
        if not self.history:
            raise PromptError("nothing to undo")
        return self.history[-1][1]

    def take_back(self, before: ObjectState) -> Region:
        """Puts the object that changed last into the state before, from the history; returns as `commit`."""
        object_id, _ = self.history.pop()
        after = self.objects.get(object_id, ObjectState())
        self.undone.append((object_id, after))
        _drop_old_masks(self.undone)
        _drop_steps_of_given_masks(self.undone)
        self.objects[object_id] = before
        return self._masks_changed(before.region, after.region)

    def latest_undone(self) -> ObjectState:
        """The state, before that, of the object that `take_back` changed last.

        Raises:
            PromptError: `take_back` was not called since the latest change.
        """
        if not self.undone:
            raise PromptError("nothing to redo")
        return self.undone[-1][1]

    def do_again(self, after: ObjectState) -> Region:
        """Puts the object that `take_back` changed last into the state before that; returns as `commit`."""
        object_id, _ = self.undone.pop()
        return self._replace(object_id, after)

    def forget(self, object_id: int | None) -> None:
        """Drops an object, or all of them, with their history."""
        keys = list(self.objects) if object_id is None else [object_id]
        self._masks_changed(*[self.objects.pop(key, ObjectState()).region for key in keys])
        self.history = [entry for entry in self.history if entry[0] in self.objects]
        self.undone.clear()

    def merge(self) -> NDArray[np.uint16]:
        """The label map of all objects, uint16 (z,y,x); see `label_map`."""
        if self.labels is None:
            self.labels = label_map(self.geometry.shape, self.geometry.spacing_mm, self._masks())
        return self.labels

    def merge_in(self, region: Region) -> NDArray[np.uint16]:
        """What `merge` holds in a region, a fresh array; of a large volume only that is made."""
        if self.labels is not None:
            return self.labels[region].copy()
        if not voxel_count(region):
            return np.zeros([axis.stop - axis.start for axis in region], np.uint16)
        masks = self._masks(region)
        around = _around([region, *(mask.region for mask in masks.values())])
        z, y, x = (axis.start for axis in around)
        shape = [axis.stop - axis.start for axis in around]
        labels = label_map(shape, self.geometry.spacing_mm, {k: mask.moved((z, y, x)) for k, mask in masks.items()})
        return labels[tuple(slice(a.start - o, a.stop - o) for a, o in zip(region, (z, y, x), strict=True))]

    def take_changed(self) -> Region:
        """The region outside which the label map did not change since the last call."""
        changed, self.changed = self.changed, None
        return _around([changed])

    def _masks(self, *near: Region) -> dict[int, ObjectLogits]:
        """The objects' masks; near regions those that share voxels with one, with one of these, and so on."""
        masks = {}
        for object_id, state in self.objects.items():
            if state.region is None or state.logits is None:
                continue
            box = state.prompts.box
            clicks = tuple(p.zyx for p in state.prompts.points if p.foreground)
            centre = None if box is None else box.centre()
            masks[object_id] = ObjectLogits(state.region, state.logits, clicks, centre)
        if not near:
            return masks
        reached, kept = list(near), dict[int, ObjectLogits]()
        while reached:
            place = reached.pop()
            new = {k: mask for k, mask in masks.items() if k not in kept and intersects(mask.region, place)}
            kept |= new
            reached += [mask.region for mask in new.values()]
        return kept

    def _masks_changed(self, *where: Region | None) -> Region:
        """Notes that masks changed in some regions; returns the one outside which the label map stays as it was."""
        self.labels = None
        regions = [region for region in where if region is not None]
        if not regions:
            return _around([])
        # Where masks overlap, the change of one may decide about all of another: see `label_map` on clicks.
        region = _around([*regions, *(mask.region for mask in self._masks(*regions).values())])
        self.changed = union(self.changed, region)
        return region

    @property
    def extent(self) -> Region:
        """The region outside which the label map is 0."""
        return _around([state.region for state in self.objects.values()])

    def _replace(self, object_id: int, state: ObjectState) -> Region:
        """Puts an object into a new state, and remembers the one before; returns as `commit`."""
        before = self.objects.get(object_id, ObjectState())
        self.objects[object_id] = state
        self.history.append((object_id, before))
        del self.history[:-_HISTORY_STEPS]
        _drop_old_masks(self.history)
        _drop_steps_of_given_masks(self.history)
        return self._masks_changed(before.region, state.region)


def _drop_old_masks(states: list[tuple[int, ObjectState]]) -> None:
    """Keeps the masks of the latest states, as many as there is memory for, and only the prompts of the others."""
    size_bytes = masks = 0
    for index in reversed(range(len(states))):
        object_id, state = states[index]
        if state.logits is None:
            continue
        if size_bytes + state.size_bytes > _HISTORY_BYTES or masks == _HISTORY_MASKS:
            states[index] = object_id, ObjectState(state.prompts, given=state.given)
        else:
            size_bytes += state.size_bytes
            masks += 1


def _drop_steps_of_given_masks(states: list[tuple[int, ObjectState]]) -> None:
    """Forgets the oldest steps, where there is no memory for the masks that their objects began with."""
    masks: dict[int, int] = {}
    for index in reversed(range(len(states))):
        given = states[index][1].given
        if given is not None:
            masks[id(given)] = given.size_bytes
        if sum(masks.values()) > _GIVEN_BYTES:
            del states[: index + 1]
            return


def _around(regions: Sequence[Region | None]) -> Region:
    """The smallest region around all; empty where there is none."""
    whole: Region | None = None
    for region in regions:
        whole = whole if region is None else union(whole, region)
    return union(whole, None)


def given_mask(mask: NDArray[np.bool_], image: ImageState) -> ObjectState:
    """An object that begins with a mask, bool (z,y,x), without prompts; empty where the mask is."""
    given = _pack(mask, image)
    return ObjectState() if given.region is None else given.begun()


def class_mask(mask: NDArray[np.bool_], on_grid: NDArray[np.bool_], image: ImageState, class_id: int) -> ObjectState:
    """An object that begins with the mask of a class, bool (z,y,x) of the volume and of the training grid."""
    assert image.source.grid is not None  # as every profile with classes has
    grid_mask = GridMask.cropped(image.source.grid.low, on_grid)
    return replace(_pack(mask, image), class_id=class_id, grid_mask=grid_mask).begun()


def _pack(mask: NDArray[np.bool_], image: ImageState) -> GivenMask:
    region = bounds(mask)
    if region is None:
        return GivenMask(None, None, np.zeros(0, np.uint8))
    window = frame(image.geometry, *_faces(region), image.policy)
    return GivenMask(window, region, np.packbits(mask[region]))


def resume_from_mask(
    previous: NDArray[np.integer], object_id: int, prompts: ObjectPrompts, image: ImageState
) -> ObjectState:
    """An object as another session left it, before its last click; without a mask where that was empty."""
    mask = previous == object_id
    region = bounds(mask)
    if region is None or not prompts.points:
        return ObjectState()
    low, high = _faces(region)
    points = prompts.clicked()
    low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0) + 1)
    window = frame(image.geometry, low, high, image.policy)
    before = replace(prompts, points=prompts.points[:-1])
    return ObjectState(before, window, region, _as_logits(mask[region]))


def _faces(region: Region) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = (np.array([getattr(axis, end) for axis in region], np.float64) for end in ("start", "stop"))
    return low, high


def _as_logits(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(mask, np.float32(1), np.float32(-1))

"""What a session knows of an image: its objects, what was said about them, and their masks."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts
from gstk.core.regions import Region, bounds
from gstk.core.window import Window, WindowPolicy, frame
from gstk.engines.base import Embedding
from gstk.session.label_fusion import ObjectLogits, label_map
from gstk.session.tiling import Chain

__all__ = ["ImageState", "ObjectState", "given_mask", "resume_from_mask"]

_HISTORY_BYTES = 2**29
"""Memory for masks to go back to; those before them are made again when somebody does."""


@dataclass
class ObjectState:
    """One object: what was said about it, and what the network last made of that.

    Attributes:
        prompts: all that was said.
        window: what the network saw.
        region, logits: float32 at the volume's voxels of the region, above 0 inside the object.
        is_fallback: the mask is not the network's answer to all that was said.
        given: the object as it was when it began with a mask that somebody gave; None where it began with prompts.
        chain: its answers in finer windows along the object, where one window is too coarse.
    """

    prompts: ObjectPrompts = field(default_factory=ObjectPrompts)
    window: Window | None = None
    region: Region | None = None
    logits: NDArray[np.float32] | None = None
    is_fallback: bool = False
    chain: Chain | None = None
    given: ObjectState | None = None

    @property
    def decodes_a_click(self) -> int:
        """In how many windows a click is looked at: in a chain, mostly in two that overlap."""
        return 1 if self.chain is None else 2

    @property
    def size_bytes(self) -> int:
        """Memory of what the network made of it."""
        held = 0 if self.logits is None else self.logits.nbytes
        return held if self.chain is None else held + self.chain.size_bytes

    def begun_anew(self, prompts: ObjectPrompts) -> ObjectState:
        """The object before its first click: with the mask that it began with, or without one."""
        if self.given is None:
            return ObjectState(ObjectPrompts(box=prompts.box))
        return replace(self.given, given=self.given)

    def is_extended_by(self, prompts: ObjectPrompts) -> bool:
        """Whether its mask stays, and clicks that are new change it one after the other."""
        said = prompts.box == self.prompts.box and prompts.points[: len(self.prompts.points)] == self.prompts.points
        return said and self.region is not None and not self.is_fallback

    def pending_decodes(self, prompts: ObjectPrompts) -> int:
        """How often it is looked at until it answers `prompts`."""
        if self.is_extended_by(prompts):
            return len(prompts.points) - len(self.prompts.points)
        return len(prompts.points) + (prompts.box is not None)


@dataclass
class ImageState:
    """Everything that belongs to one image; `set_image` replaces it whole."""

    volume: NDArray[np.generic]
    geometry: Geometry
    low: float
    high: float
    policy: WindowPolicy
    objects: dict[int, ObjectState] = field(default_factory=dict)
    history: list[tuple[int, ObjectState]] = field(default_factory=list)
    undone: list[tuple[int, ObjectState]] = field(default_factory=list)
    labels: NDArray[np.uint16] | None = None
    ahead: tuple[Window, Future[Embedding]] | None = None

    def remember(self, object_id: int, known: ObjectState) -> None:
        """Adds what `undo` goes back to; masks that are too many are dropped, the oldest first.

        What was taken back before cannot be done again afterwards.
        """
        self.undone.clear()
        self.history.append((object_id, known))
        held = 0
        for index in reversed(range(len(self.history))):
            key, entry = self.history[index]
            held += entry.size_bytes
            if held > _HISTORY_BYTES and entry.logits is not None:
                self.history[index] = key, ObjectState(entry.prompts, given=entry.given)
                held -= entry.size_bytes

    def merge(self) -> NDArray[np.uint16]:
        """Object ids, uint16 (z,y,x); see `label_map`."""
        claims = {}
        for object_id, known in self.objects.items():
            if known.region is None or known.logits is None:
                continue
            box = known.prompts.box
            clicks = tuple(p.zyx for p in known.prompts.points if p.foreground)
            claims[object_id] = ObjectLogits(known.region, known.logits, clicks, None if box is None else box.centre())
        return label_map(self.geometry.shape, self.geometry.spacing_mm, claims)


def given_mask(mask: NDArray[np.bool_], image: ImageState) -> ObjectState:
    """An object that begins with a mask, bool (z,y,x), without prompts; empty where the mask is."""
    region = bounds(mask)
    if region is None:
        return ObjectState()
    low, high = (np.array([getattr(axis, end) for axis in region], np.float64) for end in ("start", "stop"))
    logits = np.where(mask[region], np.float32(1), np.float32(-1))
    state = ObjectState(ObjectPrompts(), frame(image.geometry, low, high, image.policy), region, logits)
    return replace(state, given=state)


def resume_from_mask(
    previous: NDArray[np.integer], object_id: int, prompts: ObjectPrompts, image: ImageState
) -> ObjectState:
    """An object as another session left it, before its last click; without a mask where that was empty."""
    before = replace(prompts, points=prompts.points[:-1])
    found = previous == object_id
    region = bounds(found)
    if region is None or not prompts.points:
        return ObjectState()
    low, high = (np.array([getattr(axis, end) for axis in region], np.float64) for end in ("start", "stop"))
    points = prompts.clicked()
    low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0) + 1)
    window = frame(image.geometry, low, high, image.policy)
    return ObjectState(before, window, region, np.where(found[region], np.float32(1), np.float32(-1)))

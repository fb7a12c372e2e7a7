"""The workspace of a lease: its session, its image, and the mask that its client has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.regions import Region, bounds, union, voxel_count
from gstk.core.volume import Volume, VolumeWarning
from gstk.errors import PromptError
from gstk.session.advice import no_change
from gstk.session.session import Session

__all__ = ["Patch", "Workspace"]

CALL_S = 45.0
"""Seconds for a call: clients take a server that is silent for 60 s for dead."""


@dataclass(frozen=True)
class Patch:
    """A part of the mask that changed.

    Attributes:
        box: slices (z,y,x) of the volume.
        values: the mask's new values there, contiguous, of the client's dtype.
    """

    box: Region
    values: NDArray[np.integer]


class Workspace:
    """A session on one image, and the mask as its client has it. Calls are to come from one thread at a time.

    Attributes:
        session: whose engine other workspaces share.
        intensities: what was done to the image's intensities, in words.
        notes: what is odd about the image.
        shown: the mask that the client has, (z,y,x); None before it asked for one.
        queued: prompts that wait for a prediction, each a function of the prompts before it.
        progress: windows done and windows in all of what runs; None where it has none.
    """

    def __init__(self, session: Session, call_s: float = CALL_S) -> None:
        self.session, self._call_s = session, call_s
        self._geometry: Geometry | None = None
        self.intensities = ""
        self.notes: tuple[str, ...] = ()
        self.shown: NDArray[np.integer] | None = None
        self._stale = union(None, None)
        self.progress: tuple[int, int] | None = None
        self.queued: list[Callable[[ObjectPrompts], ObjectPrompts]] = []

    def set_image(self, volume: Volume) -> None:
        """Takes an image; masks and prompts of the one before are forgotten.

        Raises:
            ProfileError: the image is not for the network.
        """
        self._geometry, self.shown, self._stale = volume.geometry, None, union(None, None)
        self.queued.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", VolumeWarning)
            self.session.set_image(volume)
        self.notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        self.intensities = self.session.intensities

    @property
    def geometry(self) -> Geometry:
        """The image's.

        Raises:
            PromptError: there is no image.
        """
        if self._geometry is None:
            raise PromptError("got a call without an image, expected an image first")
        return self._geometry

    @property
    def has_image(self) -> bool:
        """Whether there is an image."""
        return self._geometry is not None

    def show(self, shown: NDArray[np.integer]) -> None:
        """Sets the mask that the client has, of the image's shape."""
        self.shown = shown
        self._stale = union(self.session.extent, bounds(shown))

    def show_nothing(self, dtype: np.dtype[np.integer]) -> None:
        """Says that the client has an empty mask."""
        if self.shown is None or self.shown.dtype != dtype:
            self.shown = np.zeros(self.geometry.shape, dtype)
        else:
            self.shown.fill(0)
        self._stale = self.session.extent

    def add(
        self, points: Sequence[Point], object_id: int = 1, *, novel: bool = False, coarse_first: bool = False
    ) -> None:
        """Adds clicks to an object, in one step.

        Args:
            points: the clicks.
            object_id: the object.
            novel: see `Session.add_point`.
            coarse_first: see `Session.set_all`.

        Raises:
            PromptError, Interrupted: as `Session.add_point`.
        """
        self.say(
            lambda said: replace(said, points=(*said.points, *points), novel=said.novel or novel),
            object_id,
            coarse_first=coarse_first,
        )

    def say(
        self, change: Callable[[ObjectPrompts], ObjectPrompts], object_id: int = 1, *, coarse_first: bool = False
    ) -> None:
        """Changes the prompts of an object, within the time for a call; `coarse_first` as in `Session.set_all`."""
        said = change(self.session.prompts(object_id))
        self.session.set_all({object_id: said}, within_s=self._call_s, coarse_first=coarse_first)

    def predict(self) -> bool:
        """Says what was queued, in one step; whether there was anything."""
        if not self.queued:
            return False

        def all_queued(said: ObjectPrompts) -> ObjectPrompts:
            for change in self.queued:
                said = change(said)
            return said

        self.say(all_queued)
        self.queued.clear()
        return True

    def undo(self) -> bool:
        """Takes back the latest prompt; whether there was one."""
        if self.queued:
            self.queued.pop()
            return True
        return self._taken(self.session.undo)

    def redo(self) -> bool:
        """Does again what was taken back last; whether there was anything."""
        return self._taken(self.session.redo)

    @staticmethod
    def _taken(step: Callable[[], object]) -> bool:
        try:
            step()
        except PromptError:
            return False
        return True

    def reset(self, object_id: int | None = None) -> None:
        """Forgets an object, or all."""
        self.queued.clear()
        if self.has_image:
            self.session.reset(object_id)

    def forget(self, object_id: int) -> bool:
        """Forgets an object; whether there was anything to forget."""
        had = bool(self.session.prompts(object_id).points)
        self.reset(object_id)
        return had

    def advice(self, point: Point, object_id: int) -> str:
        """One sentence on a click that changed nothing."""
        axes = zip(self.session.extent, self.geometry.shape, strict=True)
        z, y, x = (slice(max(0, axis.start - 1), min(n, axis.stop + 1)) for axis, n in axes)
        mask = self.session.mask_in((z, y, x)) == object_id
        return no_change(mask, point.zyx, point.foreground, self.geometry, (z, y, x))

    def patch(self) -> Patch | None:
        """What changed since the client heard last, which it then has; None where nothing did."""
        if self.shown is None:
            return None
        region = self._stale = union(self._stale, self.session.take_changed())
        if not voxel_count(region):
            return None
        new, old = self.session.mask_in(region), self.shown[region]
        inner = _differing(new, old)
        if inner is not None:
            old[inner] = new[inner]
        self._stale = union(None, None)
        if inner is None:
            return None
        box = tuple(slice(i.start + r.start, i.stop + r.start) for i, r in zip(inner, region, strict=True))
        return Patch((box[0], box[1], box[2]), np.ascontiguousarray(old[inner]))

    def close(self) -> None:
        """Frees the image and what was computed for it."""
        self._geometry = self.shown = None
        self.session.close()


def _differing(new: NDArray[np.integer], old: NDArray[np.integer]) -> Region | None:
    """The smallest box around what differs; slices are left out first, so that most are looked at once."""
    axes = [slice(0, n) for n in new.shape]
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        differs = (new[tuple(axes)] != old[tuple(axes)]).any(axis=others)
        held = np.flatnonzero(differs)
        if not len(held):
            return None
        start = axes[axis].start
        axes[axis] = slice(start + int(held[0]), start + int(held[-1]) + 1)
    return axes[0], axes[1], axes[2]

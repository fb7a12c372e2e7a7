"""An interactive session: an image, clicks and boxes on its objects, and a mask after each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gstk.calibration import memory
from gstk.calibration.model import LatencyModel
from gstk.core.geometry import Geometry
from gstk.core.intensities import IntensityWindow, prepare_intensities
from gstk.core.profile import InputProfile, find_profile
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.regions import Region, union
from gstk.core.volume import Volume
from gstk.core.window import Window, WindowPolicy
from gstk.engines.base import Engine
from gstk.errors import GeometryError, GstkError, PromptError
from gstk.session.deadline import Budget, Deadline, TimedEngine
from gstk.session.embedding_cache import DEFAULT_LIMIT_BYTES
from gstk.session.planner import Plan, can_start, make_plan
from gstk.session.segmenter import ObjectSegmenter
from gstk.session.state import ImageState, ObjectState, given_mask, resume_from_mask

__all__ = ["CallReport", "Region", "Session"]

_MARGIN = 0.02
"""Share of a call's time that is kept for what comes after the network, besides the mask's way back."""
_AFTER_S = 1.5e-8
"""Seconds a voxel of the volume that are kept besides, to put objects into one label map."""


@dataclass(frozen=True)
class CallReport:
    """What the latest call was expected to take, what it took, and what was done for want of time.

    Attributes:
        budget_s: what it was given; None is any time.
        expected_s: what the plan said; 0 without a latency model.
        spent_s: wall time.
        encodes, decodes: runs of the network's halves.
        compromises: what a larger budget would have allowed, a sentence each.
        object_s: wall time of each object.
    """

    budget_s: float | None = None
    expected_s: float = 0.0
    spent_s: float = 0.0
    encodes: int = 0
    decodes: int = 0
    compromises: tuple[str, ...] = ()
    object_s: Mapping[int, float] = field(default_factory=dict)


@dataclass
class _Draft:
    """What a call finds out for its report."""

    expected_s: float = 0.0
    compromises: list[str] = field(default_factory=list)
    object_s: dict[int, float] = field(default_factory=dict)


class Session:
    """Segments the objects of one image at a time, click by click. Safe to call from several threads, one at a time.

    Use `gstk.open` to make one. Voxel indices are (z,y,x) of the image as given; object ids are 1 to 65535.

    Attributes:
        profile: what the network's input is.
        report: of the latest call that made a mask.
        intensities: what was done to the image's, in words.
    """

    def __init__(
        self,
        engine: Engine,
        policy: WindowPolicy,
        cache_bytes: int = DEFAULT_LIMIT_BYTES,
        refine: bool = False,
        model: LatencyModel | None = None,
        budget: Budget | None = None,
        owns_engine: bool = True,
        profile: InputProfile | None = None,
    ) -> None:
        """Begins without an image.

        Args:
            engine: encodes and decodes.
            policy: how windows are made where there is time.
            cache_bytes: memory for embeddings, so that going back to a window costs no encode.
            refine: whether the image and the clicks correct the network's logits (`image_refiner`).
            model: what the engine's calls cost; without one a budget is kept by the clock alone.
            budget: of each object; None is any time.
            owns_engine: whether the engine is closed with the session.
            profile: what the network's input is; None is as for gstk's own small networks.
        """
        self._owns_engine = owns_engine
        self.profile = profile or find_profile("tiny")
        self._segmenter = ObjectSegmenter(TimedEngine(engine, model), cache_bytes, refine)
        self._policy = policy
        self._budget = budget
        self._image: ImageState | None = None
        self._lock = threading.RLock()
        self.report = CallReport()
        self.intensities = ""

    def sibling(self, cache_bytes: int = DEFAULT_LIMIT_BYTES) -> Session:
        """Another session on the same engine, with the same settings and no image.

        Each of them may have an image of its own. The engine is closed with this session, so close this one last.
        Sessions on one engine are to be called by one thread after the other: `cancel` ends whatever the engine runs.

        Args:
            cache_bytes: memory for the other session's embeddings.
        """
        segmenter = self._segmenter
        return Session(
            segmenter.engine.engine,
            self._policy,
            cache_bytes,
            segmenter.projector.refines,
            segmenter.engine.model,
            self._budget,
            owns_engine=False,
            profile=self.profile,
        )

    def set_image(
        self,
        volume: Volume | NDArray[np.generic],
        spacing_mm: Sequence[float] | None = None,
        look_at: Sequence[float] | Literal["centre"] | None = None,
        *,
        intensity_window: IntensityWindow = None,
        assume_window: IntensityWindow = None,
    ) -> None:
        """Takes an image and prepares it as the network's profile says; all that was said about another is forgotten.

        Args:
            volume: from `gstk.read_volume`, or an array (z,y,x) of any real dtype, finite. An array tells less: that
                its values are HU shows only by air in it, and how the patient lies not at all. It is read as needed
                and must not change meanwhile.
            spacing_mm: (z,y,x) of an array; None is 1 each. A `Volume` knows its own.
            look_at: the voxel (z,y,x) where the first click is expected, or "centre": a window around it is encoded in
                the background, and a first click near it needs no other. None waits for the click.
            intensity_window: for networks that take the challenge's 0 to 255, how other intensities are brought there:
                "auto", a CT window's name, "percentile" or (width, level); see `gstk.core.intensities`.
            assume_window: for networks that take HU, the window by which 0 to 255 were made, or "hu".

        Raises:
            GstkError: the volume is not three-dimensional, is empty or holds NaN or infinity; the spacing is not > 0,
                or is given for a `Volume`.
            ProfileError: the values do not fit the network's profile.
            PromptError: `look_at` lies outside the image.

        Warns:
            VolumeWarning: the volume is probably not what the network was trained on.
        """
        if not isinstance(volume, Volume):
            image_zyx = np.asarray(volume)
            if image_zyx.ndim != 3 or image_zyx.size == 0:
                raise GstkError(f"got an image {image_zyx.shape}, expected three axes (z, y, x) that are not empty")
            sides = (1.0, 1.0, 1.0) if spacing_mm is None else spacing_mm
            geometry = Geometry(image_zyx.shape, sides)  # type: ignore[arg-type]
            volume = Volume(image_zyx, geometry, has_orientation=False)
        elif spacing_mm is not None:
            raise GstkError("got a spacing beside a Volume, which knows its own; leave it out")
        geometry = volume.geometry
        prepared = prepare_intensities(volume, self.profile, intensity_window, assume_window)
        with self._lock:
            self._segmenter.forget(self._image)
            self._image = None
            self.intensities = prepared.words
            image = self._image = ImageState(
                prepared.image, geometry, float(prepared.low or 0), float(prepared.high or 0), self._policy
            )
            if look_at is not None:
                centre = [(n - 1) / 2 for n in geometry.shape] if look_at == "centre" else look_at
                self._segmenter.look_ahead(image, self._voxel(centre))

    def add_point(self, zyx: Sequence[float], foreground: bool = True, object_id: int = 1) -> Region:
        """Adds a click and updates the mask.

        Args:
            zyx: voxel index, rounded to the nearest voxel.
            foreground: whether the object is there.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: the point lies outside the image.
            Interrupted: by `cancel`; nothing has changed.
        """
        with self._lock:
            voxel = self._voxel(zyx)
            before = self._object(object_id).prompts
            return self.set_prompts(replace(before, points=(*before.points, Point(voxel, foreground))), object_id)

    def add_box(self, box: Box | Sequence[Sequence[float]], object_id: int = 1) -> Region:
        """Sets the object's box and updates the mask.

        Args:
            box: a `gstk.core.prompts.Box`, or its two corner voxels ((z,y,x), (z,y,x)), both inside it.

        Returns, raises: as `add_point`.
        """
        with self._lock:
            if not isinstance(box, Box):
                box = Box.from_corners(box)
            return self.set_prompts(replace(self._object(object_id).prompts, box=box), object_id)

    def set_mask(self, mask: NDArray[np.generic], object_id: int = 1) -> Region:
        """Starts an object from a mask, such as an earlier result; later clicks change it only near them.

        What was said about the object before is forgotten; `undo` brings it back. A 3-D box cannot be given to such an
        object, for a box starts it anew: `reset` it first.

        Args:
            mask: (z,y,x), of the image's shape; everything but 0 is the object.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: the mask has another shape.
        """
        with self._lock:
            image = self._current()
            if np.shape(mask) != image.geometry.shape:
                raise PromptError(f"got a mask {np.shape(mask)}, expected the image's {image.geometry.shape}")
            before, after = self._object(object_id), given_mask(np.asarray(mask) != 0, image)
            image.remember(object_id, before)
            image.objects[object_id] = after
            image.labels = None
            return union(before.region, after.region)

    def set_prompts(self, prompts: ObjectPrompts, object_id: int = 1) -> Region:
        """Replaces all that was said about an object, in one step; returns and raises as `add_point`."""
        return self.set_all({object_id: prompts})

    def set_all(
        self,
        prompts: Mapping[int, ObjectPrompts],
        previous: NDArray[np.integer] | None = None,
        within_s: float | None = None,
    ) -> Region:
        """Replaces all that was said about several objects; those that lie together share a window.

        Args:
            prompts: by object id.
            previous: integer (z,y,x), object ids: what another session made of all but the last click on each object.
                It is gone on from where there is no time to do all of them again.
            within_s: seconds for all of them; None is the session's budget.

        Returns, raises: as `add_point`.
        """
        with self._lock:
            image = self._current()
            for said in prompts.values():
                self._check(said)
            prompts = {k: said for k, said in prompts.items() if said != self._object(k).prompts}
            for k, said in prompts.items():
                if said.box is not None and self._object(k).given is not None:
                    raise PromptError(f"got a box for object {k}, which began with a mask; reset it first, or click")
            if previous is not None and previous.shape != image.geometry.shape:
                raise PromptError(f"got a previous mask {previous.shape}, expected {image.geometry.shape}")
            if within_s is None and self._budget is not None:
                within_s = self._budget.left_s(len(prompts), 0.0)
            with self._reporting(within_s) as (deadline, draft):
                notes = draft.compromises
                plan = self._plan(image, prompts, within_s)
                starts = {k: image.objects.get(k, ObjectState()) for k in prompts}
                if plan.compromises and previous is not None:
                    gone_on = {k: resume_from_mask(previous, k, prompts[k], image) for k in plan.window_by_object}
                    starts |= {k: known for k, known in gone_on.items() if known.region is not None}
                    if any(known.region is not None for known in gone_on.values()):
                        notes.append("the clicks before the last: their mask is gone on from")
                        plan = self._plan(image, prompts, within_s, once=True)
                draft.expected_s = self._expected_s(plan, prompts)
                notes += plan.compromises
                if plan.windows:
                    image.policy = plan.policy
                # Objects of one window follow each other, so that it is encoded once however small the cache is.
                order = [k for planned in plan.windows for k in planned.objects]
                order += [k for k in prompts if k not in order]
                done: dict[int, ObjectState] = {}
                for index, k in enumerate(order):
                    share = deadline.sooner(deadline.left_s / (len(order) - index)) if deadline.is_set else deadline
                    began = time.perf_counter()
                    done[k] = self._segmenter.update(
                        image,
                        starts[k],
                        prompts[k],
                        plan.window_by_object.get(k),
                        share,
                        notes,
                        k not in plan.unchained,
                    )
                    draft.object_s[k] = time.perf_counter() - began
                changed: Region | None = None
                for k, known in done.items():
                    before = image.objects.get(k, ObjectState())
                    image.remember(k, before)
                    image.objects[k] = known
                    for region in (before.region, known.region):
                        changed = union(changed, region) if region is not None else changed
                image.labels = None
            return union(changed, None)

    def plan(self, prompts: Mapping[int, ObjectPrompts], within_s: float | None = None) -> Plan:
        """What `set_all` would begin with, and what that is expected to take; nothing runs."""
        with self._lock:
            image = self._current()
            for said in prompts.values():
                self._check(said)
            return self._plan(image, prompts, within_s)

    def undo(self) -> Region:
        """Takes back the latest prompt of any object.

        Raises:
            PromptError: nothing was said yet.
            Interrupted: by `cancel`; nothing has changed.
        """
        with self._lock:
            image = self._current()
            if not image.history:
                raise PromptError("nothing to undo")
            object_id, before = image.history[-1]
            after = image.objects.get(object_id, ObjectState())
            if before.region is None and (
                before.given is not None or can_start(before.prompts)
            ):  # its mask was forgotten for want of memory
                start = before.begun_anew(before.prompts)
                with self._segmenter.engine.cancellable():
                    before = self._segmenter.update(image, start, before.prompts, None, Deadline(), [])
            image.history.pop()
            image.undone.append((object_id, after))
            image.objects[object_id] = before
            image.labels = None
            return union(before.region, after.region)

    def redo(self) -> Region:
        """Does again what `undo` took back last; a new prompt, mask or reset forgets what could be done again.

        Raises:
            PromptError: nothing was taken back.
        """
        with self._lock:
            image = self._current()
            if not image.undone:
                raise PromptError("nothing to redo")
            *undone, (object_id, after) = image.undone
            before = image.objects.get(object_id, ObjectState())
            image.remember(object_id, before)
            image.undone[:] = undone
            image.objects[object_id] = after
            image.labels = None
            return union(before.region, after.region)

    def cancel(self) -> None:
        """Ends the call that another thread waits for: it raises `Interrupted`, and all is as it was before it.

        Does nothing where no call is running.
        """
        self._segmenter.engine.cancel()

    def reset(self, object_id: int | None = None) -> None:
        """Forgets an object, or all of them."""
        with self._lock:
            image = self._current()
            for key in list(image.objects) if object_id is None else [object_id]:
                image.objects.pop(key, None)
            image.history = [entry for entry in image.history if entry[0] in image.objects]
            image.undone.clear()
            image.labels = None

    @property
    def mask(self) -> NDArray[np.uint16]:
        """uint16 (z,y,x): object ids, 0 elsewhere; where objects overlap, see `gstk.session.label_fusion.label_map`."""
        with self._lock:
            image = self._current()
            if image.labels is None:
                image.labels = image.merge()
            return image.labels

    def prompts(self, object_id: int = 1) -> ObjectPrompts:
        """What was said about an object; empty before its first prompt."""
        with self._lock:
            return self._object(object_id).prompts

    @property
    def extent(self) -> Region:
        """Slices (z,y,x) of the volume outside which `mask` is 0."""
        with self._lock:
            extent: Region | None = None
            for known in self._current().objects.values():
                extent = union(extent, known.region) if known.region is not None else extent
            return union(extent, None)

    def window(self, object_id: int = 1) -> Window | None:
        """The part of the volume that the network saw for an object; None before its first prompt."""
        with self._lock:
            known = self._current().objects.get(object_id)
            return known.window if known else None

    def close(self) -> None:
        """Frees what the session holds, its engine too if it owns it; the session cannot be used afterwards."""
        with self._lock:
            self._segmenter.forget(self._image)
            self._image = None
            if self._owns_engine:
                self._segmenter.engine.close()
            else:
                self._segmenter.engine.stop()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self) -> ImageState:
        if self._image is None:
            raise GstkError("got a call on a session without an image, expected set_image first")
        return self._image

    def _object(self, object_id: int) -> ObjectState:
        if not 1 <= object_id <= np.iinfo(np.uint16).max:
            raise PromptError(f"got object id {object_id}, expected 1 to {np.iinfo(np.uint16).max}")
        return self._current().objects.get(object_id, ObjectState())

    def _is_seen(self, object_id: int) -> bool:
        known = self._object(object_id)
        return known.window is not None and not known.is_fallback

    def _voxel(self, zyx: Sequence[float]) -> tuple[int, int, int]:
        geometry = self._current().geometry
        try:
            voxel = geometry.nearest_voxel(zyx)
        except GeometryError:
            voxel = None
        if voxel is None:
            raise PromptError(f"got a click at {zyx!r:.80}, expected (z, y, x) inside the image of {geometry.shape}")
        return voxel

    def _check(self, prompts: ObjectPrompts) -> None:
        geometry = self._current().geometry
        corners = prompts.box.corners() if prompts.box else ()
        if not all(geometry.contains(corner) for corner in corners):
            raise PromptError(f"got a box of corners {corners}, expected it inside the image of {geometry.shape}")
        for point in prompts.points:
            if not geometry.contains(point.zyx):
                raise PromptError(f"got a click at {point.zyx}, expected it inside the image of {geometry.shape}")

    @property
    def model(self) -> LatencyModel | None:
        """What calls cost on this host; None where nobody asked."""
        return self._segmenter.engine.model

    @property
    def encodes(self) -> int:
        """Runs of the encoder so far."""
        return self._segmenter.encodes

    @property
    def decodes(self) -> int:
        """Runs of the prompt decoder so far."""
        return self._segmenter.decodes

    @contextmanager
    def _reporting(self, within_s: float | None) -> Iterator[tuple[Deadline, _Draft]]:
        """A deadline for the block, and what the block fills in for the report."""
        began, counted = time.perf_counter(), (self.encodes, self.decodes)
        draft = _Draft()
        if within_s is None:
            deadline = Deadline()
        else:
            after_s = _MARGIN * within_s + _AFTER_S * self._current().volume.size
            deadline = Deadline(max(within_s / 2, within_s - after_s))
        with self._segmenter.engine.cancellable():
            yield deadline, draft
        self.report = CallReport(
            within_s,
            draft.expected_s,
            time.perf_counter() - began,
            self.encodes - counted[0],
            self.decodes - counted[1],
            tuple(dict.fromkeys(draft.compromises)),
            draft.object_s,
        )

    def _plan(
        self, image: ImageState, prompts: Mapping[int, ObjectPrompts], within_s: float | None, once: bool = False
    ) -> Plan:
        """Of the objects that have no window yet."""
        engine = self._segmenter.engine
        fresh = {k: said for k, said in prompts.items() if can_start(said) and not self._is_seen(k)}
        return make_plan(
            image.geometry,
            fresh,
            self._policy,
            engine.model,
            budget_s=within_s,
            memory_bytes=None if engine.model is None else engine.model.base_bytes + memory.free_bytes(),
            slowdown=engine.slowdown,
            once=once,
        )

    def _expected_s(self, plan: Plan, prompts: Mapping[int, ObjectPrompts]) -> float:
        """Seconds of a plan, of a decode for each click on what has its window already, and of what comes after."""
        segmenter, planned = self._segmenter, plan.window_by_object
        if segmenter.engine.model is None:
            return 0.0
        expected_s = plan.expected_s
        for k, said in prompts.items():
            known = self._object(k)
            window = planned.get(k, known.window)
            decodes = known.pending_decodes(said)
            if window is None or not decodes:
                continue
            decode_s = 0.0 if k in planned else known.decodes_a_click * segmenter.engine.decode_s(window.shape)
            expected_s += decodes * (decode_s + segmenter.projector.seconds(self._current(), window, said, known))
            expected_s += segmenter.reprompts_s(window, said, known)
        return expected_s

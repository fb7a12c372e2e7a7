"""An interactive session: an image, clicks and boxes on its objects, and a mask after each of them."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gstk.calibration import memory
from gstk.calibration.model import LatencyModel
from gstk.core.geometry import Geometry
from gstk.core.intensities import IntensityWindow
from gstk.core.network_image import NetworkImage
from gstk.core.profile import InputProfile, find_profile
from gstk.core.prompts import Box, ObjectPrompts, Point, PromptWarning, whole_object_id
from gstk.core.regions import Region
from gstk.core.volume import Volume
from gstk.core.window import Window, WindowPolicy
from gstk.engines.base import Engine
from gstk.errors import GeometryError, GstkError, PromptError
from gstk.session.call_report import CallReport
from gstk.session.class_segmenter import ClassSegmenter
from gstk.session.costs import Costs
from gstk.session.deadline import Budget, Deadline
from gstk.session.embedding_cache import DEFAULT_LIMIT_BYTES
from gstk.session.planner import Plan, can_start
from gstk.session.scheduler import Scheduler
from gstk.session.segmenter import ObjectSegmenter
from gstk.session.state import ImageState, ObjectState, class_mask, given_mask
from gstk.session.strokes import lasso_points, plane_box_points, scribble_points
from gstk.session.timed_engine import TimedEngine

if TYPE_CHECKING:
    from gstk.session.extras import Extra

__all__ = ["CallReport", "Region", "Session"]


CLASS_CACHE_SHARE = 0.4
"""Share of the free memory that the features of classes may take."""


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
        extra: Extra | None = None,
        cache_bytes: int = DEFAULT_LIMIT_BYTES,
        model: LatencyModel | None = None,
        budget: Budget | None = None,
        owns_engine: bool = True,
        profile: InputProfile | None = None,
    ) -> None:
        """Begins without an image.

        Args:
            engine: encodes and decodes.
            policy: how windows are made where there is time.
            extra: corrects the network's answers, such as `gstk.session.extras.image_guidance.ImageGuidance`; None
                takes them as they are.
            cache_bytes: memory for embeddings, so that going back to a window costs no encode.
            model: what the engine's calls cost; without one a budget is kept by the clock alone.
            budget: of each object; None is any time.
            owns_engine: whether the engine is closed with the session.
            profile: what the network's input is; None is as for gstk's own small networks.
        """
        self._owns_engine = owns_engine
        self.profile = profile or find_profile("tiny")
        self._costs = Costs(model)
        self._segmenter = ObjectSegmenter(TimedEngine(engine, self._costs), cache_bytes, extra)
        self._scheduler = Scheduler(self._segmenter, policy)
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
        return Session(
            self._segmenter.engine.engine,
            self._scheduler.policy,
            self._segmenter.extra,
            cache_bytes,
            self._costs.model,
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
        """Takes an image and prepares it as the network's profile says; the objects of the one before are forgotten.

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
        source = NetworkImage.prepare(volume, self.profile, intensity_window, assume_window)
        with self._lock:
            self._segmenter.forget(self._image)
            self._image = None
            self.intensities = source.words
            image = self._image = ImageState(source, _policy_for(source, self._scheduler.policy))
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

    def add_plane_box(self, corners: Sequence[Sequence[int]], foreground: bool = True, object_id: int = 1) -> Region:
        """Adds a box that was drawn on one slice, along any axis: it says nothing of how deep the object is.

        Args:
            corners: its first and last voxel ((z,y,x), (z,y,x)), both inside the box.
            foreground: whether the object fills it on that slice; if not, its middle is background.

        Returns, raises: as `add_point`.
        """
        (z0, y0, x0), (z1, y1, x1) = corners
        low, high = (int(z0), int(y0), int(x0)), (int(z1), int(y1), int(x1))
        return self._add_drawn(lambda geometry: plane_box_points(low, high, geometry, foreground), object_id)

    def add_scribble(self, scribble: NDArray[np.generic], foreground: bool = True, object_id: int = 1) -> Region:
        """Adds a line that was drawn along the object, or along what is not the object.

        Args:
            scribble: (z,y,x), of the image's shape; everything but 0 was drawn on.

        Returns, raises: as `add_point`.
        """
        return self._add_drawn(
            lambda geometry: scribble_points(np.asarray(scribble) != 0, geometry, foreground), object_id
        )

    def add_lasso(self, lasso: NDArray[np.generic], foreground: bool = True, object_id: int = 1) -> Region:
        """Adds what was encircled on a slice.

        Args:
            lasso: (z,y,x), of the image's shape; everything but 0 is the outline, or what it encloses.

        Returns, raises: as `add_point`.
        """
        return self._add_drawn(lambda geometry: lasso_points(np.asarray(lasso) != 0, geometry, foreground), object_id)

    def _add_drawn(self, lower: Callable[[Geometry], tuple[Point, ...]], object_id: int) -> Region:
        """Adds a drawing as the clicks that it stands for, in one step."""
        with self._lock:
            before = self._object(object_id).prompts
            points = lower(self._current().geometry)
            return self.set_prompts(replace(before, points=(*before.points, *points)), object_id)

    def set_mask(self, mask: NDArray[np.generic], object_id: int = 1) -> Region:
        """Starts an object from a mask, such as an earlier result; later clicks change it only near them.

        Its prompts before are forgotten; `undo` brings them back. Such an object takes no box, which would start it
        anew: `reset` it first.

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
            return image.commit({whole_object_id(object_id): given_mask(np.asarray(mask) != 0, image)})

    def add_class(
        self,
        name: str | int,
        object_id: int | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Region:
        """Segments a class by its name; clicks on the object then correct it where they touch it, `undo` takes it back.

        The first class looks at the whole volume, window by window; the next ones on the same image take a fraction
        of its time where memory holds the features.

        Args:
            name: of a class, or its id; not of a group or set.
            object_id: of the object that it becomes; None is the class's id.
            on_progress: called after each window with how many are done, and of how many.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: the network has no such class.
            EngineError: the bundle or backend has no class prompts.
            Interrupted: by `cancel`; nothing has changed.
        """
        with self._lock:
            ids = self._class_ids([name])
            if len(ids) != 1:
                raise PromptError(f"got {name!r}, which is {len(ids)} classes; take segment_classes")
            key = ids[0] if object_id is None else object_id
            self._object(key)  # checks the id
            labels, on_grid = self._segment_classes(ids, on_progress)
            image = self._current()
            return image.commit({key: class_mask(labels == ids[0], on_grid == ids[0], image, ids[0])})

    def segment_classes(
        self,
        names: Sequence[str | int],
        as_objects: bool = False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[np.uint16]:
        """Segments classes by name over the whole volume; each voxel is of the class of the largest logit.

        Args:
            names: of classes, groups such as "lung" and sets such as "everything", or their ids.
            as_objects: whether each class becomes an object under its id, for clicks to correct; takes memory for each.
            on_progress: called after each window with how many are done, and of how many.

        Returns:
            uint16 (z,y,x): class ids, 0 elsewhere, a fresh array.

        Raises: as `add_class`.
        """
        with self._lock:
            ids = self._class_ids(names)
            labels, on_grid = self._segment_classes(ids, on_progress)
            if as_objects:
                image = self._current()
                image.commit({k: class_mask(labels == k, on_grid == k, image, k) for k in ids})
            return labels

    def set_prompts(self, prompts: ObjectPrompts, object_id: int = 1) -> Region:
        """Replaces all prompts of an object in one step; returns and raises as `add_point`."""
        return self.set_all({object_id: prompts})

    def set_all(
        self,
        prompts: Mapping[int, ObjectPrompts],
        previous: NDArray[np.integer] | None = None,
        within_s: float | None = None,
    ) -> Region:
        """Replaces all prompts of several objects in one step; objects that lie together may share a window.

        Args:
            prompts: by object id.
            previous: integer (z,y,x), object ids: another session's mask of all but the last click on each object. It
                is corrected by the last click where there is no time to answer all of them again.
            within_s: seconds for all of them; None is the session's budget.

        Returns, raises: as `add_point`.

        Warns:
            PromptWarning: the mask of an object is empty.
        """
        with self._lock:
            image = self._current()
            prompts = self._changed_prompts(prompts)
            if previous is not None and previous.shape != image.geometry.shape:
                raise PromptError(f"got a previous mask {previous.shape}, expected {image.geometry.shape}")
            if within_s is None and self._budget is not None:
                within_s = self._budget.left_s(len(prompts), 0.0)
            began, encodes, decodes = time.perf_counter(), self.encodes, self.decodes
            with self._segmenter.engine.cancellable():
                deadline = self._costs.deadline(within_s, image.source.volume.size)
                schedule = self._scheduler.schedule(image, prompts, previous, within_s)
                updated, object_s = self._scheduler.run(image, schedule, deadline)
                changed = image.commit(updated)
            _warn_of_empty_masks(updated)
            compromises = [*schedule.compromises, *(c for state in updated.values() for c in state.compromises)]
            self.report = CallReport(
                within_s,
                schedule.expected_s,
                time.perf_counter() - began,
                self.encodes - encodes,
                self.decodes - decodes,
                tuple(dict.fromkeys(compromises)),
                object_s,
            )
            return changed

    def plan(self, prompts: Mapping[int, ObjectPrompts], within_s: float | None = None) -> Plan:
        """The first windows of `set_all`, and what they are expected to take; nothing runs."""
        with self._lock:
            image = self._current()
            self._check(prompts)
            return self._scheduler.plan(image, prompts, within_s)

    def undo(self) -> Region:
        """Takes back the latest prompt of any object.

        Raises:
            PromptError: there is nothing to undo.
            Interrupted: by `cancel`; nothing has changed.
        """
        with self._lock:
            image = self._current()
            if not image.history:
                raise PromptError("nothing to undo")
            _, before = image.history[-1]
            if before.region is None and (before.given is not None or can_start(before.prompts)):
                # Its mask was dropped from the history for want of memory.
                start = before.begun_anew(before.prompts)
                with self._segmenter.engine.cancellable():
                    before = self._segmenter.update(image, start, before.prompts, None, Deadline())
            return image.take_back(before)

    def redo(self) -> Region:
        """Does again what `undo` took back last, unless there was a new prompt, mask or reset since.

        Raises:
            PromptError: there is nothing to redo.
        """
        with self._lock:
            image = self._current()
            if not image.undone:
                raise PromptError("nothing to redo")
            return image.do_again()

    def cancel(self) -> None:
        """Ends the call that another thread is in: it raises `Interrupted`, and has changed nothing. Else nothing."""
        self._segmenter.engine.cancel()

    def reset(self, object_id: int | None = None) -> None:
        """Forgets an object, or all of them."""
        with self._lock:
            self._current().forget(object_id)

    @property
    def mask(self) -> NDArray[np.uint16]:
        """uint16 (z,y,x): object ids, 0 elsewhere; where objects overlap, see `gstk.session.label_fusion.label_map`."""
        with self._lock:
            return self._current().merge()

    def prompts(self, object_id: int = 1) -> ObjectPrompts:
        """The prompts of an object; empty before its first."""
        with self._lock:
            return self._object(object_id).prompts

    @property
    def extent(self) -> Region:
        """Slices (z,y,x) of the volume outside which `mask` is 0."""
        with self._lock:
            return self._current().extent

    def window(self, object_id: int = 1) -> Window | None:
        """The part of the volume that the network saw for an object; None before its first prompt."""
        with self._lock:
            return self._current().objects.get(object_id, ObjectState()).window

    def close(self) -> None:
        """Frees its memory, and closes its engine if it owns it; the session cannot be used afterwards."""
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
        return self._current().objects.get(whole_object_id(object_id), ObjectState())

    def _voxel(self, zyx: Sequence[float]) -> tuple[int, int, int]:
        geometry = self._current().geometry
        try:
            voxel = geometry.nearest_voxel(zyx)
        except GeometryError:
            voxel = None
        if voxel is None:
            raise PromptError(f"got a click at {zyx!r:.80}, expected (z, y, x) inside the image of {geometry.shape}")
        return voxel

    def _class_ids(self, names: Sequence[str | int]) -> tuple[int, ...]:
        if "classes" not in self.profile.branches:
            raise PromptError(
                f"got a class for the profile {self.profile.name}, whose weights know no classes; give a point or a box"
            )
        return self.profile.classes.expand(names)

    def _segment_classes(
        self, class_ids: Sequence[int], on_progress: Callable[[int, int], None]
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Label maps (z,y,x) of the volume and of the training grid."""
        image, engine = self._current(), self._segmenter.engine
        began = time.perf_counter()
        if image.classes is None:
            image.classes = ClassSegmenter(
                lambda window: engine.class_features(window, Deadline()),
                engine.engine.class_vectors(),
                image.source,
                int(CLASS_CACHE_SHARE * memory.free_bytes()),
            )
        with engine.cancellable():
            on_grid = image.classes.segment_grid(class_ids, on_progress)
            labels = image.classes.project(on_grid)
        self.report = CallReport(spent_s=time.perf_counter() - began)
        return labels, on_grid

    def _check(self, prompts: Mapping[int, ObjectPrompts]) -> None:
        if "points" not in self.profile.branches and any(own.points or own.box for own in prompts.values()):
            raise PromptError(
                f"got a point or box for the profile {self.profile.name}, whose weights take classes alone; give those"
            )
        geometry = self._current().geometry
        for own in prompts.values():
            corners = own.box.corners() if own.box else ()
            if not all(geometry.contains(corner) for corner in corners):
                raise PromptError(f"got a box of corners {corners}, expected it inside the image of {geometry.shape}")
            for point in own.points:
                if not geometry.contains(point.zyx):
                    raise PromptError(f"got a click at {point.zyx}, expected it inside the image of {geometry.shape}")

    @property
    def model(self) -> LatencyModel | None:
        """What the engine's calls cost on this host; None in a session without a budget."""
        return self._costs.model

    @property
    def encodes(self) -> int:
        """Runs of the encoder so far."""
        return self._segmenter.encodes

    @property
    def decodes(self) -> int:
        """Runs of the prompt decoder so far."""
        return self._segmenter.decodes

    def _changed_prompts(self, prompts: Mapping[int, ObjectPrompts]) -> dict[int, ObjectPrompts]:
        """Those of the prompts that are not as they were, checked."""
        self._check(prompts)
        whole = {whole_object_id(k): own.rounded() for k, own in prompts.items()}
        changed = {k: own for k, own in whole.items() if own != self._object(k).prompts}
        for k, own in changed.items():
            if own.box is not None and self._object(k).given is not None:
                raise PromptError(f"got a box for object {k}, which began with a mask; reset it first, or click")
        return changed


def _warn_of_empty_masks(updated: Mapping[int, ObjectState]) -> None:
    for object_id, state in sorted(updated.items()):
        if can_start(state.prompts) and (state.logits is None or not (state.logits > 0).any()):
            said = f"the mask of object {object_id} is empty: the network found nothing at its prompts"
            warnings.warn(said, PromptWarning, stacklevel=4)


def _policy_for(image: NetworkImage, policy: WindowPolicy) -> WindowPolicy:
    """The policy of windows on an image: where the network has a resolution, begin with the training's windows."""
    if image.grid is None:
        return policy
    finest_mm = min(t * s for t, s in zip(image.grid.step, image.geometry.spacing_mm, strict=True))
    return replace(policy, training_window=image.training_window, min_mm=finest_mm)

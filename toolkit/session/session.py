"""An interactive session: an image, clicks and boxes on its objects, and a mask after each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gstk.calibration.model import LatencyModel
from gstk.core.geometry import Geometry
from gstk.core.intensities import IntensityWindow
from gstk.core.network_image import NetworkImage
from gstk.core.profile import InputProfile, find_profile
from gstk.core.prompts import ObjectPrompts, whole_object_id
from gstk.core.regions import Region
from gstk.core.volume import Volume
from gstk.core.window import Window, WindowPolicy
from gstk.engines.base import Engine
from gstk.engines.failures import memory_errors
from gstk.errors import GstkError
from gstk.session import prompt_checks as checks
from gstk.session.call_report import CallReport
from gstk.session.class_methods import ClassMethods
from gstk.session.costs import Costs
from gstk.session.deadline import Budget, Deadline
from gstk.session.embedding_cache import DEFAULT_LIMIT_BYTES, EmbeddingCache
from gstk.session.planner import Plan
from gstk.session.prompt_methods import PromptMethods
from gstk.session.refine_methods import RefineMethods
from gstk.session.refinement import Refinement
from gstk.session.scheduler import Scheduler
from gstk.session.segmenter import ObjectSegmenter
from gstk.session.settings import session_settings
from gstk.session.state import ImageState, ObjectState, given_mask
from gstk.session.timed_classes import ClassForecast
from gstk.session.timed_engine import TimedEngine

if TYPE_CHECKING:
    from gstk.session.extras import Extra

__all__ = ["CallReport", "Region", "Session"]


class Session(PromptMethods, RefineMethods, ClassMethods):
    """Segments the objects of one image, click by click. Threads may share a session: calls run one after the other.

    `gstk.open` makes a session. Voxel indices are (z,y,x) of the image as given; object ids are 1 to 65535.

    Attributes:
        profile: the input that the network expects.
        report: expected and measured time and the compromises of the latest call that made a mask.
        intensities: description of how the image's intensities were prepared.
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
        embeddings: EmbeddingCache | None = None,
        click_within_s: float | None = None,
    ) -> None:
        """Begins without an image.

        Args:
            engine: encodes and decodes.
            policy: how windows are made where there is time.
            extra: corrects the network's answers, such as `extras.image_guidance.ImageGuidance`; None takes them as is.
            cache_bytes: memory for embeddings, so that going back to a window costs no encode.
            model: what the engine's calls cost; without one a budget is kept by the clock alone.
            budget: time for each object; None is no limit.
            owns_engine: whether the engine is closed with the session.
            profile: what the network's input is; None is the profile `tiny`, that of gstk's own small networks.
            embeddings: an empty cache, whose limit counts instead of `cache_bytes`.
            click_within_s: time that calls are planned for, for each object. Unlike a budget's, it may be exceeded: the
                network's answer to a prompt comes even if it is late. None is no target.

        Raises:
            GstkError: `click_within_s` is not above 0.
        """
        self._owns_engine = owns_engine
        self.profile = profile or find_profile("tiny")
        self._costs = Costs(model)
        cache = EmbeddingCache(cache_bytes) if embeddings is None else embeddings
        self._segmenter = ObjectSegmenter(TimedEngine(engine, self._costs), cache, extra)
        self._scheduler = Scheduler(self._segmenter, policy)
        self._budget = budget
        if click_within_s is not None and not click_within_s > 0:
            raise GstkError(f"got clicks within {click_within_s} s, expected above 0 s")
        self._click_within_s = click_within_s
        self._image: ImageState | None = None
        self._lock = threading.RLock()
        self._computing = threading.RLock()
        self._refinement = Refinement(self.refine, self._segmenter.engine.cancel)
        self.report = CallReport()
        self.intensities = ""

    def sibling(self) -> Session:
        """Another session on the same engine, with the same settings and no image.

        Each of them may have an image of its own; they share the limit of memory for embeddings. The engine is closed
        with this session, so close this one last.
        Sessions on one engine are to be called by one thread after the other: `cancel` ends whatever the engine runs.
        """
        return Session(
            self._segmenter.engine.engine,
            self._scheduler.policy,
            self._segmenter.extra,
            model=self._costs.model,
            budget=self._budget,
            owns_engine=False,
            profile=self.profile,
            embeddings=self.embeddings.sibling(),
            click_within_s=self._click_within_s,
        )

    @property
    def embeddings(self) -> EmbeddingCache:
        """The embeddings of the image's windows."""
        return self._segmenter.embeddings

    @memory_errors("take the image")
    def set_image(
        self,
        volume: Volume | NDArray[np.generic],
        spacing_mm: Sequence[float] | None = None,
        look_at: Sequence[float] | Literal["centre"] | None = None,
        *,
        intensity_window: IntensityWindow = None,
        assume_window: IntensityWindow = None,
    ) -> None:
        """Sets the image and prepares it by the network's input profile; objects of the previous image are forgotten.

        Args:
            volume: from `gstk.read_volume`, or an array (z,y,x) of any real dtype, finite. An array carries no
                metadata: HU are recognised only by air in the image, and the patient's orientation is unknown. It is
                read as needed and must not change meanwhile.
            spacing_mm: (z,y,x) of an array; None is 1 each. A `Volume` knows its own.
            look_at: the voxel (z,y,x) where the first click is expected, or "centre": a window around it is encoded in
                the background, and a first click near it is answered without another encode, unless the profile fixes
                a resolution and places its own window elsewhere. None waits for the click.
            intensity_window: for networks whose input is the challenge's 0 to 255, how other intensities are mapped to
                it: "auto", a CT window's name, "percentile" or (width, level); see `gstk.core.intensities`.
            assume_window: for networks whose input is HU, the window that mapped the image to 0 to 255, or "hu" if it
                is in HU.

        Raises:
            GstkError: the volume is not three-dimensional, is empty or holds NaN or infinity; the spacing is not > 0,
                or is given for a `Volume`.
            ProfileError: the values do not fit the network's profile.
            PromptError: `look_at` lies outside the image.

        Warns:
            VolumeWarning: the volume is probably unlike the network's training data.
        """
        source = NetworkImage.prepare(Volume.of(volume, spacing_mm), self.profile, intensity_window, assume_window)
        self._refinement.drop()
        with self._lock:
            self._segmenter.forget(self._image)
            self._image = None
            self.intensities = source.words
            image = self._image = ImageState.of(source, self._scheduler.policy)
            if look_at is not None:
                centre = [(n - 1) / 2 for n in image.geometry.shape] if look_at == "centre" else look_at
                self._segmenter.look_ahead(image, checks.image_voxel(centre, image.geometry))

    @memory_errors("take the mask")
    def set_mask(self, mask: NDArray[np.generic], object_id: int = 1) -> Region:
        """Starts an object from a mask, such as an earlier result; later clicks change it only near them.

        Its earlier prompts are forgotten; `undo` restores them. Such an object takes no box, since a box would start it
        again from nothing: `reset` it first.

        Args:
            mask: (z,y,x), of the image's shape; everything but 0 is the object.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: the mask has another shape.
        """
        with self._lock:
            image = self._current()
            checks.check_shape(mask, image.geometry)
            return image.commit({whole_object_id(object_id): given_mask(np.asarray(mask) != 0, image)})

    @memory_errors("answer the prompts")
    def set_all(
        self,
        prompts: Mapping[int, ObjectPrompts],
        previous: NDArray[np.integer] | None = None,
        within_s: float | None = None,
        *,
        is_firm: bool = True,
        coarse_first: bool = False,
        on_refined: Callable[[Region], None] | None = None,
    ) -> Region:
        """Replaces all prompts of several objects in one step; objects that lie together may share a window.

        Args:
            prompts: by object id.
            previous: integer (z,y,x), object ids: another session's mask, made with all clicks but the last on each
                object. Where there is no time to answer all clicks again, the last click corrects it.
            within_s: seconds for all objects; None is the session's budget and target.
            is_firm: whether a mask is there within `within_s` in any case, if need be made without the network. If not,
                the network's answer is waited for.

            coarse_first: whether objects without a window yet are first answered in coarse ones, where that saves time;
                `refine` then makes the final masks.
            on_refined: has `refine` called in the background after such an answer, and is itself called there with the
                region that changed. Refining makes way for the next prompt, and goes on after it.

        Returns, raises: as `add_point`.

        Warns:
            PromptWarning: the mask of an object is empty.
        """
        coarse_first = coarse_first or on_refined is not None
        with self._lock, self._making_way(on_refined):
            image = self._current()
            prompts = checks.changed_prompts(prompts, image, self.profile)
            if previous is not None:
                checks.check_shape(previous, image.geometry, "previous mask")
            target_s = self._click_within_s if within_s is None else None
            given_s = within_s
            within_s, keeps = self._time_for(len(prompts), within_s, has_target=not coarse_first)
            is_firm = keeps and (is_firm or given_s is None)
            began, encodes, decodes = time.perf_counter(), self.encodes, self.decodes
            with self._segmenter.engine.cancellable():
                deadline = self._costs.deadline(within_s, image.source.volume.size, is_firm=is_firm)
                schedule = self._scheduler.schedule(image, prompts, previous, within_s, is_firm)
                if coarse_first:
                    schedule = self._draft(image, schedule, target_s)
                updated, object_s = self._scheduler.run(image, schedule, deadline)
                changed = image.commit(updated)
            checks.warn_of_empty_masks(updated)
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
        """The first windows of `set_all` and their expected time; nothing runs."""
        with self._lock:
            image = self._current()
            checks.check_prompts(prompts, image, self.profile)
            is_firm = within_s is not None
            if within_s is None and self._click_within_s is not None:
                within_s = self._click_within_s * len(prompts)
            return self._scheduler.plan(image, prompts, within_s, is_firm=is_firm)

    @memory_errors("undo")
    def undo(self) -> Region:
        """Takes back the latest prompt of any object, up to 1,000 of them; the masks of the latest 100 are kept.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: there is nothing to undo.
            Interrupted: by `cancel`; nothing has changed.
        """
        with self._lock, self._making_way():
            image = self._current()
            return image.take_back(self._segmenter.restore(image, image.latest_before()))

    @memory_errors("redo")
    def redo(self) -> Region:
        """Repeats the change that the latest `undo` took back, unless a new prompt, mask or reset came since.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: there is nothing to redo.
            Interrupted: by `cancel`; nothing has changed.
        """
        with self._lock, self._making_way():
            image = self._current()
            return image.do_again(self._segmenter.restore(image, image.latest_undone()))

    def cancel(self) -> None:
        """Ends a call that runs in another thread, which raises `Interrupted` and changes nothing."""
        self._segmenter.engine.cancel()

    def reset(self, object_id: int | None = None) -> None:
        """Forgets an object with its prompts and mask, or all objects; `undo` does not restore them."""
        with self._lock:
            self._current().forget(object_id)

    @property
    def mask(self) -> NDArray[np.uint16]:
        """uint16 (z,y,x): object ids, 0 elsewhere; where objects overlap, see `gstk.session.label_fusion.label_map`."""
        with self._lock:
            return self._current().merge()

    def mask_in(self, region: Region) -> NDArray[np.uint16]:
        """The part of `mask` in slices (z,y,x) of the volume, a fresh array; the rest is not computed."""
        with self._lock:
            return self._current().merge_in(region)

    def take_changed(self) -> Region:
        """Slices (z,y,x) of the volume outside which `mask` did not change since the last call of this method."""
        with self._lock:
            return self._current().take_changed()

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
        self._refinement.drop()
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

    def _change_prompts(
        self,
        change: Callable[[Geometry, ObjectPrompts], ObjectPrompts],
        object_id: int,
        on_refined: Callable[[Region], None] | None = None,
    ) -> Region:
        with self._lock:
            before = self._object(object_id).prompts
            return self.set_all({object_id: change(self._current().geometry, before)}, on_refined=on_refined)

    def _current(self) -> ImageState:
        if self._image is None:
            raise GstkError("got a call on a session without an image, expected set_image first")
        return self._image

    def _object(self, object_id: int) -> ObjectState:
        return self._current().objects.get(whole_object_id(object_id), ObjectState())

    def _segment_classes(
        self, class_ids: Sequence[int], on_progress: Callable[[int, int], None], within_s: float | None
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Label maps (z,y,x) of the volume and of the training grid."""
        began, image = time.perf_counter(), self._current()
        within_s, deadline = self._class_deadline(class_ids, within_s)
        expected_s = self._segmenter.plan_classes(image, class_ids, deadline).expected_s
        with self._making_way():
            labels, on_grid, compromises = self._segmenter.segment_classes(image, class_ids, on_progress, deadline)
        self.report = CallReport(within_s, expected_s, time.perf_counter() - began, compromises=compromises)
        return labels, on_grid

    def _plan_classes(self, class_ids: Sequence[int], within_s: float | None) -> ClassForecast:
        _, deadline = self._class_deadline(class_ids, within_s)
        return self._segmenter.plan_classes(self._current(), class_ids, deadline)

    def _class_deadline(self, class_ids: Sequence[int], within_s: float | None) -> tuple[float | None, Deadline]:
        if within_s is None and self._budget is not None:
            within_s = self._budget.left_s(len(class_ids), 0.0)
        return within_s, self._costs.deadline(within_s, self._current().source.volume.size)

    @property
    def settings(self) -> dict[str, Any]:
        """What its masks depend on besides image and prompts: bundle, engine, windows, extra, as JSON values."""
        return session_settings(self._segmenter.engine.engine, self._scheduler.policy, self._segmenter.extra)

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

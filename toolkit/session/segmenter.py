"""From prompts to an object's mask: choose a window, encode it, decode the prompts, and apply the click."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gstk.calibration import memory
from gstk.core.click_rule import component_centre
from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.window import Window, WindowPolicy, frame
from gstk.engines.base import Embedding
from gstk.session.class_clicks import click_on_class
from gstk.session.click_update import (
    ClickScope,
    apply_click,
    enforce_clicks,
    fallback_mask,
    keep_clicked_components,
)
from gstk.session.deadline import Clock, Deadline, TimeUp
from gstk.session.embedding_cache import EmbeddingCache
from gstk.session.planner import can_start, initial_prompts, window_sizes
from gstk.session.projection import project_on
from gstk.session.state import ImageState, ObjectState
from gstk.session.thin_boxes import answer_thin_box, is_thin
from gstk.session.tiled_objects import click_on_tiles, segment_in_tiles, wants_tiles
from gstk.session.timed_classes import ClassForecast, TimedClasses
from gstk.session.timed_engine import TimedEngine
from gstk.session.window_answer import WindowAnswer
from gstk.session.window_selection import (
    MOST_POINTS,
    adapt_window,
    initial_window,
    latest_points,
    lie_well_inside,
    network_labels,
    network_points,
)

if TYPE_CHECKING:
    from gstk.session.extras import Extra

__all__ = ["MORE_POINTS", "ObjectSegmenter", "coarser_window", "lies_in_window_ahead"]

MAX_ADAPTATIONS = 2
"""How often one prompt may move the object to a window that suits the mask better."""

KEPT_PATCHES = 2
"""Windows whose image is kept: what the network saw, and the finer grid of an extra."""

CLASS_CACHE_LIMIT_BYTES = 4 * 2**30
"""Most memory for the features of classes: those of 355³ voxels of the full-size network."""
CLASS_CACHE_SHARE = 0.4
"""Share of the free memory that the features of classes may take."""

ALL_AT_ONCE = "one click after the other: all were taken at once"
FINER_WINDOW = "a finer window"
ADAPTED_WINDOW = "a window that suits the mask better"
MORE_POINTS = "a second decode with points of the first mask"
SMOOTH_BORDERS = "smooth borders: the mask is as coarse as its window"

_Points = tuple[NDArray[np.float64], NDArray[np.int64]]


class ObjectSegmenter:
    """Finds objects in an image through an engine, and keeps the embeddings of that image.

    Attributes:
        engine: encodes and decodes.
        costs: what that takes.
        extra: corrects the network's answers; None takes them as they are.
        embeddings: of the image's windows.
        encodes, decodes: runs of the network's halves so far.
    """

    def __init__(self, engine: TimedEngine, embeddings: EmbeddingCache, extra: Extra | None = None) -> None:
        self.engine, self.costs, self.extra = engine, engine.costs, extra
        self.embeddings = embeddings
        self._patches: dict[Window, NDArray[np.float32]] = {}
        self.encodes = self.decodes = 0

    def look_ahead(self, image: ImageState, voxel: tuple[int, int, int]) -> None:
        """Encodes the window that a first click on a voxel would have, in the background."""
        window = initial_window(image.geometry, ObjectPrompts((Point(voxel, True),)), image.policy)
        encode = self.engine.engine.encode
        image.ahead = window, self.engine.ahead(lambda: encode(self._network_input(image, window)))

    def forget(self, image: ImageState | None) -> None:
        """Drops all that belongs to an image, and ends what runs for it in the background."""
        if image is not None:
            self._end_background(image)
        self.embeddings.clear()
        self._patches.clear()

    def update(
        self,
        image: ImageState,
        state: ObjectState,
        prompts: ObjectPrompts,
        first_window: Window | None,
        deadline: Deadline,
    ) -> ObjectState:
        """An object after its prompts.

        Clicks are answered one after the other, so that a mask does not depend on whether they were given at once.

        Args:
            state: the object so far; its mask stays where `prompts` extend the ones before by clicks.
            prompts: all of them.
            first_window: the window that was planned for it.
            deadline: when the mask has to be there. What was skipped for it is in the new state's `compromises`.
        """
        clock = Clock(deadline)
        if not state.is_extended_by(prompts) or (state.is_coarse and not image.policy.is_draft):
            state = state.begun_anew(prompts)
        if state.window is None:
            if image.ahead is not None and not image.policy.is_draft and lies_in_window_ahead(image, prompts):
                first_window = image.ahead[0]
            state = replace(state, window=first_window)
        given, inner = state.given, _inner_points(state, prompts)
        answered = len(state.prompts.points)
        count = len(prompts.points)
        try:
            if prompts.box is not None and state.region is None:
                state = self._answer(image, state, None, clock.keeping(self.costs.clicks_s(state, count)))
            while answered < count:
                before, end = state, answered + 1
                later_s = self.costs.clicks_s(state, count - end)
                if end < count and not clock.allows(ALL_AT_ONCE, later_s):
                    end, later_s = count, 0.0
                    if given is None:  # prompts cannot make a given mask again: the last click corrects it
                        before = ObjectState(window=state.window)
                clicked = replace(prompts, points=(*inner, *prompts.points[:end]))
                before = replace(before, prompts=clicked)
                state = self._answer(image, before, prompts.points[end - 1], clock.keeping(later_s))
                answered = end
        except TimeUp:
            unanswered = "the network's answer" if state.region is None else "its answer to the latest prompts"
            clock.skip(f"{unanswered}: the mask is made from the prompts alone")
            state = _fallback(image, state, prompts, answered)
        is_coarse = image.policy.is_draft
        return replace(state, prompts=prompts, given=given, compromises=clock.compromises, is_coarse=is_coarse)

    def restore(self, image: ImageState, state: ObjectState) -> ObjectState:
        """A state from the history with its mask, which is computed again where the history had no memory for it."""
        if state.region is not None or (state.given is None and not can_start(state.prompts)):
            return state
        with self.engine.cancellable():
            return self.update(image, state.begun_anew(state.prompts), state.prompts, None, Deadline())

    def classes(self, image: ImageState) -> TimedClasses:
        """The class segmenter of an image, made at the first call; it caches features as long as the image is open."""
        if image.classes is None:
            engine = self.engine
            cache_bytes = min(CLASS_CACHE_LIMIT_BYTES, int(CLASS_CACHE_SHARE * memory.free_bytes()))
            vectors = engine.engine.class_vectors()
            image.classes = TimedClasses(engine.class_features, vectors, image.source, cache_bytes)
        return image.classes

    def segment_classes(
        self,
        image: ImageState,
        class_ids: Sequence[int],
        on_progress: Callable[[int, int], None],
        deadline: Deadline,
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16], tuple[str, ...]]:
        """Label maps (z,y,x) of some classes, on the volume and on the training grid; see `TimedClasses`.

        Returns:
            Both, and what was skipped to be done by the deadline.
        """
        classes, costs = self.classes(image), self.costs
        window_s = costs.classes_s(image.source.profile.patch, len(class_ids))
        with self.engine.cancellable():
            on_grid, compromises = classes.segment_grid(class_ids, on_progress, deadline, window_s, costs.class_load_s)
            return classes.project(on_grid), on_grid, compromises

    def plan_classes(self, image: ImageState, class_ids: Sequence[int], deadline: Deadline) -> ClassForecast:
        """What `segment_classes` would do, and what it would take; nothing runs."""
        return self.classes(image).forecast(self.costs, len(class_ids), deadline)

    def _answer(self, image: ImageState, state: ObjectState, click: Point | None, clock: Clock) -> ObjectState:
        """The object's mask from its prompts; where there was one before, `click` changes only what is near it.

        Raises:
            TimeUp: there is not even a first answer of the network.
        """
        prompts, geometry = state.prompts, image.geometry
        if state.class_id is not None and click is not None:
            return click_on_class(image, state, click, partial(self._decode_window, image), clock)
        if not can_start(prompts):
            return ObjectState(prompts)  # no prompt locates the object
        if state.is_tiled and click is not None:
            decode = partial(self._decode_window, image, novel=prompts.novel)
            clicked = click_on_tiles(image, state, click, decode, self._answer_s, clock, self.costs)
            if clicked is not None:
                return clicked
        points = network_points(prompts)
        window = state.window
        if window is None or not window.holds(points[0]).all():
            window = initial_window(image.geometry, prompts, image.policy)
        clock = clock.keeping(self.costs.nearest_s(window.inside(geometry.shape)))
        window = self._affordable_window(image, window, clock)
        logits = self._decode_window(image, window, points, clock.deadline.of_needed, novel=prompts.novel)
        first = window, logits
        answer = self._adapt_window(image, points, WindowAnswer(window, logits, prompts), clock)
        window, logits = answer.window, answer.logits

        # An extra improves the answer of one window; its logits may lie on a finer grid.
        grid = window
        tiled = None
        optional = Clock(Deadline(0.0)) if image.policy.is_draft else clock
        if self.extra is None and wants_tiles(image, window):
            decode = partial(self._decode_window, image, novel=prompts.novel)
            tiled = segment_in_tiles(image, points, first, (window, logits), decode, self._answer_s, clock)
        if tiled is not None:
            grid, logits = tiled
        if self.extra is not None:
            logits = self._decode_more_points(image, prompts, points, window, logits, optional)
            sample = partial(self._sample, image)
            grid, logits = self.extra.refine(sample, geometry, window, logits, prompts, optional)

        began = time.perf_counter()
        if grid is not window or logits is not answer.logits:
            answer = WindowAnswer(grid, logits, prompts)
        projector = project_on(image.source, answer)
        region = projector.region
        if not clock.allows(SMOOTH_BORDERS, self.costs.resample_s(region)):
            values = projector.project_nearest()
            enforce_clicks(values, region, prompts)
            if prompts.box is not None and not prompts.points and is_thin(prompts.box, window):
                region, values = answer_thin_box(prompts.box, geometry, region, values)
            return ObjectState(prompts, window, region, values, is_tiled=tiled is not None)
        values = projector.project()
        if not projector.is_filtered:
            values = keep_clicked_components(values, region, prompts)
        enforce_clicks(values, region, prompts)
        if click is not None and state.region is not None and state.logits is not None:
            weigh = None if self.extra is None else partial(self.extra.weigh_click, prompts, click)
            scope = ClickScope.of(click, prompts, geometry.spacing_mm, weigh)
            region, values = apply_click(scope, state.region, state.logits, region, values)
            enforce_clicks(values, region, prompts)
        elif prompts.box is not None and not prompts.points and is_thin(prompts.box, window):
            region, values = answer_thin_box(prompts.box, geometry, region, values)
        self.costs.resampling.measured(values.size, time.perf_counter() - began)
        return ObjectState(prompts, window, region, values, is_tiled=tiled is not None)

    def _affordable_window(self, image: ImageState, window: Window, clock: Clock) -> Window:
        """The window, or one of the same field of view and fewer voxels that there is time for."""
        if self._answer_s(window) <= clock.left_s:
            return window
        clock.skip(FINER_WINDOW)
        coarser = window
        for max_voxels in window_sizes(image.policy)[1:]:
            coarser = coarser_window(image.geometry, window, replace(image.policy, max_voxels=max_voxels))
            if self._answer_s(coarser) <= clock.left_s:
                break
        return coarser

    def _adapt_window(self, image: ImageState, points: _Points, answer: WindowAnswer, clock: Clock) -> WindowAnswer:
        """The answer in the window that suits the mask, as far as there is time to decode there."""
        for _ in range(MAX_ADAPTATIONS):
            better = adapt_window(image.geometry, answer, image.policy)
            if better is None:
                break
            decode = partial(self._decode_window, image, better, points, novel=answer.prompts.novel)
            logits = clock.attempt(ADAPTED_WINDOW, self._answer_s(better), decode)
            if logits is None:
                break
            answer = WindowAnswer(better, logits, answer.prompts)
        return answer

    def _decode_more_points(
        self,
        image: ImageState,
        prompts: ObjectPrompts,
        points: _Points,
        window: Window,
        logits: NDArray[np.float32],
        clock: Clock,
    ) -> NDArray[np.float32]:
        """The network's answer to the extra's points as well, where the extra wants any and there is time."""
        assert self.extra is not None
        extra = self.extra
        more_points_s = extra.seconds("more_points", image.geometry, window, prompts)
        if not more_points_s:
            return logits

        def decode_again(deadline: Deadline) -> NDArray[np.float32]:
            more = extra.more_points(partial(self._sample, image), window, logits, prompts)
            if more is None:
                return logits
            both = np.concatenate([points[0], more[0]]), np.concatenate([points[1], more[1]])
            return self._decode_window(image, window, both, deadline, novel=prompts.novel)

        seconds = more_points_s + self.costs.decode_s(window.shape, cautious=True)
        answer = clock.attempt(MORE_POINTS, seconds, decode_again)
        return logits if answer is None else answer

    def _answer_s(self, window: Window) -> float:
        return self.costs.answer_s(window, window in self.embeddings)

    def _decode_window(
        self,
        image: ImageState,
        window: Window,
        points: _Points,
        deadline: Deadline,
        *,
        special: bool = False,
        novel: bool = False,
    ) -> NDArray[np.float32]:
        """The network's answer to points of the volume and their labels: logits (z,y,x) on the window's grid.

        Args:
            points: voxels of the volume, and labels: 1 on the object, 0 beside it.
            special, novel: see `network_labels`.
        """
        coords, labels = latest_points(*points, min(MOST_POINTS, self.engine.engine.most_points))
        labels = network_labels(labels, special=special, novel=novel)
        embedding = self._embedding(image, window, deadline)
        local = image.source.points(window, coords)
        self.decodes += 1
        logits: NDArray[np.float32] = self.engine.decode(embedding, local[None], labels[None], deadline)[0, 0]
        return image.source.to_window(logits)

    def _embedding(self, image: ImageState, window: Window, deadline: Deadline) -> Embedding:
        embedding = self.embeddings.get(window)
        if embedding is None:
            embedding = self._encoded_ahead(image, window, deadline)
            if embedding is None:
                embedding = self.engine.encode(self._network_input(image, window), deadline)
            self.embeddings.put(window, embedding)
            self.encodes += 1
        return embedding

    def _sample(self, image: ImageState, window: Window) -> NDArray[np.float32]:
        """The image on a window's grid, float32 (z,y,x), 0–1; the latest of them are kept."""
        patch = self._patches.pop(window, None)
        if patch is None:
            patch = image.source.patch(window)
        self._patches[window] = patch
        if len(self._patches) > KEPT_PATCHES:
            del self._patches[next(iter(self._patches))]
        return patch

    def _network_input(self, image: ImageState, window: Window) -> NDArray[np.float32]:
        return image.source.to_network(self._sample(image, window))

    def _encoded_ahead(self, image: ImageState, window: Window, deadline: Deadline) -> Embedding | None:
        """The embedding of a window that is encoded in the background; where it is another window, that is ended."""
        if image.ahead is None or image.ahead[0] != window:
            self._end_background(image)
            return None
        (_, future), image.ahead = image.ahead, None
        return self.engine.wait(future, deadline)

    def _end_background(self, image: ImageState) -> None:
        if image.ahead is not None and not image.ahead[1].cancel():
            self.engine.engine.interrupt()
        image.ahead = None


def lies_in_window_ahead(image: ImageState, prompts: ObjectPrompts) -> bool:
    """Whether an object's first window is the one that is encoded in the background.

    A window of the training's resolution lies around the click as it did in training, and no other takes its place.
    """
    if image.ahead is None or prompts.box is not None or not can_start(prompts):
        return False
    first = initial_prompts(prompts)
    if image.policy.training_window is not None:
        return initial_window(image.geometry, first, image.policy) == image.ahead[0]
    first_clicks, _ = network_points(first)
    return lie_well_inside(first_clicks, image.ahead[0], image.geometry)


def coarser_window(geometry: Geometry, window: Window, policy: WindowPolicy) -> Window:
    """A window of the same field of view with as many voxels as a policy allows."""
    low, high = np.maximum(window.start, 0.0), np.minimum(window.stop, geometry.shape)
    return frame(geometry, low, high, replace(policy, margin=0.0))


def _inner_points(state: ObjectState, prompts: ObjectPrompts) -> tuple[Point, ...]:
    """A foreground point inside a given mask, for the network, where all clicks are background clicks; else none."""
    if state.class_id is not None:
        return ()  # in MONAI's rule the network gets the clicks alone
    if state.given is None or can_start(prompts) or state.logits is None or state.region is None:
        return ()
    mask = state.logits > 0
    if not mask.any():
        return ()
    z, y, x = (i + axis.start for i, axis in zip(component_centre(mask), state.region, strict=True))
    return (Point((z, y, x), True),)


def _fallback(image: ImageState, state: ObjectState, prompts: ObjectPrompts, answered: int) -> ObjectState:
    """The object with the prompts that the network did not answer put into its mask as they are."""
    unanswered = replace(prompts, points=prompts.points[answered:])
    region, logits = fallback_mask(unanswered, image.geometry, state.region, state.logits)
    enforce_clicks(logits, region, prompts)
    return replace(state, region=region, logits=logits, is_fallback=True)

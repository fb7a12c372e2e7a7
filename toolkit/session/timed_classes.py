"""Class prompts within a time limit: fewer overlaps, then coarser windows, always a label map of the whole volume."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.network_image import NetworkImage
from gstk.core.training_grid import TrainingGrid
from gstk.core.window import Window
from gstk.session.class_segmenter import ClassSegmenter, window_starts
from gstk.session.deadline import Deadline, TimeUp

if TYPE_CHECKING:
    from gstk.session.costs import Costs

__all__ = ["ClassForecast", "ClassPlan", "TimedClasses", "class_plans"]

_OVERLAPS = (0.125, 0.0)
_COARSER = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_MARGIN = 1.1
"""How much longer than the windows so far the others may take."""

OnProgress = Callable[[int, int], None]
Features = Callable[[NDArray[np.float32], Deadline], NDArray[np.float32]]


class ClassPlan(NamedTuple):
    """How the windows of class prompts lie.

    Attributes:
        overlap: share of a window that neighbours have in common.
        coarser: side of their voxels over that of the training's.
        windows: how many there are.
    """

    overlap: float
    coarser: float
    windows: int

    def compromises(self, best: ClassPlan) -> tuple[str, ...]:
        """What `best` has and this plan has not."""
        if self.coarser > best.coarser:
            windows = f"{self.windows} {'window' if self.windows == 1 else 'windows'} in place of {best.windows}"
            return (f"classes at the training's resolution: voxels are {self.coarser:.3g} times as long, {windows}",)
        if self.windows < best.windows:
            overlap = f"windows that overlap by {best.overlap:.1%}"
            return (f"{overlap}: they do by {self.overlap:.1%}, {self.windows} in place of {best.windows}",)
        return ()


class ClassForecast(NamedTuple):
    """What a class segmentation will do, and what it is expected to take.

    Attributes:
        plan: its windows; those of `best` where time does not limit it.
        best: the profile's own windows.
        shape: sides of a window in voxels, in the network's axes.
        voxel_mm: sides (z,y,x) of a window's voxels.
        load_s: seconds to load the graph for classes; 0 if it is loaded.
        window_s: seconds of a window with its labels; 0 without a latency model.
        peak_bytes: memory of the process, besides the volume; 0 without a latency model.
        is_known: whether all features of the image are in memory, so that no window is needed.
    """

    plan: ClassPlan
    best: ClassPlan
    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    load_s: float
    window_s: float
    peak_bytes: float
    is_known: bool

    @property
    def expected_s(self) -> float:
        """Seconds of all windows."""
        return 0.0 if self.is_known else self.load_s + self.plan.windows * self.window_s

    @property
    def compromises(self) -> tuple[str, ...]:
        """What a larger budget would have allowed, a sentence each."""
        return () if self.is_known else self.plan.compromises(self.best)


class _TooSlow(Exception):
    """The windows that are left would take longer than there is time."""


def class_plans(image: NetworkImage) -> list[ClassPlan]:
    """The profile's windows, and then plans of fewer and fewer, down to a single window over the whole volume."""
    grid, profile = image.grid, image.profile
    assert grid is not None
    sides = image.axes.sides_to_volume(profile.patch)
    plans: list[ClassPlan] = []
    ways = [(overlap, 1.0) for overlap in (profile.overlap, *_OVERLAPS)]
    for overlap, coarser in [*ways, *((profile.overlap, factor) for factor in _coarser_factors(grid, sides))]:
        counts = _coarser_grid(grid, coarser).shape
        windows = math.prod(len(window_starts(n, side, overlap)) for n, side in zip(counts, sides, strict=True))
        if not plans or windows < plans[-1].windows:
            plans.append(ClassPlan(overlap, coarser, windows))
    return plans


class TimedClasses:
    """Segments the classes of one image as well as the time allows.

    Attributes:
        plans: see `class_plans`.
    """

    def __init__(
        self,
        features_of: Features,
        vectors: NDArray[np.float32],
        image: NetworkImage,
        cache_bytes: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with an image.

        Args:
            features_of: from an image [1,1,H,W,D] to features [C,H,W,D], by a deadline; raises `TimeUp`.
            vectors, image, cache_bytes: see `ClassSegmenter`.
            now: seconds of a clock.
        """
        self._features_of, self._vectors, self._image, self._cache_bytes = features_of, vectors, image, cache_bytes
        self._now, self._deadline = now, Deadline()
        self._full = ClassSegmenter(self._features, vectors, image, cache_bytes)
        self._latest: tuple[ClassPlan, ClassSegmenter] | None = None
        self._window_s = 0.0
        self.plans = class_plans(image)

    @property
    def has_features(self) -> bool:
        """Whether the features of the profile's own windows are kept, so that further classes take no window."""
        return self._full.has_features

    def first_plan(self, deadline: Deadline, window_s: float = 0.0, load_s: float = 0.0) -> ClassPlan:
        """The plan that `segment_grid` begins with; see there."""
        if not deadline.is_set:
            return self.plans[0]
        return self._first_fitting(self.plans, deadline, self._window_s or window_s, load_s)

    def forecast(self, costs: Costs, classes: int, deadline: Deadline) -> ClassForecast:
        """What `segment_grid` would do for so many classes, and what it would take; nothing runs."""
        image, model = self._image, costs.model
        load_s, window_s = costs.class_load_s, costs.classes_s(image.profile.patch, classes)
        plan = self.first_plan(deadline, window_s, load_s)
        peak_bytes = 0.0
        if model is not None:
            segmenter = self._segmenter(plan)
            labels_bytes = 2 * (math.prod(image.geometry.shape) + math.prod(self._coarser(plan).shape))
            labels_bytes += segmenter.label_bytes(classes)
            peak_bytes = model.class_peak_bytes(image.profile.patch) + segmenter.held_bytes + labels_bytes
        z, y, x = (
            step * spacing for step, spacing in zip(self._coarser(plan).step, image.geometry.spacing_mm, strict=True)
        )
        return ClassForecast(
            plan, self.plans[0], image.profile.patch, (z, y, x), load_s, window_s, peak_bytes, self.has_features
        )

    def segment_grid(
        self,
        class_ids: Sequence[int],
        on_progress: OnProgress = lambda done, total: None,
        deadline: Deadline | None = None,
        window_s: float = 0.0,
        load_s: float = 0.0,
    ) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
        """As `ClassSegmenter.segment_grid`, and what was given up for the time.

        Args:
            class_ids, on_progress: see there.
            deadline: when to be done; None is any time.
            window_s: what a window is expected to take; 0 where nothing is known.
            load_s: what it is expected to take until the first window begins.
        """
        deadline, best = deadline or Deadline(), self.plans[0]
        if self._full.has_features or not deadline.is_set:
            self._deadline = Deadline()
            return self._full.segment_grid(class_ids, on_progress), ()
        plan = self.first_plan(deadline, window_s, load_s)
        if self._latest is not None and self._latest[1].has_features and plan.windows <= self._latest[0].windows:
            plan = self._latest[0]
        while True:
            self._deadline = deadline
            cheaper = [other for other in self.plans if other.windows < plan.windows]
            # What has no cheaper plan runs to its end: a late label map is better than none.
            watched = partial(self._watch, on_progress, deadline, self._now()) if cheaper else on_progress
            if not cheaper:
                self._deadline = Deadline()
            try:
                return self._segment(plan, class_ids, watched), plan.compromises(best)
            except _TooSlow:
                plan = self._first_fitting(cheaper, deadline, self._window_s)
            except TimeUp:
                plan = cheaper[-1]

    def project(self, labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """See `ClassSegmenter.project`."""
        return self._full.project(labels)

    def _features(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._features_of(window, self._deadline)

    def _first_fitting(
        self, plans: Sequence[ClassPlan], deadline: Deadline, window_s: float, load_s: float = 0.0
    ) -> ClassPlan:
        fitting = (plan for plan in plans if load_s + plan.windows * window_s * _MARGIN <= deadline.left_s)
        return next(fitting, plans[-1])

    def _watch(self, on_progress: OnProgress, deadline: Deadline, began: float, done: int, total: int) -> None:
        """Tells how far it is, and gives a plan up whose other windows would take too long."""
        on_progress(done, total)
        self._window_s = (self._now() - began) / done
        if (total - done) * self._window_s * _MARGIN > deadline.left_s:
            raise _TooSlow

    def _segment(self, plan: ClassPlan, class_ids: Sequence[int], on_progress: OnProgress) -> NDArray[np.uint16]:
        segmenter = self._segmenter(plan)
        if segmenter is not self._full:
            self._latest = plan, segmenter
        labels = segmenter.segment_grid(class_ids, on_progress)
        assert self._image.grid is not None
        return labels if plan.coarser == 1 else _finer_labels(labels, self._image.grid, plan.coarser)

    def _segmenter(self, plan: ClassPlan) -> ClassSegmenter:
        if plan == self.plans[0]:
            return self._full
        if self._latest is not None and self._latest[0] == plan:
            return self._latest[1]
        image = replace(self._image, grid=self._coarser(plan))
        image = replace(image, profile=replace(image.profile, overlap=plan.overlap))
        sample = None if plan.coarser == 1 else self._sample_coarser
        return ClassSegmenter(self._features, self._vectors, image, self._cache_bytes, sample)

    def _coarser(self, plan: ClassPlan) -> TrainingGrid:
        assert self._image.grid is not None
        return _coarser_grid(self._image.grid, plan.coarser)

    def _sample_coarser(self, window: Window) -> NDArray[np.float32]:
        """A window of coarser voxels, each the mean of what it covers: the grid's own sampling has no filter."""
        image = self._image
        return image.to_network(window.sample(image.volume, image.low, image.high))


def _coarser_factors(grid: TrainingGrid, sides: Sequence[int]) -> list[float]:
    """Factors up to the one at which one window holds all of the grid."""
    whole = max(n / (side - 2) for n, side in zip(grid.shape, sides, strict=True))
    return [*itertools.takewhile(lambda factor: factor < whole, _COARSER), whole] if whole > 1 else []


def _coarser_grid(grid: TrainingGrid, factor: float) -> TrainingGrid:
    """The grid with longer voxels, over all that counts of it."""
    if factor == 1:
        return grid
    low = [math.floor(a / factor) for a in grid.low]
    high = [max(a + 1, math.ceil((b - 1) / factor - 1e-9) + 1) for a, b in zip(low, grid.high, strict=True)]
    places = grid.places.coarser(factor)
    return replace(grid, places=places, low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2]))


def _finer_labels(labels: NDArray[np.uint16], grid: TrainingGrid, factor: float) -> NDArray[np.uint16]:
    """Labels of a coarser grid on the voxels of the grid that count, each from the nearest."""
    low = _coarser_grid(grid, factor).low
    index = [
        np.clip(np.rint(np.arange(a, b) / factor).astype(np.int64) - first, 0, count - 1)
        for a, b, first, count in zip(grid.low, grid.high, low, labels.shape, strict=True)
    ]
    return labels[np.ix_(*index)]

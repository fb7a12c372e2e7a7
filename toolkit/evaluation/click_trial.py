"""Clicks on labelled cases by the official rule, to compare the masks of two engines and to sample engine inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.cases.npz import SpacingOrder, load_case
from gstk.core.manifest import RoiRules
from gstk.core.profile import InputProfile
from gstk.core.window import WindowPolicy
from gstk.engines.base import BundleEngine, Engine, Sample
from gstk.errors import CaseError
from gstk.evaluation.protocol import click_by_click
from gstk.session.session import Session

__all__ = ["ClickTrial"]

MOST_SAMPLES = 32
"""Regions that are kept: enough for the scales of INT8, and few enough to hold."""


class ClickTrial:
    """Labelled cases on which an engine is tested with clicks by the official rule.

    Attributes:
        names: names of the cases.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        rounds: int = 5,
        spacing_order: SpacingOrder = "zyx",
        on_progress: Callable[[str], None] = lambda _: None,
        assume_window: str | None = None,
    ) -> None:
        """Reads the cases.

        Args:
            paths: `.npz` cases with labels.
            rounds: number of clicks on each class.
            spacing_order: axis order of `spacing` in the files.
            on_progress: called with a short text before each case.
            assume_window: for a network whose input is HU: the CT window that mapped HU to the cases' 0 to 255; see
                `Session.set_image`.

        Raises:
            CaseError: a case cannot be read or has no labels, or there are no cases.
        """
        self._cases = [load_case(path, spacing_order=spacing_order) for path in paths]
        for case in self._cases:
            if case.labels is None or not case.labels.any():
                raise CaseError(f"got {case.name} without labels, expected `gts`: masks are scored against them")
        if not self._cases:
            raise CaseError("got no cases, expected one or more with labels")
        self.names = [case.name for case in self._cases]
        self._rounds, self._on_progress, self._assume_window = rounds, on_progress, assume_window

    def scores(self, engine: Engine, roi: RoiRules) -> dict[str, list[float]]:
        """Segments every case with an engine, click by click.

        Returns:
            For each case name, the mean Dice over the classes after each click.
        """
        z, y, x = roi.default
        session = Session(engine, WindowPolicy(z * y * x, roi.multiple, roi.minimum), profile=_profile_of(engine))
        scores = {}
        for number, case in enumerate(self._cases, start=1):
            self._on_progress(
                f"{engine.name} {engine.precision}: clicks on case {number}/{len(self._cases)}, {case.name}"
            )
            assert case.labels is not None
            scored = click_by_click(
                session,
                case.image,
                case.geometry.spacing_mm,
                case.labels,
                self._rounds,
                assume_window=self._assume_window,
            )
            scores[case.name] = scored.means
        return scores

    def scores_and_samples(self, engine: Engine, roi: RoiRules) -> tuple[dict[str, list[float]], list[Sample]]:
        """Returns `scores` and a random sample of the engine's inputs; equal cases and masks give an equal sample."""
        recorder = _Recorder(engine, roi)
        scores = self.scores(recorder, roi)
        return scores, recorder.samples


def _profile_of(engine: Engine) -> InputProfile | None:
    """The input profile of an engine's bundle; None for an engine without one."""
    inner = engine._engine if isinstance(engine, _Recorder) else engine
    return inner.bundle.manifest.profile if isinstance(inner, BundleEngine) else None


class _Recorder(Engine):
    """Forwards all calls to another engine and keeps a random sample of its inputs."""

    def __init__(self, engine: Engine, roi: RoiRules) -> None:
        super().__init__(roi.multiple, roi.minimum, roi.max_voxels)
        self.name, self.precision = engine.name, engine.precision  # type: ignore[misc]
        self.samples: list[Sample] = []
        self._engine, self._rng, self._seen = engine, np.random.default_rng(0), 0

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        embedding = self._engine.encode(image)
        return (image, embedding), embedding.size_bytes

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        image, embedding = handle
        self._keep(Sample(image, coords, labels))
        return self._engine.decode(embedding, coords, labels)

    def _keep(self, sample: Sample) -> None:
        """Updates the sample so that every input so far is in it with equal probability (Vitter's algorithm R)."""
        self._seen += 1
        if len(self.samples) < MOST_SAMPLES:
            self.samples.append(sample)
        elif (place := int(self._rng.integers(self._seen))) < MOST_SAMPLES:
            self.samples[place] = sample

    def _release(self) -> None:
        pass

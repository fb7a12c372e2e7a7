"""The official click protocol: in each round, every object gets one click at the centre of its largest error."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gstk.core.click_rule import next_click, seeded_choice
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.regions import Region, union
from gstk.evaluation.metrics import dice, label_boxes
from gstk.session.session import Session

__all__ = ["ClickScores", "Segmenter", "SessionSegmenter", "Step", "click_by_click", "run_steps"]


class Segmenter(ABC):
    """Interface of a method that computes a label map from an image and the prompts of its objects.

    Attributes:
        seconds: wall time of all calls so far, as the protocol counts it.
        expected_seconds: seconds that the segmenter predicted for these calls; 0 without a latency model.
        answers_without_prompts: whether it has a mask of an object before the first click, such as that of its class.
    """

    answers_without_prompts: bool = False

    def __init__(self) -> None:
        self.seconds = self.expected_seconds = 0.0

    @abstractmethod
    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """Takes an image; see `Session.set_image`."""

    @abstractmethod
    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """Returns the label map, integer (z,y,x), as a new array. `prompts` extend those of the previous call."""

    def close(self) -> None:  # noqa: B027 - most segmenters have nothing to free
        """Frees the memory of the segmenter."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Context manager that adds the time of its block to `seconds`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


class SessionSegmenter(Segmenter):
    """A segmenter that uses a session."""

    def __init__(self, session: Session, assume_window: str | None = None) -> None:
        """Wraps a session.

        Args:
            session: the session; `close` closes it, too.
            assume_window: see `Session.set_image`.
        """
        super().__init__()
        self._session, self._assume_window = session, assume_window

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """Takes an image; see `Session.set_image`."""
        with self._counted():
            self._session.set_image(volume, spacing_mm, assume_window=self._assume_window)

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """Returns the session's label map; only objects with new prompts are segmented again."""
        with self._counted():
            self._session.set_all(prompts)
            self.expected_seconds += self._session.report.expected_s
            return self._session.mask

    def close(self) -> None:
        """Closes the session."""
        self._session.close()


@dataclass(frozen=True)
class Step:
    """One step of the protocol.

    Attributes:
        number: number of the step; step 0 uses only the prompts given before the first click, such as boxes, or the
            objects' classes.
        prompts: all prompts so far, by object id.
        mask: integer (z,y,x), the label map that the segmenter returned.
        seconds: time of the segmenter in this step; the first step includes `set_image`.
        expected_seconds: seconds that the segmenter predicted for this step; 0 without a latency model.
        click_seconds: time for finding the clicks.
    """

    number: int
    prompts: dict[int, ObjectPrompts]
    mask: NDArray[np.integer]
    seconds: float
    expected_seconds: float
    click_seconds: float


@dataclass(frozen=True)
class ClickScores:
    """Scores of one image after each round of clicks.

    Attributes:
        classes: object ids.
        start: Dice of each class before the first click, from the initial prompts; None without initial prompts.
        rounds: Dice of each class after each round.
        prompts: all prompts, by object id.
        mask: uint16 (z,y,x), the label map after the last round.
    """

    classes: tuple[int, ...]
    start: list[float] | None
    rounds: list[list[float]]
    prompts: dict[int, ObjectPrompts]
    mask: NDArray[np.integer]

    @property
    def means(self) -> list[float]:
        """Mean Dice over the classes after each round."""
        return [float(np.mean(scores)) for scores in self.rounds]


def run_steps(
    segmenter: Segmenter,
    volume: NDArray[np.generic],
    spacing_mm: Sequence[float],
    truth: NDArray[np.integer],
    rounds: int = 5,
    classes: Sequence[int] | None = None,
    start: Mapping[int, ObjectPrompts] | None = None,
    choose: Callable[[int], int] = seeded_choice,
) -> Iterator[Step]:
    """Alternates between segmenting and clicking by the official rule (`gstk.core.click_rule.next_click`).

    Args:
        segmenter: the segmenter to run.
        volume, spacing_mm: the image; see `Session.set_image`.
        truth: integer (z,y,x), object ids of the reference.
        rounds: number of clicks on each class; a class without errors gets no further click.
        classes: ids to segment; None uses all ids in `truth`.
        start: initial prompts, such as boxes; if there are any, or the segmenter needs none, the first step is step 0.
        choose: returns the index of one of n equally central voxels, given n.

    Yields:
        The steps in order. Each step is computed only when the caller asks for it.
    """
    classes = [int(k) for k in np.unique(truth) if k] if classes is None else list(classes)
    prompts = {k: (start or {}).get(k, ObjectPrompts()) for k in classes}
    counted, expected = segmenter.seconds, segmenter.expected_seconds
    segmenter.set_image(volume, spacing_mm)
    truth_boxes = label_boxes(truth)
    mask: NDArray[np.integer] = np.zeros(truth.shape, np.uint16)
    for number in range(0 if start or segmenter.answers_without_prompts else 1, rounds + 1):
        began = time.perf_counter()
        if number:
            boxes = label_boxes(mask)
            for k in classes:
                click = _click_within(mask, truth, k, union(truth_boxes.get(k), boxes.get(k)), choose)
                if click is not None:
                    prompts[k] = replace(prompts[k], points=(*prompts[k].points, click))
        click_seconds = time.perf_counter() - began
        mask = segmenter.segment(prompts)
        yield Step(
            number,
            dict(prompts),
            mask,
            segmenter.seconds - counted,
            segmenter.expected_seconds - expected,
            click_seconds,
        )
        counted, expected = segmenter.seconds, segmenter.expected_seconds


def click_by_click(
    session: Session,
    volume: NDArray[np.generic],
    spacing_mm: Sequence[float],
    truth: NDArray[np.integer],
    rounds: int = 5,
    classes: Sequence[int] | None = None,
    start: Mapping[int, ObjectPrompts] | None = None,
    assume_window: str | None = None,
) -> ClickScores:
    """Runs `run_steps` on an image and computes the Dice of each step; `run_steps` describes the arguments."""
    classes = [int(k) for k in np.unique(truth) if k] if classes is None else list(classes)
    before: list[float] | None = None
    scores: list[list[float]] = []
    prompts: dict[int, ObjectPrompts] = {}
    mask: NDArray[np.integer] = np.zeros(truth.shape, np.uint16)
    for step in run_steps(SessionSegmenter(session, assume_window), volume, spacing_mm, truth, rounds, classes, start):
        prompts, mask = step.prompts, step.mask
        dsc = [dice(mask == k, truth == k) for k in classes]
        if step.number:
            scores.append(dsc)
        else:
            before = dsc
    return ClickScores(tuple(classes), before, scores, prompts, mask)


def _click_within(
    mask: NDArray[np.integer], truth: NDArray[np.integer], k: int, box: Region, choose: Callable[[int], int]
) -> Point | None:
    """The next click on a class. Only the box around the class in both maps is searched; outside it are no errors."""
    click = next_click(mask[box] == k, truth[box] == k, choose)
    if click is None:
        return None
    z, y, x = (i + axis.start for i, axis in zip(click.zyx, box, strict=True))
    return Point((z, y, x), click.foreground)

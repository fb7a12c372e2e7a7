"""The official click protocol: in each round every object gets one click at the centre of its largest error."""

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
    """Makes a label map from an image and the prompts of its objects so far.

    Attributes:
        seconds: wall time that the protocol counts, of all calls so far.
        expected_seconds: the seconds that it expected for them; 0 without a latency model.
    """

    def __init__(self) -> None:
        self.seconds = self.expected_seconds = 0.0

    @abstractmethod
    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """Takes an image; see `Session.set_image`."""

    @abstractmethod
    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """The label map, integer (z,y,x), a fresh array. `prompts` extend those of the call before."""

    def close(self) -> None:  # noqa: B027 - most segmenters have nothing to free
        """Frees its memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Adds the time that the block takes to `seconds`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


class SessionSegmenter(Segmenter):
    """A session behind the interface of segmenters."""

    def __init__(self, session: Session, assume_window: str | None = None) -> None:
        """Takes a session.

        Args:
            session: closed with this.
            assume_window: see `Session.set_image`.
        """
        super().__init__()
        self._session, self._assume_window = session, assume_window

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """Takes an image; see `Session.set_image`."""
        with self._counted():
            self._session.set_image(volume, spacing_mm, assume_window=self._assume_window)

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """The session's mask; only objects with new prompts are segmented again."""
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
        number: 0 is the prompts that were there before the first click, such as boxes.
        prompts: all of them so far, by object id.
        mask: integer (z,y,x), the segmenter's answer.
        seconds: time of the segmenter in this step; in the first one, taking the image is part of it.
        expected_seconds: the seconds that the segmenter expected; 0 without a latency model.
        click_seconds: time that it took to find the clicks.
    """

    number: int
    prompts: dict[int, ObjectPrompts]
    mask: NDArray[np.integer]
    seconds: float
    expected_seconds: float
    click_seconds: float


@dataclass(frozen=True)
class ClickScores:
    """Scores of clicking through one image.

    Attributes:
        classes: object ids.
        start: Dice of each class before the first click, from the prompts that were there; None where none were.
        rounds: Dice of each class after each round.
        prompts: all of them, by object id.
        mask: uint16 (z,y,x), after the last round.
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
    """Segments and clicks in turn, by the official rule (`gstk.core.click_rule.next_click`).

    Args:
        segmenter: takes the image.
        volume, spacing_mm: see `Session.set_image`.
        truth: integer (z,y,x), object ids.
        rounds: how often every class is clicked; a class that is right already gets no click.
        classes: ids to segment; None takes all of `truth`.
        start: prompts to begin from, such as boxes; with some there is a step 0.
        choose: picks among that many equally central voxels.

    Yields:
        The steps in order. Nothing is computed before the next one is asked for.
    """
    classes = [int(k) for k in np.unique(truth) if k] if classes is None else list(classes)
    prompts = {k: (start or {}).get(k, ObjectPrompts()) for k in classes}
    counted, expected = segmenter.seconds, segmenter.expected_seconds
    segmenter.set_image(volume, spacing_mm)
    truth_boxes = label_boxes(truth)
    mask: NDArray[np.integer] = np.zeros(truth.shape, np.uint16)
    for number in range(0 if start else 1, rounds + 1):
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
    """Clicks through an image with `run_steps` and takes the Dice of each step; for the arguments see there."""
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
    """The next click on a class, sought in the box that holds it in both maps: beyond there is no error."""
    click = next_click(mask[box] == k, truth[box] == k, choose)
    if click is None:
        return None
    z, y, x = (i + axis.start for i, axis in zip(click.zyx, box, strict=True))
    return Point((z, y, x), click.foreground)

"""The official way to click: in each round every object gets one click at the centre of its largest error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gstk.clicks import next_click
from gstk.prompts import ObjectPrompts, Point
from gstk.session import Session

__all__ = ["ClickScores", "click_by_click", "dice"]


@dataclass(frozen=True)
class ClickScores:
    """What clicking made of one image.

    Attributes:
        classes: object ids.
        start: Dice of each class before the first click, from the prompts that were there; None where none were.
        rounds: Dice of each class after each round.
        prompts: all that was said, by object id.
        mask: uint16 (z,y,x), after the last round.
    """

    classes: tuple[int, ...]
    start: list[float] | None
    rounds: list[list[float]]
    prompts: dict[int, ObjectPrompts]
    mask: NDArray[np.uint16]

    @property
    def means(self) -> list[float]:
        """Mean Dice over the classes after each round."""
        return [float(np.mean(scores)) for scores in self.rounds]


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice similarity of two masks; 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def click_by_click(
    session: Session,
    volume: NDArray[np.generic],
    spacing_mm: Sequence[float],
    truth: NDArray[np.integer],
    rounds: int = 5,
    classes: Sequence[int] | None = None,
    start: Mapping[int, ObjectPrompts] | None = None,
) -> ClickScores:
    """Clicks by the official rule (`gstk.clicks.next_click`) and scores each round.

    Args:
        session: takes the image.
        volume, spacing_mm: see `Session.set_image`.
        truth: integer (z,y,x), object ids.
        rounds: how often every class is clicked; a class that is right already gets no click.
        classes: ids to segment; None takes all of `truth`.
        start: prompts to begin from, such as boxes.
    """
    classes = [int(k) for k in np.unique(truth) if k] if classes is None else list(classes)
    prompts = {k: (start or {}).get(k, ObjectPrompts()) for k in classes}
    session.set_image(volume, spacing_mm)
    for k in classes:
        if prompts[k] != ObjectPrompts():
            session.set_prompts(prompts[k], k)
    scores: list[list[float]] = []
    before = [dice(session.mask == k, truth == k) for k in classes] if start else None
    for _ in range(rounds):
        mask = session.mask
        for k in classes:
            click = next_click(mask == k, truth == k)
            if click is not None:
                prompts[k] = replace(prompts[k], points=(*prompts[k].points, Point(*click)))
                session.set_prompts(prompts[k], k)
        mask = session.mask
        scores.append([dice(mask == k, truth == k) for k in classes])
    return ClickScores(tuple(classes), before, scores, prompts, session.mask)

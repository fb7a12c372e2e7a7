"""Segments by class, and then by clicks that correct the classes, behind the interface of segmenters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gstk.core.class_table import ClassTable
from gstk.core.prompts import ObjectPrompts
from gstk.errors import EvaluationError
from gstk.evaluation.protocol import SessionSegmenter
from gstk.session.session import Session

__all__ = ["ClassSegmenter", "class_of_label", "classes_of_labels"]


def classes_of_labels(table: ClassTable, names: Sequence[str]) -> tuple[int, ...]:
    """The class of each label of a reference: the first name is of label 1, and so on.

    Raises:
        PromptError: a class is unknown or was not trained.
        EvaluationError: a name stands for several classes.
    """
    ids = []
    for name in names:
        found = table.expand([name])
        if len(found) != 1:
            raise EvaluationError(f"got {name!r} for --classes, which is {len(found)} classes, expected one a label")
        ids.append(found[0])
    return tuple(ids)


def class_of_label(classes: Sequence[int], label: int) -> int:
    """The class of a label; raises `EvaluationError` where there is none."""
    if label > len(classes):
        raise EvaluationError(
            f"got a reference with the label {label}, expected labels up to {len(classes)}, one for each of --classes"
        )
    return classes[label - 1]


class ClassSegmenter(SessionSegmenter):
    """A session whose objects begin as classes; each class is segmented on its own."""

    answers_without_prompts = True

    def __init__(self, session: Session, names: Sequence[str], assume_window: str | None = None) -> None:
        """Wraps a session.

        Args:
            session: of weights with classes; `close` closes it, too.
            names: see `classes_of_labels`.
            assume_window: see `Session.set_image`.

        Raises:
            PromptError, EvaluationError: see `classes_of_labels`.
        """
        super().__init__(session, assume_window)
        self._classes = classes_of_labels(session.profile.classes, names)
        self._begun: set[int] = set()

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """See `Segmenter`."""
        self._begun.clear()
        super().set_image(volume, spacing_mm)

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """See `Segmenter`. Labels whose prompts are clicks are corrected by them; boxes are no prompts of a class."""
        with self._counted():
            for label in [label for label in prompts if label not in self._begun]:
                self._session.add_class(class_of_label(self._classes, label), object_id=label)
                self._begun.add(label)
            clicked = {label: ObjectPrompts(said.points) for label, said in prompts.items() if said.points}
            if clicked:
                self._session.set_all(clicked)
                self.expected_seconds += self._session.report.expected_s
            return self._session.mask

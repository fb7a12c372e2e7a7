"""The prompts that name a class: one class as an object, or a label map of many."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gstk.core.profile import InputProfile
from gstk.core.prompts import whole_object_id
from gstk.core.regions import Region
from gstk.engines.failures import memory_errors
from gstk.errors import PromptError
from gstk.session import prompt_checks as checks
from gstk.session.state import ImageState, class_mask
from gstk.session.timed_classes import ClassForecast

__all__ = ["ClassMethods"]


class ClassMethods(ABC):
    """Class prompts of a session.

    Attributes:
        profile: the network's input and its classes.
    """

    profile: InputProfile
    _lock: threading.RLock

    @abstractmethod
    def _current(self) -> ImageState:
        """The image that is open.

        Raises:
            GstkError: there is none.
        """

    @abstractmethod
    def _segment_classes(
        self, class_ids: Sequence[int], on_progress: Callable[[int, int], None], within_s: float | None
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Label maps (z,y,x) of the volume and of the training grid."""

    @abstractmethod
    def _plan_classes(self, class_ids: Sequence[int], within_s: float | None) -> ClassForecast:
        """See `plan_classes`."""

    def plan_classes(self, names: Sequence[str | int], within_s: float | None = None) -> ClassForecast:
        """What `segment_classes` would do, and what it would take in time and memory; nothing runs.

        Args:
            names: see `segment_classes`.
            within_s: seconds for all of it; None is the session's budget, and infinity any time.

        Raises:
            PromptError: the network has no such class.
            EngineError: the bundle or backend has no class prompts.
        """
        with self._lock:
            return self._plan_classes(checks.expand_classes(names, self.profile), within_s)

    @memory_errors("segment the class")
    def add_class(
        self,
        name: str | int,
        object_id: int | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        within_s: float | None = None,
    ) -> Region:
        """Segments a class by its name. Later clicks on the object correct it; `undo` takes it back.

        The first class on an image encodes the whole volume, window by window. Further classes take a fraction of that
        time where memory holds the features.

        Args:
            name: a class's name or id; groups and sets of classes are refused.
            object_id: id of the new object; None is the class's id.
            on_progress: called after each window with how many are done, and of how many; a plan that is given up for
                want of time begins anew.
            within_s: seconds for all of it; None is the session's budget. Where they are too few, windows overlap less,
                or are coarser; `report` says so.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: the network has no such class.
            EngineError: the bundle or backend has no class prompts.
            Interrupted: by `cancel`; nothing has changed.
        """
        with self._lock:
            ids = checks.expand_classes([name], self.profile)
            if len(ids) != 1:
                raise PromptError(f"got {name!r}, which is {len(ids)} classes; take segment_classes")
            key = whole_object_id(ids[0] if object_id is None else object_id)
            labels, on_grid = self._segment_classes(ids, on_progress, within_s)
            image = self._current()
            return image.commit({key: class_mask(labels == ids[0], on_grid == ids[0], image, ids[0])})

    @memory_errors("segment the classes")
    def segment_classes(
        self,
        names: Sequence[str | int],
        as_objects: bool = False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        within_s: float | None = None,
    ) -> NDArray[np.uint16]:
        """Segments classes by name over the whole volume; each voxel is of the class of the largest logit.

        Args:
            names: of classes, groups such as "lung" and sets such as "everything", or their ids.
            as_objects: whether each class becomes an object under its id, for clicks to correct; takes memory for each.
            on_progress: called after each window with how many are done, and of how many; a plan that is given up for
                want of time begins anew.
            within_s: seconds for all of it; None is the session's budget. Where they are too few, windows overlap less,
                or are coarser; `report` says so.

        Returns:
            uint16 (z,y,x): class ids, 0 elsewhere, a fresh array.

        Raises: as `add_class`.
        """
        with self._lock:
            ids = checks.expand_classes(names, self.profile)
            labels, on_grid = self._segment_classes(ids, on_progress, within_s)
            if as_objects:
                image = self._current()
                image.commit({k: class_mask(labels == k, on_grid == k, image, k) for k in ids})
            return labels

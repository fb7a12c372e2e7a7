"""Finds clicks without effect: the mask is computed again without each click, and compared with the original."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.session.advice import no_change
from gstk.session.deadline import Deadline
from gstk.session.planner import can_start
from gstk.session.session import Session

__all__ = ["MOST_CHECKED", "find_idle_clicks"]

MOST_CHECKED = 4
"""Clicks of an object, from the last one back: each takes the network's decoder once."""

_CAUTION = 1.5
"""A check begins where this many times the seconds of the longest so far are left."""


def find_idle_clicks(
    session: Session,
    mask: NDArray[np.uint16],
    object_ids: Iterable[int],
    geometry: Geometry,
    deadline: Deadline | None = None,
) -> list[str]:
    """Finds the clicks that did not change the mask, and their distance from it.

    Args:
        session: the session that made the mask. Its prompts are restored at the end; its report then describes the
            last comparison.
        mask: uint16 (z,y,x), the label map that the session made.
        object_ids: ids of the objects that were started by clicks or a box, not by a mask.
        geometry: the geometry of the image.
        deadline: when to end; a click whose check may take longer than is left is not asked about. None is never.

    Returns:
        One sentence for each click without effect.
    """
    sentences = []
    deadline = Deadline() if deadline is None else deadline
    longest_s, earlier = session.report.spent_s, session.report.compromises
    for object_id in object_ids:
        prompts = session.prompts(object_id)
        inside = mask == object_id
        for point in _candidates(prompts, inside):
            if deadline.left_s < _CAUTION * longest_s:
                break
            others = replace(prompts, points=tuple(other for other in prompts.points if other is not point))
            began = time.perf_counter()
            session.set_all({object_id: others}, within_s=deadline.left_s if deadline.is_set else None)
            longest_s = max(longest_s, time.perf_counter() - began)
            if set(session.report.compromises) - set(earlier):
                session.undo()
                break  # with time enough these prompts may have made another mask
            if np.array_equal(session.mask == object_id, inside):
                kind = "foreground" if point.foreground else "background"
                why = no_change(inside, point.zyx, point.foreground, geometry)
                sentences.append(f"the {kind} click {point.zyx} changed nothing of object {object_id}. {why}")
            session.undo()
    return sentences


def _candidates(prompts: ObjectPrompts, inside: NDArray[np.bool_]) -> list[Point]:
    """The most recent clicks, oldest first, without which the remaining prompts still suffice to segment the object."""
    last = prompts.points[-MOST_CHECKED:]
    return [
        point
        for point in last
        if can_start(replace(prompts, points=tuple(other for other in prompts.points if other is not point)))
        and inside.any()
    ]

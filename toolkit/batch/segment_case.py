"""Segments one case by clicks and boxes, from an earlier mask, or by the names of classes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gstk.batch.results import ObjectResult
from gstk.cases.npz import Case
from gstk.core.prompts import ObjectPrompts
from gstk.errors import PromptError
from gstk.session.advice import no_change
from gstk.session.planner import can_start
from gstk.session.session import Session

__all__ = ["segment_case", "segment_classes"]

_MOST_NAMED = 6


def segment_case(
    session: Session,
    case: Case,
    within_s: float | None = None,
    intensity_window: str = "auto",
    assume_window: str | None = None,
    start_mask: NDArray[np.integer] | None = None,
    *,
    is_firm: bool = True,
) -> tuple[NDArray[np.uint16], tuple[ObjectResult, ...], tuple[str, ...]]:
    """Segments every object of a case that has prompts.

    Args:
        session: the session; it needs a latency model if the time is limited.
        case: the case, with its previous mask if there is one. If the time is too short for all clicks, only the last
            click is used, to correct the previous mask.
        within_s: seconds for all objects together; None uses the session's own budget.
        intensity_window, assume_window: see `Session.set_image`.
        is_firm: see `Session.set_all`.
        start_mask: integer (z,y,x), object ids of an earlier result. A click changes an object of it only near the
            click.

    Returns:
        The label map, uint16 (z,y,x); size and time of each object; and a warning for each class without prompts,
        whose mask stays empty.

    Raises:
        PromptError: no class has a prompt, or one lies outside the volume.
    """
    began = time.perf_counter()
    if not any(prompts.points or prompts.box for prompts in case.prompts.values()):
        raise PromptError(
            f"{case.name} has no clicks and no boxes; click on an object with --point, or give a --box; "
            "`gstk inspect` shows where to click"
        )
    begun = [] if start_mask is None else [int(k) for k in np.unique(start_mask) if k]
    if not any(can_start(prompts) or k in begun for k, prompts in case.prompts.items()):
        raise PromptError(
            f"{case.name} has background clicks only, which say where the object is not; click on it with --point, or "
            "give a --box"
        )
    session.set_image(case.volume, intensity_window=intensity_window, assume_window=assume_window)
    notes = []
    for object_id in begun:
        session.set_mask(np.asarray(start_mask) == object_id, object_id)
    for object_id, prompts in sorted(case.prompts.items()):
        if not can_start(prompts) and object_id not in begun:
            what = "background clicks only" if prompts.points else "no prompt"
            notes.append(f"class {object_id} has {what}: its mask is empty")
    if within_s is not None:
        within_s = max(within_s / 2, within_s - (time.perf_counter() - began))
    session.set_all(case.prompts, case.prev_mask, within_s, is_firm=is_firm)
    mask = session.mask
    for object_id in begun:
        prompts = case.prompts.get(object_id, ObjectPrompts())
        if prompts.points and np.array_equal(mask == object_id, start_mask == object_id):
            last = prompts.points[-1]
            why = no_change(mask == object_id, last.zyx, last.foreground, case.geometry)
            notes.append(f"the clicks changed nothing of object {object_id}. {why}")
    ids = sorted({*case.prompts, *begun})
    sizes = np.bincount(mask.ravel(), minlength=max(ids) + 1)
    voxel_ml = case.geometry.volume_mm3 / 1000
    seconds = session.report.object_s
    objects = tuple(ObjectResult(k, int(sizes[k]), float(sizes[k] * voxel_ml), seconds.get(k, 0.0)) for k in ids)
    return mask, objects, tuple(notes)


def segment_classes(
    session: Session,
    case: Case,
    names: Sequence[str],
    intensity_window: str,
    assume_window: str | None,
    within_s: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[NDArray[np.uint16], tuple[ObjectResult, ...], tuple[str, ...]]:
    """Segments classes by name; the case's clicks then correct the classes with the same ids.

    Args:
        session: a session whose weights have classes.
        case: the case; the keys of its prompts are class ids.
        names: names of classes, groups and sets; see `Session.segment_classes`.
        intensity_window, assume_window: see `Session.set_image`.
        within_s, on_progress: see `Session.segment_classes`.

    Returns:
        The label map of class ids, uint16 (z,y,x); size of each class that was found; and a warning that names the
        classes that were not found.

    Raises:
        PromptError: the weights have no such class, or a prompt belongs to a class that is not in `names`.
    """
    began = time.perf_counter()
    session.set_image(case.volume, intensity_window=intensity_window, assume_window=assume_window)
    prompts = {k: own for k, own in case.prompts.items() if own.points or own.box}
    if within_s is not None:
        within_s = max(within_s / 2, within_s - (time.perf_counter() - began))
    mask = session.segment_classes(names, bool(prompts), on_progress, within_s)
    table = session.profile.classes
    if prompts:
        others = sorted(set(prompts) - set(table.expand(names)))
        if others:
            raise PromptError(f"got a click on object {others[0]}, expected the id of a class that is asked for")
        session.set_all(prompts)
        mask = session.mask
    sizes = np.bincount(mask.ravel())
    voxel_ml = case.geometry.volume_mm3 / 1000
    found = [
        ObjectResult(int(k), int(sizes[k]), float(sizes[k] * voxel_ml), 0.0, table.name_of(int(k)))
        for k in np.flatnonzero(sizes)
        if k
    ]
    absent = [table.name_of(k) for k in table.expand(names) if k >= sizes.size or not sizes[k]]
    more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
    notes = (f"nothing was found of {', '.join(absent[:_MOST_NAMED])}{more}",) if absent else ()
    return mask, tuple(found), notes

"""`gstk.infer`: reads cases from files and writes their masks to files, in this process or on several workers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.batch.case_files import NAME, CaseFiles, plan_case_files
from gstk.batch.idle_clicks import find_idle_clicks
from gstk.batch.journal import JOURNAL, Journal
from gstk.batch.placed_points import PlacedPoint, add_placed_points
from gstk.batch.ray_pool import Workers, map_on_ray
from gstk.batch.results import InferResult, ObjectResult
from gstk.batch.resume import RunRecord
from gstk.batch.segment_case import segment_case, segment_classes
from gstk.cases.content_hash import content_hash
from gstk.cases.label_maps import read_label_map
from gstk.cases.label_names import LabelName, object_colour, write_label_names
from gstk.cases.npz import Case, SpacingOrder, save_segs
from gstk.cases.reading import read_case
from gstk.cases.volumes import find_cases, write_case_mask
from gstk.core.files import StrPath, make_folder
from gstk.core.prompts import ObjectPrompts
from gstk.errors import CaseError, GstkError
from gstk.session.deadline import Budget, Deadline
from gstk.session.planner import can_start
from gstk.session.session import Session

__all__ = ["infer"]

_WRITE_S = 3e-8
"""Seconds a voxel to write a label map."""


class _Options(NamedTuple):
    prompts: dict[int, ObjectPrompts]
    points_mm: dict[int, tuple[PlacedPoint, ...]]
    novel: bool
    object_names: Mapping[int, str]
    start_mask: StrPath | None
    overlay: bool
    intensity_window: str
    assume_window: str | None
    classes: tuple[str, ...]
    spacing_order: SpacingOrder
    series: str | None
    phase: int | None
    budget: Budget | None
    npz_calls: int | None
    is_firm: bool
    started_s: float
    checks_clicks: bool
    record: RunRecord


def infer(
    session: Session | Callable[[], Session],
    sources: StrPath | Iterable[StrPath],
    out_dir: StrPath,
    *,
    name: str = NAME,
    format: str | None = None,
    prompts: Mapping[int, ObjectPrompts] | None = None,
    points_mm: Mapping[int, Sequence[PlacedPoint]] | None = None,
    novel: bool = False,
    object_names: Mapping[int, str] | None = None,
    start_mask: StrPath | None = None,
    overlay: bool = False,
    intensity_window: str = "auto",
    assume_window: str | None = None,
    classes: Sequence[str] = (),
    spacing_order: SpacingOrder = "zyx",
    series: str | None = None,
    phase: int | None = None,
    budget: Budget | None = None,
    npz_calls: int | None = None,
    is_firm: bool = True,
    started_s: float = 0.0,
    workers: Workers | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_result: Callable[[InferResult, int], None] | None = None,
    on_window: Callable[[int, int], None] | None = None,
) -> list[InferResult]:
    """Segments cases. A case that fails does not stop the others.

    Args:
        session: a session from `gstk.open`, or a function that opens one. Workers need a function that can be pickled.
        sources: .npz cases, NIfTI, NRRD or MetaImage files, DICOM folders, or folders of these. If `out_dir` lies
            inside one of these folders, it is skipped.
        out_dir: output folder, created if it is missing. An .npz case gives an .npz file with `segs`; a volume gives a
            mask of the same format and geometry (DICOM: .nii.gz). If two cases have the same name, the names of all
            results include their folders (`gstk.cases.names.distinct_names`).
        name: file name of a result without its suffix; `{stem}` stands for the name of the case. The challenge
            requires "{stem}".
        format: one of `FORMATS`, for cases of every format; "seg.nrrd" is a segmentation of 3D Slicer.
        prompts: prompts by object id, for every source. They replace the prompts of an .npz case for the same object.
            With a single source, a warning names the clicks that did not change the mask, as far as there is time.
        points_mm: further clicks by object id, in patient coordinates. They are added after the clicks in voxels.
        novel: tells the network that the objects belong to none of its training classes (zero-shot).
        object_names: what objects are called, by id, in the mask, in `<name>_labels.json` and in the picture. They
            take the place of the names of classes and of `start_mask`.
        start_mask: an earlier result on the voxel grid of the only source (`gstk.cases.label_maps.read_label_map`).
            Segmentation starts from its objects, a click changes an object only near the click, and names are kept.
        overlay: also write a picture, `<name>_overlay.png`.
        intensity_window: intensity window of volumes other than .npz cases, for a network whose input is the
            challenge's range 0 to 255.
        classes: names of classes, groups or sets to segment, for weights with classes. `prompts` then correct the
            class with the same id. The class names are stored in the mask (`gstk.cases.volumes.write_mask`) and in
            `<name>_labels.json` beside it.
        assume_window: the window that mapped HU to the case's 0 to 255, for a network whose input is HU; see
            `Session.set_image`.
        spacing_order: axis order of `spacing` in .npz cases.
        series, phase: the image to read from each DICOM folder, as in `gstk.cases.volumes.read_volume`.
        budget: time for each object of a case, including reading and writing. The session needs a latency model.
        npz_calls: number of calls that share the budget of an .npz case with prompts of its own; None is `budget`'s.
        is_firm: whether a result is there within the budget in any case. If not, half of it at least is for the masks,
            however long the start took, and the network's answer is waited for.
        started_s: seconds of the first case's budget that have already passed, such as the start of the process. The
            time to open the session is added.
        workers: the workers of a Ray cluster that share the cases; each of them must be able to reach the sources and
            `out_dir`. None processes one case after the other in this process.
        overwrite: whether to replace the results of an earlier run.
        resume: whether to leave results that are finished as they are. A result is finished if the journal in `out_dir`
            (`gstk.batch.journal`) says that it was made of the same input, settings, bundle and version of gstk, all by
            content, and its files are those that were written. Any other result is a failure of its case, or with
            `overwrite` is made again, which a warning says.
        on_result: called after each case with its result and the total number of cases.
        on_window: called after each window of class prompts with the number of finished windows of the case and their
            total number; not called with `workers`.

    Returns:
        One result for each case, in the order of the cases.

    Raises:
        CaseError: a source does not exist or has an unknown format.
        OutputError: the folder cannot be created; `name` is not a valid file name; or a result would overwrite a case
            or, without `overwrite` or `resume`, a result of an earlier run.
        EvaluationError: see `gstk.batch.ray_pool.map_on_ray`.
    """
    paths = find_cases(sources, besides=out_dir)
    folder = make_folder(out_dir)
    tasks = plan_case_files(paths, folder, name, format, overlay=overlay, overwrite=overwrite or resume)
    if novel and classes:
        raise CaseError("got novel objects and classes, expected one of the two: a class is one that was trained")
    if start_mask is not None and classes:
        raise CaseError("got a mask to begin with and classes, expected one of the two")
    if start_mask is not None and len(paths) > 1:
        raise CaseError(f"got one mask to begin with for {len(paths)} cases, expected one case")
    if prompts and len(paths) > 1:
        warnings.warn(
            f"the same clicks and boxes are given to all {len(paths)} cases; they are voxel indices, and an object "
            "seldom lies at the same ones in another case",
            stacklevel=2,
        )
    if resume and (damaged := Journal(folder).damaged()):
        warnings.warn(
            f"{damaged} lines of {folder / JOURNAL} are damaged and passed over; results without a line are not taken "
            "for finished",
            stacklevel=2,
        )
    prompts = dict(prompts or {})
    places = {k: tuple(v) for k, v in (points_mm or {}).items()}
    settings = {
        "clicks and boxes": {k: asdict(own) for k, own in sorted(prompts.items())},
        "clicks in mm": {k: [place._asdict() for place in own] for k, own in sorted(places.items())},
        "novel": novel,
        "object names": dict(sorted((object_names or {}).items())),
        "overlay": overlay,
        "intensity window": intensity_window,
        "assumed window": assume_window,
        "classes": list(classes),
        "spacing order": spacing_order,
        "series": series,
        "phase": phase,
        "budget": None if budget is None else {**asdict(budget), "calls of an .npz case": npz_calls, "firm": is_firm},
    }
    options = _Options(
        prompts,
        places,
        novel,
        dict(object_names or {}),
        None if start_mask is None else Path(start_mask).absolute(),
        overlay,
        intensity_window,
        assume_window,
        tuple(classes),
        spacing_order,
        series,
        phase,
        budget,
        npz_calls,
        is_firm,
        started_s,
        checks_clicks=len(paths) == 1,
        record=RunRecord(folder.absolute(), settings, resume, overwrite),
    )
    if workers is not None:  # workers run in another working folder
        tasks = [CaseFiles(*(path.absolute() for path in task)) for task in tasks]
    results = {}
    for result in _run(session, options, tasks, workers, on_window or (lambda done, total: None)):
        results[result.source] = result
        if on_result:
            on_result(result, len(paths))
    return [results[task.source] for task in tasks]


def _run(
    session: Session | Callable[[], Session],
    options: _Options,
    tasks: Sequence[CaseFiles],
    workers: Workers | None,
    on_window: Callable[[int, int], None],
) -> Iterator[InferResult]:
    """Yields the results of the tasks: in order in this process, as they finish on workers."""
    if workers is not None:
        if isinstance(session, Session):
            raise TypeError("got a session with workers, expected a function that opens one in each of them")
        yield from map_on_ray(workers, partial(_open_worker, session, options), tasks, _lost)
    elif isinstance(session, Session):
        for index, task in enumerate(tasks):
            yield _infer_one(session, options if index == 0 else options._replace(started_s=0.0), task, on_window)
    else:
        began = time.perf_counter()
        with session() as opened:
            started_s = options.started_s + time.perf_counter() - began
            yield from _run(opened, options._replace(started_s=started_s), tasks, None, on_window)


def _open_worker(open_session: Callable[[], Session], options: _Options) -> Callable[[CaseFiles], InferResult]:
    return partial(_infer_one, open_session(), options)


def _lost(task: CaseFiles, why: str) -> InferResult:
    return InferResult(task.source, error=why)


def _infer_one(
    session: Session,
    options: _Options,
    task: CaseFiles,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> InferResult:
    path, record = task.source, options.record
    began = time.perf_counter()
    notes: list[str] = []
    try:
        hashes = {"input": content_hash(path)}
        if options.start_mask is not None:
            hashes["mask to begin with"] = content_hash(Path(options.start_mask))
        made_of = record.made_of(session.settings, hashes)
        finished, why = record.find(task, made_of)
        if finished is not None:
            return finished
        notes += [why] if why else []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case = read_case(path, options.intensity_window, options.spacing_order, options.series, options.phase)
        notes += [str(w.message) for w in caught]
        # The intensities of an .npz case were windowed when the file was made.
        window = "auto" if path.suffix.lower() == ".npz" else options.intensity_window
        brings_prompts = any(map(can_start, case.prompts.values())) and not (options.prompts or options.points_mm)
        given = options.prompts if case.slices is None else case.slices.to_regular(options.prompts)
        prompts = add_placed_points({**case.prompts, **given}, options.points_mm, case)
        if options.novel:
            prompts = {k: replace(own, novel=True) for k, own in prompts.items()}
        case = replace(case, prompts=prompts)
        start = None
        names: dict[int, LabelName] = {}
        if options.start_mask is not None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                start, names = read_label_map(options.start_mask, case)
            notes += [str(w.message) for w in caught]
        within_s, deadline = None, Deadline()
        budget = options.budget
        if budget is not None:
            if options.npz_calls is not None and path.suffix.lower() == ".npz" and brings_prompts:
                budget = replace(budget, calls=options.npz_calls)
            spent_s = options.started_s + time.perf_counter() - began + _WRITE_S * case.image.size
            asked = session.profile.classes.expand(options.classes) if options.classes else case.prompts
            within_s = budget.left_s(len(asked), spent_s)
            if not options.is_firm:
                within_s = max(within_s, budget.left_s(len(asked), 0.0) / 2)
            deadline = Deadline(within_s)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case_notes: tuple[str, ...] = ()
            if options.classes:
                mask, objects, case_notes = segment_classes(
                    session, case, options.classes, window, options.assume_window, within_s, on_window
                )
            else:
                mask, objects, case_notes = segment_case(
                    session, case, within_s, window, options.assume_window, start, is_firm=options.is_firm
                )
        notes += [*(str(w.message) for w in caught), *case_notes]
        report = session.report
        if unknown := sorted(set(options.object_names) - {one.object_id for one in objects}):
            called = options.object_names[unknown[0]]
            raise CaseError(f"got the name {called!r} for object {unknown[0]}, which has no click, box or class")
        objects = tuple(replace(one, name=options.object_names.get(one.object_id, one.name)) for one in objects)
        if names or any(one.name for one in objects):
            own = {one.object_id: LabelName(one.name, object_colour(one.object_id)) for one in objects if one.voxels}
            # A name that is given now renames an object of an earlier mask, which keeps its colour.
            kept = {k: named._replace(name=options.object_names.get(k, named.name)) for k, named in names.items()}
            names = {**own, **kept}

        def write(drafts: CaseFiles) -> InferResult:
            if task.mask.suffix == ".npz":
                save_segs(drafts.mask, mask)
            elif write_case_mask(drafts.mask, mask, case, names, drafts.regular) is not None:
                notes.append(f"the mask on the regular grid, for viewers, is {task.regular}")
            if names:
                write_label_names(drafts.labels, names, {one.object_id: one.voxels for one in objects})
            if options.overlay:
                _save_overlay(drafts.overlay, case, mask, objects, names, window)
            picture = task.overlay if options.overlay else None
            seconds = time.perf_counter() - began
            return InferResult(
                path, task.mask, picture, objects, seconds, tuple(notes), session.intensities, report, budget
            )

        result = record.publish(task, made_of, write)
        if options.checks_clicks and not options.classes:
            begun = set() if start is None else {int(k) for k in np.unique(start)}
            clicked = sorted({*options.prompts, *options.points_mm} - begun)
            notes += find_idle_clicks(session, mask, clicked, case.geometry, deadline)
    except (GstkError, MemoryError) as error:
        reason = str(error) or "it does not fit into memory"
        return InferResult(path, seconds=time.perf_counter() - began, warnings=tuple(notes), error=reason)
    return replace(result, seconds=time.perf_counter() - began, warnings=tuple(notes))


def _save_overlay(
    file: Path,
    case: Case,
    mask: NDArray[np.uint16],
    objects: Sequence[ObjectResult],
    names: Mapping[int, LabelName],
    intensity_window: str,
) -> None:
    from gstk.cases.overlay import MAX_ROWS, middle_voxel, save_overlay
    from gstk.cases.prepare import window_image

    shown, _ = window_image(case, intensity_window)
    silent = [one.object_id for one in objects if one.voxels and one.object_id not in case.prompts]
    centres = {k: middle_voxel(mask == k) for k in silent[:MAX_ROWS]}
    save_overlay(file, shown, case.geometry, mask, case.prompts, centres, {k: one.name for k, one in names.items()})

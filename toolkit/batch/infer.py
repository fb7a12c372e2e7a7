"""The main job: cases in, masks out, one after the other."""

from __future__ import annotations

import colorsys
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.batch.ray_pool import Workers, map_on_ray
from gstk.cases.names import distinct_names
from gstk.cases.npz import Case, SpacingOrder, load_case, save_segs
from gstk.cases.prepare import read_labels
from gstk.cases.volumes import VOLUME_SUFFIXES, case_name, find_cases, read_volume, write_case_mask
from gstk.core.files import StrPath, atomic_path, make_folder
from gstk.core.prompts import ObjectPrompts, Point, whole_object_id
from gstk.errors import CaseError, GstkError, OutputError, PromptError
from gstk.session.advice import no_change
from gstk.session.deadline import Budget
from gstk.session.planner import can_start
from gstk.session.session import CallReport, Session

__all__ = ["InferResult", "ObjectResult", "PlacedPoint", "infer", "parse_point_option", "read_case", "segment_case"]

_WRITE_S = 3e-8
"""Seconds a voxel to write a label map."""


class PlacedPoint(NamedTuple):
    """A click at a place in the patient, LPS mm (x, y, z)."""

    lps_mm: tuple[float, float, float]
    foreground: bool = True


class _Options(NamedTuple):
    prompts: dict[int, ObjectPrompts]
    points_mm: dict[int, tuple[PlacedPoint, ...]]
    start_mask: StrPath | None
    overlay: bool
    intensity_window: str
    assume_window: str | None
    classes: tuple[str, ...]
    spacing_order: SpacingOrder
    series: str | None
    phase: int | None
    budget: Budget | None
    started_s: float


class _Task(NamedTuple):
    source: Path
    output: Path
    picture: Path


@dataclass(frozen=True)
class ObjectResult:
    """One object's mask in numbers.

    Attributes:
        object_id: its label.
        voxels: size of its mask.
        volume_ml: the same in millilitres.
        seconds: wall time; 0 for one of several classes.
        name: of a class; empty for other objects.
    """

    object_id: int
    voxels: int
    volume_ml: float
    seconds: float
    name: str = ""


@dataclass(frozen=True)
class InferResult:
    """What became of one case.

    Attributes:
        source: the file or folder that was read.
        output, overlay: what was written; None where nothing was.
        objects: one entry an object, in the order of their ids.
        seconds: wall time of the case, reading and writing included.
        warnings: what was odd about it.
        intensities: what was done to the image's, in words.
        report: what its masks were expected to take and took.
        error: why it failed, one line; None where it did not.
    """

    source: Path
    output: Path | None = None
    overlay: Path | None = None
    objects: tuple[ObjectResult, ...] = ()
    seconds: float = 0.0
    warnings: tuple[str, ...] = field(default=())
    intensities: str = ""
    report: CallReport | None = None
    error: str | None = None


def segment_case(
    session: Session,
    case: Case,
    within_s: float | None = None,
    intensity_window: str = "auto",
    assume_window: str | None = None,
    start_mask: NDArray[np.integer] | None = None,
) -> tuple[NDArray[np.uint16], tuple[ObjectResult, ...], tuple[str, ...]]:
    """Segments every object of a case that has prompts.

    Args:
        session: with a latency model where there is a limit.
        case: with its previous mask, if any, which is gone on from where there is no time to do all clicks again.
        within_s: seconds for all of it; None is the session's own budget.
        intensity_window, assume_window: see `Session.set_image`.
        start_mask: integer (z,y,x), object ids of an earlier result, which clicks then change only near them.

    Returns:
        The label map, uint16 (z,y,x); the objects in numbers; and a warning for each class without prompts, which
        stays empty.

    Raises:
        PromptError: no class has a prompt, or one lies outside the volume.
    """
    began = time.perf_counter()
    if not any(said.points or said.box for said in case.prompts.values()):
        raise PromptError(f"{case.name} has no clicks and no boxes; click on an object with --point, or give a --box")
    begun = [] if start_mask is None else [int(k) for k in np.unique(start_mask) if k]
    if not any(can_start(said) or k in begun for k, said in case.prompts.items()):
        raise PromptError(
            f"{case.name} has background clicks only, which say where the object is not; click on it with --point, or "
            "give a --box"
        )
    session.set_image(case.volume, intensity_window=intensity_window, assume_window=assume_window)
    notes = []
    for object_id in begun:
        session.set_mask(np.asarray(start_mask) == object_id, object_id)
    for object_id, said in sorted(case.prompts.items()):
        if not can_start(said) and object_id not in begun:
            what = "background clicks only" if said.points else "no prompt"
            notes.append(f"class {object_id} has {what}: its mask is empty")
    if within_s is not None:
        within_s = max(within_s / 2, within_s - (time.perf_counter() - began))
    session.set_all(case.prompts, case.prev_mask, within_s)
    mask = session.mask
    for object_id in begun:
        said = case.prompts.get(object_id, ObjectPrompts())
        if said.points and np.array_equal(mask == object_id, start_mask == object_id):
            last = said.points[-1]
            why = no_change(mask == object_id, last.zyx, last.foreground, case.geometry)
            notes.append(f"the clicks changed nothing of object {object_id}. {why}")
    ids = sorted({*case.prompts, *begun})
    sizes = np.bincount(mask.ravel(), minlength=max(ids) + 1)
    voxel_ml = case.geometry.volume_mm3 / 1000
    seconds = session.report.object_s
    objects = tuple(ObjectResult(k, int(sizes[k]), float(sizes[k] * voxel_ml), seconds.get(k, 0.0)) for k in ids)
    return mask, objects, tuple(notes)


def segment_classes(
    session: Session, case: Case, names: Sequence[str], intensity_window: str, assume_window: str | None
) -> tuple[NDArray[np.uint16], tuple[ObjectResult, ...]]:
    """Segments classes by name; the case's clicks then correct those of their ids.

    Args:
        session: of weights with classes.
        case: its prompts are those of class ids.
        names: of classes, groups and sets; see `Session.segment_classes`.
        intensity_window, assume_window: see `Session.set_image`.

    Returns:
        The label map, uint16 (z,y,x), of class ids; and the classes that are there, in numbers.

    Raises:
        PromptError: the weights have no such class, or a prompt is of a class that is not asked for.
    """
    session.set_image(case.volume, intensity_window=intensity_window, assume_window=assume_window)
    prompts = {k: said for k, said in case.prompts.items() if said.points or said.box}
    mask = session.segment_classes(names, as_objects=bool(prompts))
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
    return mask, tuple(found)


def write_class_names(path: Path, objects: Sequence[ObjectResult]) -> None:
    """Names the labels of a label map: JSON with an entry an id, its name, voxels and a colour for viewers (0-255)."""
    entries = {
        str(one.object_id): {"name": one.name, "voxels": one.voxels, "color_rgb": _color(one.object_id)}
        for one in objects
    }
    with atomic_path(path) as partial_file:
        partial_file.write_text(json.dumps({"labels": entries}, indent=1) + "\n", encoding="utf-8")


def _color(class_id: int) -> list[int]:
    """A colour that stays the same for a class, and differs from that of its neighbours in the list."""
    hue = (class_id * 0.61803398875) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (class_id % 2), 0.95)
    return [round(255 * value) for value in (red, green, blue)]


def infer(
    session: Session | Callable[[], Session],
    sources: StrPath | Iterable[StrPath],
    out_dir: StrPath,
    *,
    prompts: Mapping[int, ObjectPrompts] | None = None,
    points_mm: Mapping[int, Sequence[PlacedPoint]] | None = None,
    start_mask: StrPath | None = None,
    overlay: bool = False,
    intensity_window: str = "auto",
    assume_window: str | None = None,
    classes: Sequence[str] = (),
    spacing_order: SpacingOrder = "zyx",
    series: str | None = None,
    phase: int | None = None,
    budget: Budget | None = None,
    started_s: float = 0.0,
    workers: Workers | None = None,
    overwrite: bool = False,
    on_result: Callable[[InferResult, int], None] | None = None,
) -> list[InferResult]:
    """Segments cases; one that fails does not stop the others.

    Args:
        session: from `gstk.open`, or what opens one; workers need the latter, picklable.
        sources: .npz cases, NIfTI, NRRD or MetaImage files, DICOM folders, or folders of such.
        out_dir: created where it is missing. An .npz case gives an .npz with `segs`, a volume a mask of its own format
            and geometry (DICOM: .nii.gz), under the case's name; where two have the same name, all of them come with
            their folders (`gstk.cases.names.distinct_names`).
        prompts: by object id, for every source; they replace those of an .npz case for the same object.
        points_mm: further clicks by object id, at places in the patient; they follow those in voxels.
        start_mask: an earlier result on the grid of the one source: its objects are begun with, and clicks change them
            only near them.
        overlay: also write `<name>_overlay.png`.
        intensity_window: intensities of volumes that are not .npz, where the network takes the challenge's 0 to 255.
        classes: names of classes, groups or sets to segment, where the weights have classes; `prompts` then correct the
            class of their id. Beside the mask a JSON file names the labels.
        assume_window: the window that made 0 to 255 of HU, where the network takes HU; see `Session.set_image`.
        spacing_order: axis order of the `spacing` of .npz cases.
        series, phase: which image of each DICOM folder, as in `gstk.cases.volumes.read_volume`.
        budget: time for each object of a case, reading and writing included. Give the session a latency model.
        started_s: seconds of the first case's budget that are gone already, such as the start of the process; opening
            the session is added.
        workers: of a Ray cluster, which share the cases; sources and `out_dir` must lie where all of them find them.
            None takes one case after the other in this process.
        overwrite: replace results that are there from an earlier run.
        on_result: called after each case with its result and the number of cases.

    Returns:
        One result a case, in order.

    Raises:
        CaseError: a source does not exist or is of no known format.
        OutputError: the folder cannot be made, or a result would overwrite a case, or one of an earlier run without
            `overwrite`.
        EvaluationError: see `gstk.batch.ray_pool.map_on_ray`.
    """
    paths = find_cases(sources)
    folder = make_folder(out_dir)
    outputs = [folder / name for name in distinct_names(paths, _ending)]
    pictures = [folder / name for name in distinct_names(paths, lambda _: "_overlay.png")]
    taken = {path.resolve() for path in paths}
    for path, output in zip(paths, outputs, strict=True):
        if output.resolve() in taken:
            raise OutputError(f"the result of {path} would overwrite the case {output}; give another --out folder")
        make_folder(output.parent)
    there = [path for path in (*outputs, *(pictures if overlay else ())) if path.exists()]
    if there and not overwrite:
        which = f"{there[0]} exists" if len(there) == 1 else f"{there[0]} and {len(there) - 1} more exist"
        raise OutputError(f"{which} already; give --overwrite to replace, or another --out folder")
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
    options = _Options(
        dict(prompts or {}),
        {k: tuple(v) for k, v in (points_mm or {}).items()},
        None if start_mask is None else Path(start_mask).absolute(),
        overlay,
        intensity_window,
        assume_window,
        tuple(classes),
        spacing_order,
        series,
        phase,
        budget,
        started_s,
    )
    tasks = [_Task(*task) for task in zip(paths, outputs, pictures, strict=True)]
    if workers is not None:  # their working folder is another
        tasks = [_Task(*(path.absolute() for path in task)) for task in tasks]
    results = {}
    for result in _run(session, options, tasks, workers):
        results[result.source] = result
        if on_result:
            on_result(result, len(paths))
    return [results[task.source] for task in tasks]


def parse_point_option(text: str, numbers: int = 3, form: str = "z,y,x") -> tuple[int, tuple[float, ...]]:
    """Reads `[ID:]a,b,c`, the form of the command line's clicks and boxes.

    Args:
        numbers: 3 for a click, 6 for a box.
        form: names of a click's numbers, for the message.

    Returns:
        The object id (1 where none is given) and the numbers.

    Raises:
        PromptError: the text is not of that form.
    """
    head, colon, tail = text.rpartition(":")
    try:
        object_id = whole_object_id(float(head)) if colon else 1
        values = tuple(float(v) for v in tail.split(","))
    except ValueError:
        values = ()
    if len(values) != numbers:
        form, example = (form, "40,128,96") if numbers == 3 else ("z0,y0,x0,z1,y1,x1", "30,100,80,50,150,120")
        raise PromptError(f"got {text!r}, expected {form} or ID:{form}, as in {example} or 2:{example}")
    return object_id, values


def _ending(path: Path) -> str:
    return next((s for s in (".npz", *VOLUME_SUFFIXES) if path.name.lower().endswith(s)), ".nii.gz")


def _run(
    session: Session | Callable[[], Session],
    options: _Options,
    tasks: Sequence[_Task],
    workers: Workers | None,
) -> Iterator[InferResult]:
    """The results of the tasks, in order or as they come."""
    if workers is not None:
        if isinstance(session, Session):
            raise TypeError("got a session with workers, expected a function that opens one in each of them")
        yield from map_on_ray(workers, partial(_open_worker, session, options), tasks, _lost)
    elif isinstance(session, Session):
        for index, task in enumerate(tasks):
            yield _infer_one(session, options if index == 0 else options._replace(started_s=0.0), task)
    else:
        began = time.perf_counter()
        with session() as opened:
            started_s = options.started_s + time.perf_counter() - began
            yield from _run(opened, options._replace(started_s=started_s), tasks, None)


def _open_worker(open_session: Callable[[], Session], options: _Options) -> Callable[[_Task], InferResult]:
    return partial(_infer_one, open_session(), options)


def _lost(task: _Task, why: str) -> InferResult:
    return InferResult(task.source, error=why)


def _infer_one(session: Session, options: _Options, task: _Task) -> InferResult:
    path, output, picture_path = task
    began = time.perf_counter()
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case = read_case(path, options.intensity_window, options.spacing_order, options.series, options.phase)
        notes += [str(w.message) for w in caught]
        # An .npz case was windowed when it was made.
        window = "auto" if path.suffix.lower() == ".npz" else options.intensity_window
        given = options.prompts if case.slices is None else case.slices.to_regular(options.prompts)
        case = replace(case, prompts=_with_places({**case.prompts, **given}, options.points_mm, case))
        start = None if options.start_mask is None else read_labels(options.start_mask, case)
        within_s = None
        if options.budget is not None:
            spent_s = options.started_s + time.perf_counter() - began + _WRITE_S * case.image.size
            within_s = options.budget.left_s(len(case.prompts), spent_s)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            said: tuple[str, ...] = ()
            if options.classes:
                mask, objects = segment_classes(session, case, options.classes, window, options.assume_window)
            else:
                mask, objects, said = segment_case(session, case, within_s, window, options.assume_window, start)
        notes += [*(str(w.message) for w in caught), *said]
        if output.suffix == ".npz":
            save_segs(output, mask)
        else:
            regular = write_case_mask(output, mask, case)
            if regular is not None:
                notes.append(f"the mask on the regular grid, for viewers, is {regular}")
        if options.classes:
            write_class_names(output.with_name(f"{case_name(output)}_labels.json"), objects)
        picture = None
        if options.overlay:
            from gstk.cases.overlay import save_overlay
            from gstk.cases.prepare import window_image

            shown, _ = window_image(case, window)
            picture = save_overlay(picture_path, shown, case.geometry, mask, case.prompts)
    except (GstkError, MemoryError) as error:
        reason = str(error) or "it does not fit into memory"
        return InferResult(path, seconds=time.perf_counter() - began, warnings=tuple(notes), error=reason)
    seconds = time.perf_counter() - began
    return InferResult(path, output, picture, objects, seconds, tuple(notes), session.intensities, session.report)


def _with_places(
    prompts: dict[int, ObjectPrompts], points_mm: Mapping[int, Sequence[PlacedPoint]], case: Case
) -> dict[int, ObjectPrompts]:
    """Prompts with the clicks that lie at places in the patient."""
    found = dict(prompts)
    for object_id, places in points_mm.items():
        before = found.get(object_id, ObjectPrompts())
        points = list(before.points)
        for place in places:
            voxel = case.geometry.nearest_voxel(case.geometry.mm_to_voxel(place.lps_mm))
            if voxel is None:
                x, y, z = place.lps_mm
                raise PromptError(
                    f"got a click at RAS {-x:g}, {-y:g}, {z:g} mm, which lies outside of {case.name}; gstk inspect "
                    "says where the image reaches"
                )
            points.append(Point(voxel, place.foreground))
        found[object_id] = replace(before, points=tuple(points))
    return found


def read_case(
    path: Path, intensity_window: str, spacing_order: SpacingOrder, series: str | None = None, phase: int | None = None
) -> Case:
    """A case from an .npz, or from a volume; see `infer` for the arguments."""
    if path.suffix.lower() == ".npz":
        if intensity_window != "auto":
            said = (
                f"intensity window {intensity_window} is not applied: the intensities of an .npz are taken as they are"
            )
            warnings.warn(said, stacklevel=2)
        return load_case(path, spacing_order)
    if spacing_order != "zyx":
        said = f"spacing order {spacing_order} is not applied: the file itself says which axis is which"
        warnings.warn(said, stacklevel=2)
    return read_volume(path, series=series, phase=phase)

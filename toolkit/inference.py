"""The main job: cases in, masks out, one after the other."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gstk.cases import Case, SpacingOrder, load_case, save_segs
from gstk.errors import GstkError, OutputError, PromptError
from gstk.files import StrPath, make_folder
from gstk.prompts import ObjectPrompts
from gstk.session import Session
from gstk.volumes import VOLUME_SUFFIXES, case_name, find_cases, write_mask

__all__ = ["InferResult", "ObjectResult", "infer", "parse_point_option", "segment_case"]


@dataclass(frozen=True)
class ObjectResult:
    """One object's mask in numbers.

    Attributes:
        object_id: its label.
        voxels: size of its mask.
        volume_ml: the same in millilitres.
        seconds: wall time.
    """

    object_id: int
    voxels: int
    volume_ml: float
    seconds: float


@dataclass(frozen=True)
class InferResult:
    """What became of one case.

    Attributes:
        source: the file or folder that was read.
        output, overlay: what was written; None where nothing was.
        objects: one entry an object, in the order of their ids.
        seconds: wall time of the case, reading and writing included.
        warnings: what was odd about it.
        error: why it failed, one line; None where it did not.
    """

    source: Path
    output: Path | None = None
    overlay: Path | None = None
    objects: tuple[ObjectResult, ...] = ()
    seconds: float = 0.0
    warnings: tuple[str, ...] = field(default=())
    error: str | None = None


def segment_case(session: Session, case: Case) -> tuple[NDArray[np.uint16], tuple[ObjectResult, ...], tuple[str, ...]]:
    """Segments every object of a case that has prompts.

    Returns:
        The label map, uint16 (z,y,x); the objects in numbers; and a warning for each class without prompts, which
        stays empty.

    Raises:
        PromptError: no class has a prompt, or one lies outside the volume.
    """
    if not any(said.points or said.box for said in case.prompts.values()):
        raise PromptError(f"{case.name} has no clicks and no boxes; give some in the file, or by --point or --box")
    session.set_image(case.image, case.geometry.spacing_mm)
    notes: list[str] = []
    seconds: dict[int, float] = {}
    for object_id, said in sorted(case.prompts.items()):
        began = time.perf_counter()
        if not any(p.foreground for p in said.points) and said.box is None:
            what = "background clicks only" if said.points else "no prompt"
            notes.append(f"class {object_id} has {what}: its mask is empty")
        else:
            session.set_prompts(said, object_id)
        seconds[object_id] = time.perf_counter() - began
    mask = session.mask
    sizes = np.bincount(mask.ravel(), minlength=max(seconds) + 1)
    voxel_ml = case.geometry.volume_mm3 / 1000
    objects = tuple(ObjectResult(k, int(sizes[k]), float(sizes[k] * voxel_ml), s) for k, s in seconds.items())
    return mask, objects, tuple(notes)


def infer(
    session: Session,
    sources: StrPath | Iterable[StrPath],
    out_dir: StrPath,
    *,
    prompts: Mapping[int, ObjectPrompts] | None = None,
    overlay: bool = False,
    window: str = "auto",
    spacing_order: SpacingOrder = "zyx",
    on_result: Callable[[InferResult, int], None] | None = None,
) -> list[InferResult]:
    """Segments cases one after the other; one that fails does not stop the others.

    Args:
        session: from `gstk.open`.
        sources: .npz cases, NIfTI, NRRD or MetaImage files, DICOM folders, or folders of such.
        out_dir: created where it is missing. An .npz case gives an .npz with `segs`, a volume a mask of its own format
            and geometry (DICOM: .nii.gz), under the case's name.
        prompts: by object id, for every source; they replace those of an .npz case for the same object.
        overlay: also write `<name>_overlay.png`.
        window: intensities of volumes that are not .npz, as in `gstk.prepare.prepare_case`.
        spacing_order: axis order of the `spacing` of .npz cases.
        on_result: called after each case with its result and the number of cases.

    Returns:
        One result a case, in order.

    Raises:
        CaseError: a source does not exist or is of no known format.
        OutputError: the folder cannot be made, or a result would overwrite a source or another result.
    """
    paths = find_cases(sources)
    folder = make_folder(out_dir)
    outputs = [folder / _result_name(path) for path in paths]
    taken = {path.resolve() for path in paths}
    for path, output in zip(paths, outputs, strict=True):
        if output.resolve() in taken:
            raise OutputError(
                f"the result of {path} would overwrite {output}; give another --out folder, or one run each"
            )
        taken.add(output.resolve())
    results = []
    for path, output in zip(paths, outputs, strict=True):
        result = _infer_one(session, path, output, dict(prompts or {}), overlay, window, spacing_order)
        results.append(result)
        if on_result:
            on_result(result, len(paths))
    return results


def parse_point_option(text: str, numbers: int = 3) -> tuple[int, tuple[float, ...]]:
    """Reads `[ID:]a,b,c`, the form of the command line's clicks and boxes.

    Returns:
        The object id (1 where none is given) and the numbers.

    Raises:
        PromptError: the text is not of that form.
    """
    head, colon, tail = text.rpartition(":")
    try:
        object_id = int(head) if colon else 1
        values = tuple(float(v) for v in tail.split(","))
    except ValueError:
        object_id, values = 0, ()
    if object_id < 1 or len(values) != numbers:
        form, example = ("z,y,x", "40,128,96") if numbers == 3 else ("z0,y0,x0,z1,y1,x1", "30,100,80,50,150,120")
        raise PromptError(f"got {text!r}, expected {form} or ID:{form}, as in {example} or 2:{example}")
    return object_id, values


def _result_name(path: Path) -> str:
    name = case_name(path)
    if path.suffix.lower() == ".npz":
        return path.stem + ".npz"
    suffix = next((s for s in VOLUME_SUFFIXES if path.name.lower().endswith(s)), ".nii.gz")
    return name + suffix


def _infer_one(
    session: Session,
    path: Path,
    output: Path,
    prompts: dict[int, ObjectPrompts],
    overlay: bool,
    window: str,
    spacing_order: SpacingOrder,
) -> InferResult:
    began = time.perf_counter()
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case = _read(path, window, spacing_order)
        notes += [str(w.message) for w in caught]
        case = replace(case, prompts={**case.prompts, **prompts})
        mask, objects, said = segment_case(session, case)
        notes += said
        if output.suffix == ".npz":
            save_segs(output, mask)
        else:
            write_mask(output, mask, case.geometry)
        picture = None
        if overlay:
            from gstk.overlay import save_overlay

            target = output.with_name(f"{case_name(path)}_overlay.png")
            picture = save_overlay(target, case.image, case.geometry, mask, case.prompts)
    except (GstkError, MemoryError) as error:
        reason = str(error) or "it does not fit into memory"
        return InferResult(path, seconds=time.perf_counter() - began, warnings=tuple(notes), error=reason)
    return InferResult(path, output, picture, objects, time.perf_counter() - began, tuple(notes))


def _read(path: Path, window: str, spacing_order: SpacingOrder) -> Case:
    if path.suffix.lower() == ".npz":
        if window != "auto":
            said = f"window {window} is not applied: the intensities of an .npz are taken as they are"
            warnings.warn(said, stacklevel=2)
        return load_case(path, spacing_order)
    if spacing_order != "zyx":
        said = f"spacing order {spacing_order} is not applied: the file itself says which axis is which"
        warnings.warn(said, stacklevel=2)
    from gstk.prepare import prepare_case

    return prepare_case(path, window)

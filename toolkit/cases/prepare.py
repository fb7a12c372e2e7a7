"""Making .npz cases from clinical and research volumes: intensities to 0..255, label maps to classes and boxes.

The intensity rule is the paper's (`gstk.core.intensities`).
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gstk.cases.label_maps import read_label_map
from gstk.cases.names import distinct_names
from gstk.cases.npz import Case, CaseWarning, LabelMap, SpacingOrder, save_case, to_label_map
from gstk.cases.volumes import case_name, find_cases, is_volume, read_any
from gstk.core import intensities as intensities_of
from gstk.core.files import StrPath, make_folder, refuse_existing
from gstk.core.geometry import Geometry
from gstk.core.intensities import (
    CT_WINDOWS,
    IntensityWindow,
    parse_intensity_window,
    prepare_intensities,
    rescale,
)
from gstk.core.orientation import AxisMap
from gstk.core.profile import InputProfile
from gstk.core.prompts import Box, ObjectPrompts
from gstk.errors import CaseError, GstkError

__all__ = [
    "CT_WINDOWS",
    "IntensityWindow",
    "PrepareResult",
    "boxes_of",
    "prepare",
    "prepare_case",
    "relabel",
    "rescale",
    "window_image",
]

_LOG = logging.getLogger("gstk")


@dataclass(frozen=True)
class PrepareResult:
    """The result for one source.

    Attributes:
        source: the file or folder that was read.
        output: the .npz that was written; None where that failed.
        intensities: how the intensities were changed, in words.
        label_ids: id in the label map → id in the case; empty without a label map.
        warnings: what looked wrong with the source.
        error: why it failed, one line; None where it did not.
    """

    source: Path
    output: Path | None = None
    intensities: str = ""
    label_ids: dict[int, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str | None = None


def prepare_case(
    source: StrPath,
    intensity_window: IntensityWindow = None,
    labels: StrPath | None = None,
    spacing_order: SpacingOrder = "zyx",
    *,
    series: str | None = None,
    phase: int | None = None,
    profile: InputProfile | None = None,
) -> Case:
    """Make a case of one volume; what was chosen for it goes to the `gstk` logger.

    Args:
        source: an .npz or volume file, or a folder of DICOM slices.
        intensity_window: how intensities become 0..255. "auto" takes the soft-tissue window where DICOM says CT
            or the minimum is at most -900 (air in Hounsfield units), leaves integer images within 0..255 alone, and
            takes the percentiles otherwise. Any other choice is applied whatever the image looks like.
        labels: a label map of the same grid, in any format that `source` may have. Its ids become 1..K without gaps,
            in their order, and each class gets a box. Without one, an .npz keeps the labels and prompts it has.
        spacing_order: axis order of an .npz file's `spacing`.
        series, phase: which image of a DICOM folder; see `gstk.cases.volumes.read_volume`.
        profile: of the network that the case is for. One in HU or the file's units keeps the values, one with names
            for its classes the ids of the label map, and one in RAS turns the axes, since an .npz does not say how the
            patient lies: z, y, x run to head, front, right. None is for networks that take 0 to 255.

    Returns:
        A case with a uint8 image (z, y, x) 0..255 and the source's geometry, or as the profile has it.

    Raises:
        CaseError: a file cannot be read, the image has one value only, the window is unknown, or the label map lies on
            another grid.
        GeometryError, PromptError: see `gstk.cases.npz.load_case`.
    """
    case, intensities, label_ids = _build(Path(source), intensity_window, labels, spacing_order, series, phase, profile)
    _LOG.info("%s: %s", case.name, intensities)
    if label_ids:
        _LOG.info("%s: labels %s", case.name, ", ".join(f"{old} -> {new}" for old, new in label_ids.items()))
    return case


def prepare(
    sources: StrPath | Iterable[StrPath],
    out_dir: StrPath,
    intensity_window: IntensityWindow = None,
    labels: StrPath | None = None,
    spacing_order: SpacingOrder = "zyx",
    *,
    series: str | None = None,
    phase: int | None = None,
    profile: InputProfile | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int, Path | None], None] = lambda done, total, source: None,
) -> list[PrepareResult]:
    """Make a case of every volume found, written to `out_dir`/<name>.npz. One that fails does not stop the others.

    Args:
        sources: files and folders, see `gstk.cases.volumes.find_cases`; `out_dir` below them is passed over.
        out_dir: created where it is missing. Where two sources have the same name, all results come with their folders.
        intensity_window: see `prepare_case`.
        labels: a label map where there is one source, or a folder with one label map a source, of the same name; where
            sources have the same name, in the same folders below it.
        spacing_order: axis order of the `spacing` of .npz sources.
        series, phase: which image of each DICOM folder; see `gstk.cases.volumes.read_volume`.
        profile: see `prepare_case`.
        overwrite: replace cases that are there already.
        on_progress: called before each source and after the last with how many are done, of how many, and the source
            that comes next.

    Returns:
        One result a source, in the order found.

    Raises:
        CaseError: a source does not exist, the window is unknown, or `labels` does not fit the sources.
        OutputError: `out_dir` cannot be created, or a case is there already and `overwrite` is False.
    """
    parse_intensity_window(intensity_window)
    paths = find_cases(sources, besides=out_dir)
    label_of = _match_labels(paths, labels)
    folder = make_folder(out_dir)
    results: list[PrepareResult] = []
    kept = {path.resolve() for path in paths}
    outputs = dict(zip(paths, distinct_names(paths, lambda _: ".npz"), strict=True))
    written = (folder / name for name in outputs.values())
    refuse_existing((path for path in written if path.resolve() not in kept), overwrite, "another --out folder")
    for number, path in enumerate(paths):
        on_progress(number, len(paths), path)
        output = folder / outputs[path]
        if output.resolve() in kept:
            error = f"{output} is a source; give another folder"
            results.append(PrepareResult(path, error=error))
        elif labels is not None and path not in label_of:
            error = f"got no label map named {outputs[path].with_suffix('')} in {labels}, expected one for each source"
            results.append(PrepareResult(path, error=error))
        else:
            make_folder(output.parent)
            build = partial(_build, path, intensity_window, label_of.get(path), spacing_order, series, phase, profile)
            results.append(_prepare_one(path, output, build))
    on_progress(len(paths), len(paths), None)
    return results


def window_image(case: Case, intensity_window: IntensityWindow = None) -> tuple[npt.NDArray[np.uint8], str]:
    """The image of a case as a network takes it, uint8 (z, y, x) 0..255, and what was done to it in words.

    Raises:
        CaseError: see `prepare_case`.

    Warns:
        VolumeWarning: the window leaves nothing of the image's contrast.
    """
    image, intensities = intensities_of.window_image(case.image, case.modality, intensity_window, case.name)
    if image.dtype != np.uint8 and not intensities_of.is_case_like(image):
        raise CaseError(f"got an image of {case.name} with the one value {image.flat[0]}, expected some contrast")
    return image.astype(np.uint8, copy=False), intensities


def relabel(labels: LabelMap) -> tuple[LabelMap, dict[int, int]]:
    """Number the ids of a label map 1..K without gaps, in their order.

    Args:
        labels: uint8 or uint16 (z, y, x); 0 is background and stays 0.

    Returns:
        The new label map, and the new id of each old one.
    """
    ids = [int(i) for i in np.flatnonzero(np.bincount(labels.ravel())) if i]
    new_ids = {old: new for new, old in enumerate(ids, start=1)}
    table = np.zeros(max(ids, default=0) + 1, np.uint16)
    table[list(new_ids)] = list(new_ids.values())
    return to_label_map(table[labels], labels.shape, "the label map"), new_ids


def boxes_of(labels: LabelMap) -> dict[int, Box]:
    """The box of each class, as the challenge makes them but for its random widening in the plane.

    Args:
        labels: uint8 or uint16 (z, y, x).

    Returns:
        By label id: first and last slice of the object, the middle one of the slices it is on, and its extent there.
        Ids without a voxel are left out.
    """
    from scipy import ndimage

    boxes = {}
    for label, region in enumerate(ndimage.find_objects(labels), start=1):
        if region is None:
            continue
        mask = labels[region] == label
        z0, y0, x0 = (int(axis.start) for axis in region)
        slices = np.flatnonzero(mask.any(axis=(1, 2)))
        middle = int(slices[len(slices) // 2])
        rows, columns = np.flatnonzero(mask[middle].any(axis=1)), np.flatnonzero(mask[middle].any(axis=0))
        boxes[label] = Box(
            z_min=z0 + int(slices[0]),
            z_max=z0 + int(slices[-1]),
            z_mid=z0 + middle,
            z_mid_x_min=x0 + int(columns[0]),
            z_mid_y_min=y0 + int(rows[0]),
            z_mid_x_max=x0 + int(columns[-1]),
            z_mid_y_max=y0 + int(rows[-1]),
        )
    return boxes


def _prepare_one(path: Path, output: Path, build: Callable[[], tuple[Case, str, dict[int, int]]]) -> PrepareResult:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            case, intensities, label_ids = build()
            save_case(output, case)
            result = PrepareResult(path, output, intensities, label_ids)
        except GstkError as error:
            result = PrepareResult(path, error=str(error))
    return replace(result, warnings=tuple(str(w.message) for w in caught))


def _build(
    source: Path,
    intensity_window: IntensityWindow,
    labels: StrPath | None,
    spacing_order: SpacingOrder,
    series: str | None = None,
    phase: int | None = None,
    profile: InputProfile | None = None,
) -> tuple[Case, str, dict[int, int]]:
    case = read_any(source, spacing_order, series=series, phase=phase)
    if profile is None or profile.intensities.source == "case":
        image, intensities = window_image(case, intensity_window)
    else:
        prepared = prepare_intensities(case.volume, profile, intensity_window)
        image, intensities = prepared.image, prepared.words
    label_map = case.labels if labels is None else read_label_map(labels, case).labels
    label_ids: dict[int, int] = {}
    if label_map is None or (labels is None and case.prompts):
        case = replace(case, image=image)
    else:
        if profile is None or not profile.classes.names:
            label_map, label_ids = relabel(label_map)
        if not label_map.any():
            warnings.warn(f"the label map of {case.name} is empty: the case has no classes", CaseWarning, stacklevel=3)
        prompts = {label: ObjectPrompts(box=box) for label, box in boxes_of(label_map).items()}
        case = replace(case, image=image, labels=label_map, prompts=prompts, prev_mask=None)
    if profile is None or profile.orientation == "stored" or not case.volume.has_orientation:
        return case, intensities, label_ids
    return _turned(case, profile), f"{intensities}; axes turned to RAS", label_ids


def _turned(case: Case, profile: InputProfile) -> Case:
    """A case with its axes (z,y,x) running to head, front and right; boxes are made anew of the labels."""
    axes = AxisMap.of(replace(profile, axis_order="zyx"), case.geometry)
    image = np.ascontiguousarray(axes.to_network(case.image))
    z, y, x = (case.geometry.spacing_mm[axis] for axis in axes.order)
    labels = None if case.labels is None else np.ascontiguousarray(axes.to_network(case.labels))
    prompts = {} if labels is None else {k: ObjectPrompts(box=box) for k, box in boxes_of(labels).items()}
    geometry = Geometry((image.shape[0], image.shape[1], image.shape[2]), (z, y, x))
    return Case(case.name, image, geometry, prompts, labels, path=case.path, modality=case.modality)


def _match_labels(paths: list[Path], labels: StrPath | None) -> dict[Path, Path]:
    if labels is None:
        return {}
    start = Path(labels)
    if not start.is_dir() or is_volume(start):
        if len(paths) > 1:
            raise CaseError(f"got one label map {start} for {len(paths)} sources, expected a folder of label maps")
        return {paths[0]: find_cases(start, segmentations=True)[0]}
    candidates = find_cases(start, segmentations=True)
    names, others = (
        {name.as_posix(): path for name, path in zip(distinct_names(found, lambda _: ""), found, strict=True)}
        for found in (paths, candidates)
    )
    plain = Counter(map(case_name, candidates)), Counter(map(case_name, paths))
    lone = {case_name(path): path for path in candidates if plain[0][case_name(path)] == plain[1][case_name(path)] == 1}
    matched = {path: others.get(name, lone.get(case_name(path))) for name, path in names.items()}
    return {path: label_map for path, label_map in matched.items() if label_map is not None}

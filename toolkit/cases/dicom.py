"""Reads a DICOM series as one volume, by the header of each of its slices.

pydicom reads the headers, and the pixels that are not compressed; GDCM, by way of SimpleITK, decodes the others.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstk.cases.dicom_headers import Frame, is_dicom_file, read_frames
from gstk.cases.dicom_pixels import PixelReader
from gstk.cases.dicom_stacks import EVEN_SHARE, Stack, sort_into_stacks, spacing_of
from gstk.cases.npz import CaseWarning
from gstk.cases.slice_grid import SliceGrid
from gstk.core.geometry import Geometry
from gstk.errors import CaseError

__all__ = ["DicomImage", "dicom_files", "read_dicom"]

_RESAMPLED_SHARE = 0.05
"""Slices further than this share of the spacing from their even place are resampled."""
_LARGEST_SHIFT_PIXELS = 0.1
_LARGEST_SHEAR = 1e-3
_MOST_SLICES = 4
"""Slices of a regular grid for each one that was read."""


@dataclass(frozen=True, eq=False)
class DicomImage:
    """One image of a DICOM series.

    Attributes:
        voxels: (z, y, x), intensities; floats where a slope or intercept is not whole.
        geometry: of `voxels`, LPS mm; axes at right angles.
        modality: such as "CT"; None where it is not stated.
        slices: where the slices lie, if `voxels` were resampled from them.
        files: of the slices that were read, by position; empty where one file holds several.
    """

    voxels: npt.NDArray[Any]
    geometry: Geometry
    modality: str | None
    slices: SliceGrid | None = None
    files: tuple[Path, ...] = ()


def dicom_files(folder: Path) -> list[Path]:
    """The files of a folder that look like DICOM, or may not be read, by name; hidden ones are passed over."""
    files = (child for child in folder.iterdir() if child.is_file() and not child.name.startswith("."))
    return sorted(file for file in files if is_dicom_file(file) or not os.access(file, os.R_OK))


def read_dicom(
    path: Path, series: str | None = None, phase: int | None = None, is_label_map: bool = False
) -> DicomImage:
    """Read one image of a DICOM folder, or the one that a file belongs to.

    Args:
        path: a folder, or a file in one.
        series: Series Instance UID, number or description of the series; None takes that of the file, or that with the
            largest image.
        phase: number of the image in its series, from 1, where it holds several; None takes the largest.
        is_label_map: whether pixels are label ids; resampling then takes the nearest pixel and makes no new ids.

    Raises:
        CaseError: there is no such image, or it cannot be decoded.

    Warns:
        CaseWarning: something was left out, assumed or resampled.
    """
    folder = path if path.is_dir() else path.parent
    files = dicom_files(folder)
    by_series: dict[str, list[Frame]] = {}
    unread = []
    for file in files:
        frames = read_frames(file)
        if not frames:
            unread.append(file.name)
        for frame in frames:
            by_series.setdefault(frame.series_uid, []).append(frame)
    if not by_series:
        raise CaseError(f"{path} holds no DICOM image that can be decoded; the files are damaged or hold no images")
    reader = PixelReader()
    uid = _pick_series(path, by_series, series)
    if uid is not None:
        stacks = sort_into_stacks(by_series[uid], reader.stored)
    else:
        sorted_stacks = {key: sort_into_stacks(frames, reader.stored) for key, frames in by_series.items()}
        uid = max(sorted_stacks, key=lambda key: max(_rank(stack) for stack in sorted_stacks[key]))
        stacks = sorted_stacks[uid]
    if path.is_dir():
        if series is None:
            _warn_of_other_series(folder, by_series, uid)
        if unread:
            what = f"{len(unread)} DICOM files of {folder.name} cannot be read as images and are left out"
            _warn(f"{what}, {unread[0]} first")
    _warn_of_missing_parts(path.name, by_series[uid])
    stack = _pick_stack(path, stacks, phase)
    image = _assemble(path.name, stack, reader, is_label_map)
    sources = tuple(frame.file for frame in stack.frames)
    return replace(image, files=sources if len(set(sources)) == len(sources) else ())


def _warn(text: str) -> None:
    warnings.warn(text, CaseWarning, stacklevel=4)


def _rank(stack: Stack) -> tuple[bool, int]:
    return stack.is_readable, stack.voxels


def _pick_series(path: Path, by_series: dict[str, list[Frame]], series: str | None) -> str | None:
    if series is None:
        if path.is_dir():
            return None if len(by_series) > 1 else next(iter(by_series))
        own = next((uid for uid, frames in by_series.items() if any(f.file.name == path.name for f in frames)), None)
        if own is None:
            raise CaseError(f"{path} holds no DICOM image that can be decoded; it is damaged or holds no image")
        return own
    firsts = {uid: frames[0] for uid, frames in by_series.items()}
    fitting = [u for u, f in firsts.items() if series in (u, f.series_number, f.series_description)]
    if len(fitting) != 1:
        known = ", ".join(f"{f.series_number or '-'} ({f.series_description or u})" for u, f in firsts.items())
        raise CaseError(
            f"got {len(fitting)} series that are {series!r} in {path}, expected one of these, by number, description "
            f"or UID: {known:.500}"
        )
    return fitting[0]


def _warn_of_other_series(folder: Path, by_series: dict[str, list[Frame]], chosen: str) -> None:
    if len(by_series) > 1:
        others = ", ".join(f"{uid} ({len(frames)} slices)" for uid, frames in by_series.items() if uid != chosen)
        _warn(
            f"{folder.name} holds {len(by_series)} DICOM series; took {chosen} ({len(by_series[chosen])} slices), not "
            f"{others}; a file given instead of the folder, or --series, picks another"
        )


def _warn_of_missing_parts(name: str, frames: Sequence[Frame]) -> None:
    """Says which files of a concatenation, one image in several files, are not there."""
    parts: dict[str, set[int]] = {}
    totals: dict[str, int] = {}
    for uid, number, total in {frame.part for frame in frames if frame.part[0]}:
        parts.setdefault(uid, set()).add(number)
        totals[uid] = max(totals.get(uid, 0), number, total)
    for uid, numbers in parts.items():
        missing = sorted(set(range(1, totals[uid] + 1)) - numbers)
        if missing:
            which = ", ".join(map(str, missing[:10]))
            _warn(f"{name} lacks files {which} of the {totals[uid]} that its image is stored in: slices are missing")


def _pick_stack(path: Path, stacks: Sequence[Stack], phase: int | None) -> Stack:
    if phase is None:
        number = max(range(len(stacks)), key=lambda i: (*_rank(stacks[i]), -i))
    elif 1 <= phase <= len(stacks):
        number = phase - 1
    else:
        what = "; ".join(f"{n}: {stack.describe()}" for n, stack in enumerate(stacks, 1))
        raise CaseError(f"got the phase {phase} of {path}, expected 1 to {len(stacks)}: {what:.500}")
    stack = stacks[number]
    first = stack.frames[0]
    if first.is_segmentation:
        raise CaseError(
            f"got a DICOM segmentation (SEG) in {first.file.name} of {path}, expected an image or a label map; convert "
            "it to NIfTI, for example with dcmqi's segimage2itkimage --mergeSegments"
        )
    if not stack.is_readable:
        what = "a mosaic of slices in one picture" if first.is_mosaic else "colours, several values a voxel"
        remedy = "convert it with dcm2niix" if first.is_mosaic else "give a series of intensities"
        raise CaseError(f"got {what} in {first.file.name} of {path}, expected one real number a voxel; {remedy}")
    if stack.copies:
        _warn(f"{stack.copies} slices of {path.name} are copies of others and are left out")
    if len(stacks) > 1 and phase is None:
        others = "; ".join(f"{n}: {s.describe()}" for n, s in enumerate(stacks, 1) if s is not stack)
        _warn(
            f"the series of {path.name} holds {len(stacks)} images; took number {number + 1}, {stack.describe()}, and "
            f"left out {others:.500}; --phase picks another"
        )
    return stack


def _assemble(name: str, stack: Stack, reader: PixelReader, nearest: bool) -> DicomImage:
    frames = stack.frames
    voxels = reader.intensities(frames)
    modality = frames[0].modality or None
    for note in dict.fromkeys(frame.note for frame in frames if frame.note):
        _warn(f"{name}: {note}")
    stating = sum(frame.states_rescale for frame in frames)
    if 0 < stating < len(frames):
        _warn(
            f"{len(frames) - stating} of the {len(frames)} slices of {name} state no rescale slope and intercept; "
            "their stored values are taken as they are"
        )
    spacing_yx = frames[0].spacing_mm
    if spacing_yx is None:
        _warn(f"{name} states no pixel spacing; 1 mm is assumed")
        spacing_yx = (1.0, 1.0)
    x, y, z = _axes(frames)
    direction = np.column_stack([x, y, z]).ravel()
    if not stack.has_place or len(frames) == 1:
        spacing_z, source = _stated_spacing(frames)
        if len(frames) > 1:
            lacking = "positions" if frames[0].position_mm is None else "directions at right angles"
            what = f"the {len(frames)} slices of {name} state no {lacking}"
            _warn(f"{what}; their z spacing of {spacing_z:.3g} mm is {source}")
        elif frames[0].spacing_between_mm is None:
            _warn(f"{name} is one slice; its z spacing of {spacing_z:.3g} mm is {source}")
        origin = frames[0].position_mm if stack.has_place and frames[0].position_mm else (0.0, 0.0, 0.0)
        return DicomImage(voxels, _geometry(voxels.shape, (spacing_z, *spacing_yx), origin, direction), modality)
    positions = np.array([frame.position_mm for frame in frames], np.float64)
    heights = positions @ z
    spacing_z, uneven = spacing_of(heights)
    shift_mm = (positions - positions[0]) @ np.column_stack([y, x])
    shift = np.abs(shift_mm / spacing_yx).max()
    shear = float(np.abs(shift_mm).max() / max(heights[-1] - heights[0], 1e-9))
    grid_z = spacing_z
    if uneven > EVEN_SHARE:
        gaps = np.diff(heights)
        what = f"the {len(frames)} slices of {name} are not evenly spaced: a slice may be missing, their distances are "
        what += f"{gaps.min():.3g} to {gaps.max():.3g} mm"
        if uneven <= _RESAMPLED_SHARE:
            _warn(
                f"{what}; they are taken as {spacing_z:.4g} mm apart, which is at most {uneven * spacing_z:.2g} mm off"
            )
        else:
            count = min(round((heights[-1] - heights[0]) / float(np.median(gaps))) + 1, _MOST_SLICES * len(frames))
            grid_z = float(heights[-1] - heights[0]) / max(1, count - 1)
            _warn(
                f"{what}; they are resampled to {count} slices of {grid_z:.4g} mm, and a mask is given back on the "
                "slices read"
            )
    is_sheared = bool(shift > _LARGEST_SHIFT_PIXELS)
    if is_sheared and shear <= _LARGEST_SHEAR and uneven <= _RESAMPLED_SHARE:
        _warn(
            f"the slices of {name} shift by up to {np.abs(shift_mm).max():.2g} mm in their plane; that is passed over"
        )
        is_sheared = False
    elif is_sheared:
        angle = math.degrees(math.atan(shear))
        _warn(
            f"the slices of {name} shift in their plane by {angle:.3g} degrees, as with a gantry tilt; they are "
            "resampled to axes at right angles, and a mask is given back on the slices read"
        )
    spacing = (grid_z, *spacing_yx)
    if not is_sheared and uneven <= _RESAMPLED_SHARE:
        return DicomImage(voxels, _geometry(voxels.shape, spacing, positions[0], direction), modality)
    grid = SliceGrid.of(voxels.shape, positions, np.stack([x, y, z]), spacing)
    return DicomImage(grid.resample(voxels, nearest), grid.regular, modality, grid)


def _axes(frames: Sequence[Frame]) -> tuple[npt.NDArray[np.float64], ...]:
    """Directions of x, y and z at right angles: of the frames' mean orientation; identity where none is stated."""
    orientation = frames[0].orientation
    if orientation is None:
        return tuple(np.eye(3))
    if len(frames) > 1 and any(frame.orientation != orientation for frame in frames):
        orientation = tuple(np.mean([frame.orientation or orientation for frame in frames], axis=0))
    x, y = np.array(orientation[:3]), np.array(orientation[3:])
    x = x / np.linalg.norm(x)
    y = y - (x @ y) * x
    y = y / np.linalg.norm(y)
    return x, y, np.cross(x, y)


def _stated_spacing(frames: Sequence[Frame]) -> tuple[float, str]:
    """z spacing in mm of slices without positions, and where it is from."""
    first = frames[0]
    if first.spacing_between_mm:
        return first.spacing_between_mm, "the stated spacing between slices"
    positions = [frame.position_mm for frame in frames]
    if len(frames) > 1 and None not in positions:
        steps = np.diff(np.array(positions, np.float64), axis=0)
        mean_mm = float(np.linalg.norm(steps.mean(axis=0)))
        if mean_mm > 0 and float(np.linalg.norm(steps - steps.mean(axis=0), axis=1).max()) <= EVEN_SHARE * mean_mm:
            return mean_mm, "the distance between their positions"
    locations = [frame.location_mm for frame in frames]
    if len(frames) > 1 and None not in locations:
        spacing_mm, uneven = spacing_of(np.sort(np.array(locations, np.float64)))
        if spacing_mm > 0 and uneven <= EVEN_SHARE:
            return spacing_mm, "that of their slice locations"
    if first.thickness_mm:
        return first.thickness_mm, "its slice thickness" if len(frames) == 1 else "their slice thickness"
    return 1.0, "assumed"


def _geometry(
    shape: Sequence[int], spacing_zyx: Sequence[float], origin: Any, direction: npt.NDArray[np.float64]
) -> Geometry:
    z, y, x = spacing_zyx
    rows = [float(v) + 0.0 for v in direction]  # no -0.0
    return Geometry(tuple(shape), (z, y, x), tuple(float(v) for v in origin), tuple(rows))  # type: ignore[arg-type]

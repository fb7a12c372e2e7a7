"""The headers of DICOM frames: the position of each frame, the meaning of its values, the image it belongs to.

Every value comes from the frame's own header: of a multi-frame file from the functional groups of that frame, then the
shared ones, then the file's own attributes (DICOM PS3.3, C.7.6.16).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gstk.cases.dicom_real_world import HOUNSFIELD, RealWorldMapping, read_mappings

__all__ = ["PHASE_KEYS", "Frame", "is_dicom_file", "quiet_pydicom", "read_frames"]

_MAPPINGS = "RealWorldValueMappingSequence"
PHASE_KEYS = (
    ("StackID", "FrameContentSequence", "stack"),
    ("TemporalPositionIndex", "FrameContentSequence", "temporal position"),
    ("TemporalPositionIdentifier", None, "temporal position"),
    ("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence", "trigger time"),
    ("TriggerTime", None, "trigger time"),
    ("NominalPercentageOfCardiacPhase", "CardiacSynchronizationSequence", "percent of the cardiac phase"),
    ("EffectiveEchoTime", "MREchoSequence", "echo time"),
    ("EchoTime", None, "echo time"),
    ("EchoNumbers", None, "echo"),
    ("InversionTime", None, "inversion time"),
    ("DiffusionBValue", "MRDiffusionSequence", "b-value"),
    ("DiffusionBValue", None, "b-value"),
    ("DiffusionGradientOrientation", None, "gradient direction"),
    ("FrameReferenceTime", None, "frame reference time"),
    ("FrameAcquisitionNumber", "FrameContentSequence", "acquisition"),
    ("AcquisitionNumber", None, "acquisition"),
    ("ComplexImageComponent", None, "component"),
    ("FrameType", "MRImageFrameTypeSequence", "image type"),
    ("ImageType", None, "image type"),
    ("FrameOfReferenceUID", None, "frame of reference"),
    ("KVP", None, "tube voltage"),
    ("ConvolutionKernel", None, "kernel"),
    ("FrameAcquisitionDateTime", "FrameContentSequence", "acquisition time"),
    ("AcquisitionDateTime", None, "acquisition time"),
    ("AcquisitionTime", None, "acquisition time"),
    ("SeriesTime", None, "series time"),
    ("ContentTime", None, "content time"),
)
"""Attributes that tell images at one position apart, most telling first: keyword, functional group, words."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice as its header has it.

    Attributes:
        file: where it is.
        index: number of the frame in the file, from 0.
        rows, columns: its size in pixels.
        series_uid, series_number, series_description, sop_uid: identifiers as written; "" for none.
        modality: such as "CT"; "" for none.
        instance: number of the file in its series; None where it is not stated.
        position_mm: LPS (x, y, z) of the centre of pixel (0, 0); None where it is not stated.
        orientation: LPS directions of increasing column and of increasing row; None where they are not stated.
        spacing_mm: distances between (rows, columns); None where they are not stated.
        thickness_mm, spacing_between_mm, location_mm: as stated; None for none.
        slope, intercept: value = slope · stored + intercept.
        states_rescale: whether the header holds them.
        units: of the values; "" where they are not stated.
        is_grey: whether each pixel is one number that is an intensity.
        is_localizer: whether the header calls it a localizer (scout).
        is_mosaic: whether it is a tiled picture of many slices.
        is_segmentation: whether it is a segment of a DICOM segmentation, and no image.
        has_lut: whether values come from a table in place of slope and intercept.
        table: values by a table of real world values; None where there is none, or where slope and intercept are taken.
        note: what is to be said of how its values were chosen; "" for nothing.
        part: UID of the concatenation that its file is a part of, number of the part, and number of parts; "" and 0 for
            what is not stated.
        phase: values of `PHASE_KEYS`, in their order; "" for none.
    """

    file: Path
    index: int
    rows: int
    columns: int
    series_uid: str = ""
    series_number: str = ""
    series_description: str = ""
    sop_uid: str = ""
    modality: str = ""
    instance: int | None = None
    position_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    thickness_mm: float | None = None
    spacing_between_mm: float | None = None
    location_mm: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    states_rescale: bool = False
    units: str = ""
    is_grey: bool = True
    is_localizer: bool = False
    is_mosaic: bool = False
    is_segmentation: bool = False
    has_lut: bool = False
    table: RealWorldMapping | None = None
    note: str = ""
    part: tuple[str, int, int] = ("", 0, 0)
    phase: tuple[str, ...] = field(default=())


def is_dicom_file(file: Path) -> bool:
    """Whether a file looks like DICOM: its preamble, or its suffix .dcm. A DICOMDIR is an index and no image."""
    if file.name.upper() == "DICOMDIR":
        return False
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM" or file.suffix.lower() == ".dcm"
    except OSError:
        return False


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from warning of values that break the standard: what matters in them is checked here."""
    import logging
    import warnings

    import pydicom

    settings, log = pydicom.config.settings, logging.getLogger("pydicom")
    mode, level = settings.reading_validation_mode, log.level
    settings.reading_validation_mode = pydicom.config.IGNORE
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.reading_validation_mode = mode
        log.setLevel(level)


def read_frames(file: Path) -> list[Frame]:
    """The frames of a DICOM file; an empty list where it is damaged or holds no image. Pixels are not read."""
    import pydicom

    try:
        with quiet_pydicom():
            header = pydicom.dcmread(file, force=True, stop_before_pixels=True)
            rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
            if not rows or not columns or rows < 1 or columns < 1:
                return []
            count = _whole(header, "NumberOfFrames") or 1
            per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
            frames = [_frame(file, header, per_frame, index, rows, columns) for index in range(max(1, count))]
    except Exception:  # pydicom raises of any kind for a damaged file
        return []
    if any(frame.position_mm is None for frame in frames):  # the first frame's alone would set that frame apart
        frames = [replace(frame, position_mm=None) for frame in frames]
    return frames


def _frame(file: Path, header: Any, per_frame: Sequence[Any], index: int, rows: int, columns: int) -> Frame:
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    own = per_frame[index] if index < len(per_frame) else None

    def group(name: str) -> Any:
        for groups in (own, shared):
            sequence = groups.get(name) if groups is not None else None
            if sequence:
                return sequence[0]
        return None

    def place(name: str | None) -> Any:
        found = group(name) if name else None
        return header if found is None else found

    measures = place("PixelMeasuresSequence")
    values = place("PixelValueTransformationSequence")
    orientation = _numbers(place("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    position = _numbers(place("PlanePositionSequence"), "ImagePositionPatient", 3)
    detector = (header.get("DetectorInformationSequence") or [None])[0]  # nuclear medicine
    if detector is not None:
        orientation = orientation or _numbers(detector, "ImageOrientationPatient", 6)
        position = position or _numbers(detector, "ImagePositionPatient", 3)
    between = _number(measures, "SpacingBetweenSlices")
    if position and orientation and index and group("PlanePositionSequence") is None:
        position = _stepped(header, position, orientation, index, between)
    slope, intercept = _number(values, "RescaleSlope"), _number(values, "RescaleIntercept")
    if slope is None:
        slope = _number(header, "DoseGridScaling")
    units = _text(values, "RescaleType") or _text(header, "Units") or _text(header, "DoseUnits")
    has_lut = bool(header.get("ModalityLUTSequence"))
    stated = (slope or 1.0, intercept or 0.0) if slope or intercept is not None else None
    items: Sequence[Any] = next(
        (found for g in (own, shared, header) if g is not None and (found := g.get(_MAPPINGS))), []
    )
    mapping, note = _chosen_mapping(read_mappings(items), stated, has_lut, units)
    if mapping is not None:
        slope, intercept, units, has_lut = mapping.slope, mapping.intercept, mapping.units or units, False
    types = [str(part).upper() for part in _list(header.get("ImageType"))]
    spacing_mm, where = _spacing(measures, header)
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    return Frame(
        file,
        index,
        rows,
        columns,
        series_uid=_text(header, "SeriesInstanceUID"),
        series_number=_text(header, "SeriesNumber"),
        series_description=_text(header, "SeriesDescription"),
        sop_uid=_text(header, "SOPInstanceUID"),
        modality=_text(header, "Modality"),
        instance=_whole(header, "InstanceNumber"),
        position_mm=position,
        orientation=_checked(orientation),
        spacing_mm=spacing_mm,
        thickness_mm=_positive(measures, "SliceThickness"),
        spacing_between_mm=None if not between else abs(between),
        location_mm=_number(header, "SliceLocation"),
        slope=slope or 1.0,  # a slope of 0 would leave nothing of the image
        intercept=intercept or 0.0,
        states_rescale=bool(slope) or intercept is not None,
        units=units,
        is_grey=(_whole(header, "SamplesPerPixel") or 1) == 1 and photometric.startswith("MONOCHROME"),
        is_localizer="LOCALIZER" in types,
        is_mosaic="MOSAIC" in types or _is_siemens_mosaic(header),
        is_segmentation=_text(header, "Modality") == "SEG",
        has_lut=has_lut,
        table=mapping if mapping is not None and mapping.table is not None else None,
        note="; ".join(filter(None, (note, where))),
        part=(
            _text(header, "ConcatenationUID"),
            _whole(header, "InConcatenationNumber") or 0,
            _whole(header, "InConcatenationTotalNumber") or 0,
        ),
        phase=tuple(_phase_value(group(name) if name else header, key) for key, name, _ in PHASE_KEYS),
    )


def _chosen_mapping(
    mappings: Sequence[RealWorldMapping], stated: tuple[float, float] | None, has_lut: bool, units: str
) -> tuple[RealWorldMapping | None, str]:
    """Which real world mapping gives the values; None where rescale slope and intercept, or the modality's table, do.

    Both begin with stored values. The rescale is what other readers show, so it is taken where it is stated; but where
    its units are others than Hounsfield units, and a mapping gives those, values of a CT are theirs.

    Returns:
        The mapping, and what is to be said of the choice.
    """
    if not mappings:
        return None, ""
    first = mappings[0]
    if stated is None and not has_lut:
        others = sorted({m.units or "no unit" for m in mappings} - {first.units or "no unit"})
        what = f"values are the real world values in {first.units or 'no unit'}, not in {', '.join(others)}"
        return first, what if others else ""
    if first.units != HOUNSFIELD:
        return None, ""
    if units not in ("", HOUNSFIELD):
        return first, f"values are the real world values in HU, not the rescaled ones in {units}"
    if stated is not None and first.table is None and not np.allclose(stated, (first.slope, first.intercept)):
        return None, (
            f"two slopes and intercepts are stated for HU, {stated[0]:g} and {stated[1]:g} by the rescale, which is "
            f"taken, and {first.slope:g} and {first.intercept:g} as real world values"
        )
    return None, ""


def _is_siemens_mosaic(header: Any) -> bool:
    """Whether Siemens' own header counts several slices in the picture: the image type may have lost the word."""
    try:
        return int(header.private_block(0x0019, "SIEMENS MR HEADER")[0x0A].value) > 1
    except (KeyError, TypeError, ValueError):
        return False


def _stepped(
    header: Any, position: tuple[float, ...], orientation: tuple[float, ...], index: int, between_mm: float | None
) -> tuple[float, ...] | None:
    """Position of a later frame of a file that states only the first one's."""
    offsets = _list(header.get("GridFrameOffsetVector"))  # of a radiotherapy dose
    try:
        step_mm = float(offsets[index]) - float(offsets[0]) if offsets else (between_mm or 0.0) * index
    except (IndexError, ValueError):
        return None
    if not step_mm:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    return tuple(float(p + step_mm * n) for p, n in zip(position, normal, strict=True))


def _spacing(measures: Any, header: Any) -> tuple[tuple[float, ...] | None, str]:
    """Distances between rows and columns, and what is to be said of them."""
    places = ((measures, "PixelSpacing"), (header, "ImagerPixelSpacing"), (header, "NominalScannedPixelSpacing"))
    for place, keyword in places:
        found = _numbers(place, keyword, 2)
        if found and min(found) > 0:
            at_detector = keyword == "ImagerPixelSpacing"
            return found, "the pixel spacing is that at the detector, no other is stated" if at_detector else ""
    return None, ""


def _checked(orientation: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Two directions at right angles (to a degree), of length 1 where theirs is another; else None."""
    if orientation is None:
        return None
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not min(lengths) > 0 or abs(float(row @ column)) > 0.02 * lengths[0] * lengths[1]:
        return None
    if min(lengths) > 0.9 and max(lengths) < 1.1:
        return orientation
    return tuple(float(v) for v in (*(row / lengths[0]), *(column / lengths[1])))


def _phase_value(place: Any, key: str) -> str:
    value = None if place is None else place.get(key)
    return "" if value is None else _printable("\\".join(str(v) for v in _list(value)))


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value]


def _text(place: Any, keyword: str) -> str:
    value = place.get(keyword)
    return "" if value is None else _printable(str(value)).strip()


def _printable(text: str) -> str:
    """Without control codes, which would break the line of a message or colour a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _numbers(place: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(v) for v in _list(place.get(keyword)))
    except (TypeError, ValueError):
        values = _comma_numbers(place, keyword)
    return values if len(values) == count and all(math.isfinite(v) for v in values) else None


def _comma_numbers(place: Any, keyword: str) -> tuple[float, ...]:
    """Numbers with a decimal comma, which programs under some locales write against the standard; none for others."""
    from pydicom.datadict import tag_for_keyword

    stored = getattr(place.get_item(tag_for_keyword(keyword)), "value", None)
    texts = stored.decode("ascii", "replace").split("\\") if isinstance(stored, bytes) else map(str, _list(stored))
    try:
        return tuple(float(text.strip(" \0").replace(",", ".")) for text in texts)
    except ValueError:
        return ()


def _number(place: Any, keyword: str) -> float | None:
    values = _numbers(place, keyword, 1)
    return values[0] if values else None


def _positive(place: Any, keyword: str) -> float | None:
    value = _number(place, keyword)
    return value if value and value > 0 else None


def _whole(place: Any, keyword: str) -> int | None:
    value = _number(place, keyword)
    return None if value is None else int(value)

"""Label maps as files to download: NIfTI, NRRD with names and colours, npz, DICOM SEG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.cases.label_names import LabelName
from gstk.cases.npz import Case
from gstk.cases.volumes import write_case_mask
from gstk.core.drafts import temporary_folder
from gstk.errors import BackendMissing, OutputError

__all__ = ["FORMATS", "SavedFile", "has_source_uids", "save_labels"]

FORMATS = ("nii.gz", "seg.nrrd", "npz", "dcm")


@dataclass(frozen=True)
class SavedFile:
    """A file to download."""

    name: str
    media_type: str
    data: bytes


def save_labels(
    kind: str, labels: NDArray[np.integer], case: Case, names: Mapping[int, LabelName], headers: Sequence[Any] = ()
) -> SavedFile:
    """A label map as a file.

    Args:
        kind: one of `FORMATS`.
        labels: (z,y,x), object ids.
        case: the image, for its name and geometry.
        names: of the objects.
        headers: of the DICOM slices that the image was read from, for "dcm".

    Raises:
        OutputError: the kind is unknown, or the format cannot hold it.
        BackendMissing: DICOM SEG needs highdicom.
    """
    if kind not in FORMATS:
        raise OutputError(f"got the format {kind!r:.20}, expected one of {', '.join(FORMATS)}")
    name = f"{case.name}_mask.{kind}"
    if kind == "npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, segs=_smallest(labels))
        return SavedFile(name, "application/octet-stream", buffer.getvalue())
    if kind == "dcm":
        on_slices = labels if case.slices is None else case.slices.restore(labels)
        return SavedFile(name, "application/dicom", _dicom_seg(on_slices, names, headers))
    with temporary_folder() as folder:
        file = folder / f"mask.{kind}"
        write_case_mask(file, labels, case, names)
        return SavedFile(name, "application/octet-stream", file.read_bytes())


def _smallest(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    return labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)


def has_source_uids(headers: Sequence[Any]) -> bool:
    """Whether these are headers of DICOM slices with the UIDs that a DICOM SEG refers to."""
    wanted = ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    return bool(headers) and all(getattr(header, tag, "") for header in headers for tag in wanted)


def _dicom_seg(labels: NDArray[np.integer], names: Mapping[int, LabelName], headers: Sequence[Any]) -> bytes:
    try:
        import highdicom
        from pydicom.sr.codedict import codes
        from pydicom.uid import generate_uid
    except ModuleNotFoundError as error:
        raise BackendMissing(f'DICOM SEG needs {error.name}; pip install "gstk[dicom]"') from None
    if not headers or len(headers) != len(labels):
        raise OutputError("the image did not come as a DICOM series of single slices; save as NIfTI or NRRD")
    if not has_source_uids(headers):
        raise OutputError("the DICOM files lack the UIDs that a DICOM SEG refers to; save as NIfTI or NRRD")
    from gstk._version import __version__

    ids = [int(i) for i in np.unique(labels) if i]
    if not ids:
        raise OutputError("got no object, expected one or more to save")
    ordered = _along_z(headers)
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=names[i].name if i in names else f"object {i}",
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name="gstk", version=__version__, family=codes.cid7162.ArtificialIntelligence
            ),
        )
        for number, i in enumerate(ids, start=1)
    ]
    segments = highdicom.seg.Segmentation(
        source_images=ordered,
        pixel_array=np.stack([labels == i for i in ids], axis=-1).astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=900,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="gstk",
        manufacturer_model_name="gstk serve",
        software_versions=__version__,
        device_serial_number="0",
    )
    buffer = io.BytesIO()
    segments.save_as(buffer)
    return buffer.getvalue()


def _along_z(headers: Sequence[Any]) -> list[Any]:
    """Slices in the order in which ITK stacks them: along the normal of their rows and columns."""
    row, column = np.reshape(np.array(headers[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(row, column)
    return sorted(headers, key=lambda header: float(np.dot(normal, np.array(header.ImagePositionPatient, float))))

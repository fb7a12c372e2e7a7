"""DICOM files for tests, made with pydicom: what each slice says is the caller's to choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)


def write_slice(file: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """One file of stored values (rows, columns), or of (frames, rows, columns); a tag of None is left out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = EnhancedMRImageStorage if pixels.ndim == 3 else CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(file), {}, file_meta=meta, preamble=bytes(128))
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3",
        "Modality": "CT",
        "PixelSpacing": [0.9, 0.8],
        "ImageOrientationPatient": list(AXIAL),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": 8 * pixels.dtype.itemsize,
        "HighBit": 8 * pixels.dtype.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **tags,
    }
    if pixels.ndim == 3:
        values["NumberOfFrames"] = len(pixels)
    for keyword, value in values.items():
        if value is not None:
            setattr(data, keyword, value)
    data.PixelData = pixels.tobytes()
    data.save_as(file, enforce_file_format=True)
    return file


def write_stack(
    folder: Path,
    volume: np.ndarray,
    positions: Sequence[Sequence[float] | None] | None = None,
    names: str = "im{:03}.dcm",
    first: int = 0,
    **tags: Any,
) -> Path:
    """A series of slices 2.5 mm apart, or at `positions`; a tag that is a list has a value for each slice."""
    for k, pixels in enumerate(volume):
        own = {
            key: value[k] if isinstance(value, list) and len(value) == len(volume) else value
            for key, value in tags.items()
        }
        place = (0, 0, 2.5 * k) if positions is None else positions[k]
        write_slice(
            folder / names.format(k + first),
            pixels,
            **{
                "ImagePositionPatient": None if place is None else list(map(float, place)),
                "InstanceNumber": k + first,
                **own,
            },
        )
    return folder


def sequence(**tags: Any) -> pydicom.Sequence:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return pydicom.Sequence([item])

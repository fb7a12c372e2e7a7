"""Decoding the pixels of DICOM frames, and turning stored values into intensities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstk.cases.dicom_headers import Frame, quiet_pydicom
from gstk.cases.itk import one_line, quiet_itk
from gstk.cases.rescaling import Stored, float_type
from gstk.core.drafts import temporary_folder
from gstk.core.foreign_text import reason_of
from gstk.errors import CaseError

__all__ = ["PixelReader"]

_KEPT_TAGS = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)


class PixelReader:
    """Reads pixels of frames, a file at a time; the file read last is kept."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._pixels: npt.NDArray[Any] = np.empty((0, 0, 0))

    def stored(self, frame: Frame) -> npt.NDArray[Any]:
        """The stored values of one frame, (rows, columns), without slope and intercept.

        Raises:
            CaseError: they cannot be decoded; names the transfer syntax.
        """
        if self._file != frame.file:
            self._pixels, self._file = _decode(frame.file), frame.file
        if frame.index >= len(self._pixels) or self._pixels.shape[1:] != (frame.rows, frame.columns):
            raise CaseError(
                f"cannot read {frame.file}: got pixels of shape {self._pixels.shape}, expected at least "
                f"{frame.index + 1} frames of {frame.rows} x {frame.columns}; the file is damaged"
            )
        pixels: npt.NDArray[Any] = self._pixels[frame.index]
        return pixels

    def intensities(self, frames: Sequence[Frame]) -> npt.NDArray[Any]:
        """The frames as one array (z, y, x), each with its own slope and intercept applied.

        Returns:
            Floats where any slope or intercept is not whole; else the smallest signed integers of at least 16 bits
            that hold every value, or the stored type where nothing is to be applied.

        Raises:
            CaseError: a frame cannot be decoded.
        """
        stored = [self.stored(frame) for frame in frames]
        if any(frame.table is not None for frame in frames):
            return np.stack([_mapped(frame, pixels) for frame, pixels in zip(frames, stored, strict=True)])
        if any(frame.has_lut for frame in frames):
            return np.stack([_looked_up(frame, pixels) for frame, pixels in zip(frames, stored, strict=True)])
        scales = [(frame.slope, frame.intercept) for frame in frames]
        if all(scale == (1.0, 0.0) for scale in scales):
            return np.stack(stored)
        dtype: npt.DTypeLike
        if all(v == int(v) for scale in scales for v in scale) and all(pixels.dtype.kind in "iu" for pixels in stored):
            ends = [
                int(end) * int(slope) + int(intercept)
                for pixels, (slope, intercept) in zip(stored, scales, strict=True)
                for end in (pixels.min(), pixels.max())
            ]
            fits = [t for t in (np.int16, np.int32, np.int64) if _fits(t, min(ends), max(ends))]
            dtype, work = (fits[0], np.int64) if fits else (np.float64, np.float64)
        else:
            dtype = float_type(Stored(pixels, *scale) for pixels, scale in zip(stored, scales, strict=True))
            work = np.float64
        values = np.empty((len(stored), *stored[0].shape), dtype)
        for k, (slope, intercept) in enumerate(scales):
            values[k] = stored[k].astype(work) * work(slope) + work(intercept)
        return values


def _fits(dtype: type, low: int, high: int) -> bool:
    bounds = np.iinfo(dtype)
    return int(bounds.min) <= low and high <= int(bounds.max)


def _mapped(frame: Frame, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values by a table of real world values; by slope and intercept of a frame that has none."""
    if frame.table is None:
        return pixels.astype(np.float64) * frame.slope + frame.intercept
    try:
        return frame.table.look_up(pixels)
    except ValueError as error:
        raise CaseError(
            f"cannot read {frame.file}: got {error}; convert it to one that states a rescale slope"
        ) from None


def _looked_up(frame: Frame, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut

    with quiet_pydicom():
        header = pydicom.dcmread(frame.file, force=True, stop_before_pixels=True)
        try:
            return np.asarray(apply_modality_lut(pixels, header), np.float32)
        except Exception as error:
            raise CaseError(
                f"cannot read {frame.file}: its modality lookup table is damaged ({reason_of(error, 120)})"
            ) from None


def _decode(file: Path) -> npt.NDArray[Any]:
    """All frames of a file, (n, rows, columns), as stored."""
    import pydicom
    from pydicom.pixels.utils import pixel_array

    syntax = None
    try:
        with quiet_pydicom():
            data = pydicom.dcmread(file, force=True)
            syntax = _transfer_syntax(data)
            compressed = _is_compressed(syntax)
            if compressed and syntax not in (
                pydicom.uid.RLELossless,
                pydicom.uid.DeflatedExplicitVRLittleEndian,
            ):
                pixels = _decode_with_gdcm(data, file)
            else:
                pixels = pixel_array(_with_low_bits(data), raw=True)
    except MemoryError:
        raise
    except Exception as error:  # libraries raise errors of any kind for damaged files
        reason = reason_of(error, 160)
        if syntax is None:
            raise CaseError(f"cannot read {file}: it is damaged ({reason})") from None
        name = syntax.name if syntax.name != str(syntax) else f"unknown, {reason_of(str(syntax), 70)}"
        remedy = "the file is truncated or damaged; copy it anew"
        if _is_compressed(syntax):
            remedy = "if it is not damaged, convert it to an uncompressed transfer syntax (gdcmconv --raw, dcmdjpeg)"
        raise CaseError(f"cannot decode the pixels of {file}, transfer syntax {name}: {reason}; {remedy}") from None
    frames = int(data.get("NumberOfFrames") or 1)
    return np.asarray(pixels if frames > 1 and pixels.ndim == 3 else pixels[None])


def _with_low_bits(data: Any) -> Any:
    """The same pixels with their bits from bit 0 on: pydicom takes them to lie there, whatever the high bit is."""
    allocated, stored, high = (int(data.get(key) or 0) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    shift = high + 1 - stored
    if allocated not in (8, 16, 32) or stored < 1 or not 0 < shift <= allocated - stored:
        return data
    import pydicom

    syntax = data.file_meta.TransferSyntaxUID
    if _is_compressed(syntax) and syntax != pydicom.uid.DeflatedExplicitVRLittleEndian:
        return data
    order = ">" if syntax == pydicom.uid.ExplicitVRBigEndian else "<"
    values = np.frombuffer(data.PixelData, f"{order}u{allocated // 8}")
    data.PixelData = (values >> shift).astype(values.dtype).tobytes()
    data.HighBit = stored - 1
    return data


def _transfer_syntax(data: Any) -> Any:
    import pydicom

    stated = getattr(data.file_meta, "TransferSyntaxUID", None)
    if stated:
        if not stated.is_private and not stated.is_transfer_syntax:
            raise ValueError(f"the transfer syntax {stated!s:.70} is not a known one")
        return stated
    implicit, little = data.original_encoding
    found = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.TransferSyntaxUID = found if little else pydicom.uid.ExplicitVRBigEndian
    return data.file_meta.TransferSyntaxUID


def _is_compressed(syntax: Any) -> bool:
    """Whether pixels are encoded; those of a private transfer syntax count as such."""
    return bool(not syntax.is_transfer_syntax or syntax.is_compressed)


def _decode_with_gdcm(data: Any, file: Path) -> npt.NDArray[Any]:
    """Compressed pixels through GDCM, of a copy without slope and intercept: GDCM applies one frame's to all."""
    import pydicom
    import SimpleITK

    bare = pydicom.Dataset()
    for keyword in _KEPT_TAGS:
        if keyword in data:
            bare[keyword] = data[keyword]
    bare.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    bare.file_meta = pydicom.dataset.FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    bare.SOPInstanceUID = data.get("SOPInstanceUID") or pydicom.uid.generate_uid()
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    with temporary_folder() as folder:
        copy = folder / "bare.dcm"
        bare.save_as(copy, enforce_file_format=True)
        try:
            with quiet_itk():
                pixels = np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(copy), imageIO="GDCMImageIO")))
        except RuntimeError as error:
            raise ValueError(one_line(error)) from None
    return pixels if int(data.get("NumberOfFrames") or 1) > 1 else pixels.reshape(pixels.shape[-2:])

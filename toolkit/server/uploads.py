"""Uploaded files: kept in a private folder under generated names until they are read, then deleted."""

from __future__ import annotations

import math
import shutil
import warnings
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gstk.cases.label_maps import NamedLabels, read_label_map
from gstk.cases.npz import Case, CaseWarning
from gstk.cases.volumes import case_name, read_any
from gstk.core.drafts import make_temporary_folder
from gstk.errors import CaseError, GstkError

__all__ = ["Upload"]

MAX_FILES = 5000
MAX_NAME = 200
_VOLUMES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha", ".npz")
_HEADERS_ALONE = (".nhdr", ".mhd", ".raw", ".zraw")
_HEADER_BYTES = 64 * 2**10
_DICOM_RATIO = 3
"""Lossless compression of slices makes them two to three times as small."""


class Upload:
    """The files of one volume: a file of a known format, or DICOM slices."""

    def __init__(self, limit_bytes: int) -> None:
        """Makes a folder that only this user may look into.

        Args:
            limit_bytes: of all files together, and of what they unpack to.
        """
        self._folder = make_temporary_folder()
        self._limit_bytes, self._bytes = limit_bytes, 0
        self._names: list[str] = []
        self._files: list[Path] = []

    async def add(self, name: str, parts: AsyncIterator[bytes]) -> None:
        """Takes a file.

        Args:
            name: as the user calls it; only its suffix is used.
            parts: its bytes.

        Raises:
            CaseError: its format needs a second file, or there are too many files or bytes.
        """
        name = name.replace("\\", "/").rpartition("/")[2][-MAX_NAME:] or "scan"
        lower = name.lower()
        if lower.endswith(_HEADERS_ALONE):
            raise CaseError(f"got {name!r}, whose data lie in a second file; expected one file, such as .nrrd or .mha")
        if len(self._files) >= MAX_FILES:
            raise CaseError(f"got more than {MAX_FILES} files, expected the slices of one series")
        suffix = next((known for known in _VOLUMES if lower.endswith(known)), ".dcm")
        file = self._folder / f"{len(self._files):05d}{suffix}"
        with file.open("xb") as stream:
            async for part in parts:
                self._bytes += len(part)
                if self._bytes > self._limit_bytes:
                    raise CaseError(f"got files of more than {self._limit_bytes / 1e9:.1f} GB, expected at most that")
                stream.write(part)
        self._files.append(file)
        self._names.append(name)

    def stated_size(self) -> tuple[int, np.dtype[np.generic]]:
        """How many voxels the headers state, and of what dtype; for DICOM and .npz at most, by the files' sizes.

        Raises:
            CaseError: as `read`.
        """
        volumes = self._volumes()
        if not volumes:
            return self._bytes * _DICOM_RATIO // 2, np.dtype(np.int16)
        try:
            return self._check_before_reading(volumes[0])
        except GstkError as error:
            raise CaseError(self._without_paths(str(error))) from None

    def _volumes(self) -> list[Path]:
        """The volume, or nothing where there are DICOM slices."""
        if not self._files:
            raise CaseError("got no file, expected a scan: NIfTI, NRRD, MetaImage, .npz or DICOM slices")
        volumes = [file for file in self._files if file.suffix != ".dcm"]
        if volumes and len(self._files) > 1:
            raise CaseError(f"got {len(self._files)} files, expected one volume, or DICOM slices alone")
        return volumes

    def read(self) -> tuple[Case, list[str], list[Any]]:
        """The case, what is odd about it, and the DICOM headers of its slices where it came as DICOM with pydicom here.

        Raises:
            CaseError: there is no file, or it cannot be read; the message does not show the folder.
        """
        volumes = self._volumes()
        is_dicom = not volumes
        try:
            if volumes:
                self._check_before_reading(volumes[0])
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", CaseWarning)
                case = read_any(self._folder if is_dicom else volumes[0])
            headers = _headers(case.slice_files)
        except GstkError as error:
            raise CaseError(self._without_paths(str(error))) from None
        name = case_name(self._names[0])
        if is_dicom:
            name = _series_name(headers or _headers(self._files[:1])) or "dicom"
        notes = [self._without_paths(str(warning.message)) for warning in caught]
        # The name alone, without a folder: its suffix says what the values may be.
        return replace(case, name=name, path=Path(self._names[0]) if volumes else None), notes, headers

    def read_labels(self, case: Case) -> NamedLabels:
        """The label map on the grid of a case, and its labels' names.

        Raises:
            CaseError: there is no file, or it cannot be read, holds no label ids or lies elsewhere; the message does
                not show the folder.
        """
        volumes = self._volumes()
        if not volumes:
            raise CaseError("got DICOM slices, expected a mask as one file: NIfTI, NRRD, MetaImage or .npz")
        try:
            self._check_before_reading(volumes[0])
            return read_label_map(volumes[0], case)
        except GstkError as error:
            raise CaseError(self._without_paths(str(error))) from None

    def delete(self) -> None:
        """Deletes the folder and all in it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _check_before_reading(self, file: Path) -> tuple[int, np.dtype[np.generic]]:
        """Refuses files that name other files of this machine as their data, and those that unpack to too much.

        Returns:
            How many voxels the file states, at most, and their dtype.
        """
        unknown = (0, np.dtype(np.uint8))
        if file.suffix == ".npz":
            with suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(file) as archive:
                size_bytes = sum(member.file_size for member in archive.infolist())
                self._check_size(size_bytes)
                return size_bytes, np.dtype(np.uint8)
            return unknown
        with file.open("rb") as stream:
            head = stream.read(_HEADER_BYTES)
        if file.suffix == ".nrrd":
            # Teem, "Definition of NRRD File Format", section 5: the header ends with the first empty line.
            lines = head.replace(b"\r\n", b"\n").partition(b"\n\n")[0].lower().split(b"\n")
            if any(line.replace(b" ", b"").startswith(b"datafile:") for line in lines):
                raise CaseError("got a .nrrd file whose data lie in another file, expected them in the file itself")
        if file.suffix == ".mha":
            fields = [line.partition(b"=") for line in head.split(b"\n")]
            data = next((value.strip() for key, _, value in fields if key.strip() == b"ElementDataFile"), b"")
            if data != b"LOCAL":
                raise CaseError("got an .mha file whose data lie in another file, expected them in the file itself")
        import SimpleITK

        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return unknown  # `read_any` says why it cannot be read
        voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        self._check_size(voxels)
        one_voxel = SimpleITK.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
        return voxels, SimpleITK.GetArrayViewFromImage(one_voxel).dtype

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise CaseError(
                f"got a volume of {size_bytes / 1e9:.1f} GB or more, expected at most {self._limit_bytes / 1e9:.1f} GB"
            )

    def _without_paths(self, message: str) -> str:
        shown = message.replace(f"{self._folder}/", "").replace(str(self._folder), "the files")
        for file, name in zip(self._files, self._names, strict=True):
            shown = shown.replace(file.name, name).replace(case_name(file), case_name(name))
        return shown.replace(self._folder.name, "the files")


def _headers(files: Sequence[Path]) -> list[Any]:
    """Headers of the DICOM slices that were read; none where pydicom is not installed or a file is not for it."""
    try:
        import pydicom

        return [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    except Exception:  # pydicom raises many kinds for broken files
        return []


def _series_name(headers: list[Any]) -> str:
    words = [str(getattr(headers[0], tag, "") or "") for tag in ("Modality", "SeriesDescription")] if headers else []
    kept = "_".join("".join(c if c.isalnum() else "_" for c in word).strip("_") for word in words if word)
    return kept[:60]

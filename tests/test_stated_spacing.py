"""Spacings that a header does not state, or states twice: said, whatever the format."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import write_stack

from gstk.cases.npz import Case
from gstk.cases.volumes import read_volume
from gstk.errors import CaseError

VOXELS = np.random.default_rng(0).integers(-900, 1000, (6, 10, 12)).astype(np.int16)
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{}DimSize = 12 10 6\n"
    "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 12 10 6\n{}endian: little\nencoding: raw\n\n"


def said(file: Path) -> tuple[Case, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case = read_volume(file)
    return case, " | ".join(str(w.message) for w in caught)


def nifti(file: Path, pixdim: tuple[float, float, float], sform_mm: float | None) -> Path:
    image = nibabel.Nifti1Image(VOXELS.T, None)
    image.header.set_sform(np.diag([sform_mm or 1.0] * 3 + [1.0]), 0 if sform_mm is None else 1)
    image.header["qform_code"] = 0
    nibabel.save(image, file)
    content = bytearray(file.read_bytes())
    content[80:92] = np.array(pixdim, "<f4").tobytes()
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("text", ["", "spacings: 2 2 nan\n"])
def test_nrrd_without_a_spacing(tmp_path: Path, text: str) -> None:
    (tmp_path / "ct.nrrd").write_bytes(NRRD.format(text).encode() + VOXELS.tobytes())
    case, words = said(tmp_path / "ct.nrrd")
    assert case.geometry.spacing_mm[0] == 1
    assert "does not state its spacing along every axis; 1 mm is assumed" in words
    (tmp_path / "ct.nrrd").write_bytes(NRRD.format("spacings: 2 2 3\n").encode() + VOXELS.tobytes())
    case, words = said(tmp_path / "ct.nrrd")
    assert (case.geometry.spacing_mm, words) == ((3, 2, 2), "")


def test_metaimage_without_a_spacing(tmp_path: Path) -> None:
    (tmp_path / "ct.mha").write_bytes(META.format("").encode() + VOXELS.tobytes())
    assert "does not state its spacing along every axis; 1 mm is assumed" in said(tmp_path / "ct.mha")[1]
    (tmp_path / "ct.mha").write_bytes(META.format("ElementSpacing = 1 1 2\n").encode() + VOXELS.tobytes())
    case, words = said(tmp_path / "ct.mha")
    assert (case.geometry.spacing_mm, words) == ((2, 1, 1), "")


def test_nifti_without_a_spacing(tmp_path: Path) -> None:
    case, words = said(nifti(tmp_path / "ct.nii", (0.8, 0.8, 0), None))
    np.testing.assert_allclose(case.geometry.spacing_mm, (1, 0.8, 0.8))
    assert words == "ct.nii states no spacing along z; 1 is assumed"


def test_an_sform_whose_voxels_have_another_size_than_the_header_states(tmp_path: Path) -> None:
    """ITK 3514: rows of length 1 beside a pixdim of 0.865; ITK refuses it, others take one or the other."""
    case, words = said(nifti(tmp_path / "ct.nii", (0.865, 0.865, 0.796), 1.0))
    assert case.geometry.spacing_mm == (1, 1, 1)
    expected = "has voxels of (1, 1, 1) along (x, y, z), its pixdim states (0.865, 0.865, 0.796); the sform is taken"
    assert expected in words
    assert said(nifti(tmp_path / "ct.nii", (0.865, 0.865, 0.865), 0.865))[1] == ""


def test_a_dicom_segmentation_is_no_image(tmp_path: Path) -> None:
    """ITK-Wasm 991: its frames are read as slices. Beside an image, even a smaller one, it is not taken."""
    write_stack(tmp_path / "seg", np.ones((9, 10, 12), np.uint16), Modality="SEG", SeriesInstanceUID="1.2.9")
    for is_label_map in (False, True):
        with pytest.raises(CaseError, match=r"got a DICOM segmentation \(SEG\) in im000.dcm .*; convert it to NIfTI"):
            read_volume(tmp_path / "seg", is_label_map=is_label_map)
    write_stack(tmp_path / "seg", VOXELS.view(np.uint16), names="ct{:03}.dcm")
    np.testing.assert_array_equal(said(tmp_path / "seg")[0].image, VOXELS.view(np.uint16))

"""Files that do not say how the patient lies: their axes count as RAS, and that is said."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import gstk
from gstk.core.network_image import NetworkImage
from gstk.core.profile import find_profile
from gstk.core.volume import VolumeWarning

IMAGE = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6) - 1000
NRRD = "NRRD0004\ntype: short\ndimension: 3\n{}sizes: 6 5 4\nendian: little\nencoding: raw\n\n"
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{}ElementSpacing = 1 1 1\n"
    "DimSize = 6 5 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
WITHOUT = {
    "plain.nrrd": NRRD.format("spacings: 1 1 1\n"),
    "unnamed.nrrd": NRRD.format("space dimension: 3\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"),
    "scanner.nrrd": NRRD.format("space: scanner-xyz\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"),
    "plain.mha": META.format(""),
}
STATED = {
    "named.nrrd": NRRD.format("space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"),
    "short.nrrd": NRRD.format("space: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"),
    "with.mha": META.format("TransformMatrix = 1 0 0 0 1 0 0 0 1\n"),
}


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".nii.gz"):
        image = nibabel.Nifti1Image(IMAGE.transpose(2, 1, 0), np.eye(4))
        image.set_sform(np.eye(4), code=2 if name == "stated.nii.gz" else 0)
        image.set_qform(np.eye(4), code=0)
        nibabel.save(image, path)
    else:
        path.write_bytes({**WITHOUT, **STATED}[name].encode() + IMAGE.tobytes())
    return path


@pytest.mark.parametrize("name", [*WITHOUT, "without.nii.gz"])
def test_axes_without_a_patient_count_as_ras_and_that_is_said(tmp_path: Path, name: str) -> None:
    volume = gstk.read_volume(written(tmp_path, name))
    assert not volume.has_orientation
    with pytest.warns(VolumeWarning, match="does not say how the patient lies: its axes count as right, front"):
        image = NetworkImage.prepare(volume, find_profile("nv-segment-ct"), assume_window="hu")
    np.testing.assert_array_equal(image.axes.to_network(volume.image), IMAGE.transpose(2, 1, 0))


@pytest.mark.parametrize("name", [*STATED, "stated.nii.gz"])
def test_stated_axes_are_taken(tmp_path: Path, name: str) -> None:
    volume = gstk.read_volume(written(tmp_path, name))
    assert volume.has_orientation
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="does not say how")
        image = NetworkImage.prepare(volume, find_profile("nv-segment-ct"), assume_window="hu")
    expected = IMAGE.transpose(2, 1, 0)
    if not name.endswith(".nii.gz"):  # LPS: right and front are against the axes
        expected = expected[::-1, ::-1]
    np.testing.assert_array_equal(image.axes.to_network(volume.image), expected)


def test_what_itk_writes_states_its_axes(tmp_path: Path) -> None:
    for name in ("a.nrrd", "a.nhdr", "a.mha", "a.mhd"):
        sitk.WriteImage(sitk.GetImageFromArray(IMAGE), str(tmp_path / name))
        assert gstk.read_volume(tmp_path / name).has_orientation, name


def test_profiles_of_stored_axes_say_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not say how")
        NetworkImage.prepare(gstk.read_volume(written(tmp_path, "plain.nrrd")), find_profile("tiny"))

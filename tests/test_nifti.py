"""NIfTI against nibabel: voxels, places, and masks that lie on their images."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat

from gstk.cases.nifti import read_nifti, write_nifti
from gstk.cases.npz import CaseWarning
from gstk.cases.volumes import read_volume, write_case_mask, write_mask
from gstk.core.geometry import Geometry
from gstk.errors import CaseError

VOXELS = np.random.default_rng(0).integers(-900, 1000, (6, 5, 4)).astype(np.int16)  # (x, y, z), as nibabel has them
MASK = (VOXELS.T > 0).astype(np.uint8)
SIZES = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}


def lps(affine: np.ndarray) -> np.ndarray:
    """nibabel's affine of (x, y, z) in RAS, as gstk's of (z, y, x) in LPS."""
    return (np.diag([-1, -1, 1, 1]) @ affine)[:, [2, 1, 0, 3]]


def turned(angles: tuple[float, float, float] = (0.3, -0.2, 0.7), mirror: bool = False) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(*angles) @ np.diag([0.7, 0.8, -2.5 if mirror else 2.5])
    affine[:3, 3] = 10, -20, 35
    return affine


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_voxels_of_every_type_and_byte_order(tmp_path: Path, kind: int, dtype: str) -> None:
    values = VOXELS.astype(dtype)
    for order in "<>":
        header = SIZES[kind].header_class(endianness=order)
        header.set_data_dtype(dtype)
        nibabel.save(SIZES[kind](values, turned(), header, dtype=dtype), tmp_path / "a.nii.gz")
        array, geometry, _ = read_nifti(tmp_path / "a.nii.gz")
        assert array.dtype == np.dtype(dtype)
        assert array.flags.writeable
        np.testing.assert_array_equal(array, values.T)
        np.testing.assert_allclose(geometry.affine, lps(turned()), atol=1e-5)


@settings(max_examples=40)
@given(
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.booleans(),
    st.sampled_from(["sform", "qform", "both"]),
    st.sampled_from(sorted(SIZES)),
)
def test_places_are_nibabels(
    tmp_path_factory: pytest.TempPathFactory, angles: tuple[float, float, float], mirror: bool, forms: str, kind: int
) -> None:
    file = tmp_path_factory.mktemp("a") / "a.nii"
    image = SIZES[kind](VOXELS, None)
    image.set_sform(turned(angles, mirror), int(forms != "qform"))
    image.set_qform(turned(angles, mirror), int(forms != "sform"))
    nibabel.save(image, file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case = read_volume(file)
    np.testing.assert_allclose(case.geometry.affine, lps(nibabel.load(file).affine), atol=2e-5)
    write_case_mask(file.with_name("mask.nii"), MASK, case)
    mask = nibabel.load(file.with_name("mask.nii"))
    np.testing.assert_array_equal(mask.affine, nibabel.load(file).affine)
    written = file.with_name("fresh.nii")
    write_nifti(written, MASK, case.geometry)
    np.testing.assert_allclose(nibabel.load(written).affine, mask.affine, atol=2e-5)
    read = SimpleITK.ReadImage(str(written))
    np.testing.assert_allclose(Geometry.from_sitk(read).affine, case.geometry.affine, atol=1e-4)


def same_but_for_the_voxels(first: Path, second: Path) -> set[str]:
    one, other = (nibabel.load(file).header for file in (first, second))
    return {key for key in one if not np.array_equal(one[key], other[key])}


def test_a_mask_carries_its_images_header(tmp_path: Path) -> None:
    q, s = np.diag([0.9, 0.9, 2.5, 1.0]), np.diag([0.9, 0.9, 2.5, 1.0])
    s[:3, 3] = 10, -5, 3
    both = nibabel.Nifti1Image(VOXELS, None)
    both.set_qform(q, 1)
    both.set_sform(s, 2)
    both.header.set_intent("estimate", name="what it is")
    both.header["descrip"] = b"of a scanner"
    neither = nibabel.Nifti1Image(VOXELS, None)
    neither.header.set_zooms((0.9, 0.9, 2.5))
    neither.set_qform(None, 0)
    neither.set_sform(None, 0)
    micron = nibabel.Nifti1Image(VOXELS, np.diag([500, 500, 2000, 1]))
    micron.header.set_xyzt_units("micron", "msec")
    scaled = nibabel.Nifti1Image(VOXELS.astype(np.float64) * 1.5, q)
    scaled.header.set_data_dtype(np.int16)
    four = nibabel.Nifti1Image(VOXELS[..., None], q)
    for name, image in {"both": both, "neither": neither, "micron": micron, "scaled": scaled, "four": four}.items():
        file, mask = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_mask.nii.gz"
        nibabel.save(image, file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case = read_volume(file)
        assert [str(w.message) for w in caught] == (
            [
                "the sform and the qform of both.nii.gz put it up to 11.6 mm apart; its place is taken by the sform "
                "(code 2), and its mask carries both"
            ]
            if name == "both"
            else []
        )
        write_case_mask(mask, MASK * 3, case)
        read = nibabel.load(mask)
        np.testing.assert_array_equal(read.affine, nibabel.load(file).affine)
        assert np.asarray(read.dataobj).shape == nibabel.load(file).shape
        np.testing.assert_array_equal(np.asarray(read.dataobj).squeeze().T, MASK * 3)
        assert same_but_for_the_voxels(file, mask) <= {"datatype", "bitpix", "scl_slope", "scl_inter", "vox_offset"}
        if name not in ("both", "four"):  # ITK has its own way to choose, and sees four axes
            lies = [Geometry.from_sitk(SimpleITK.ReadImage(str(f))) for f in (file, mask)]
            assert lies[0] == lies[1]
    assert read_volume(tmp_path / "micron.nii.gz").geometry.volume_mm3 == pytest.approx(0.5)
    assert read_volume(tmp_path / "scaled.nii.gz").image.dtype == np.float32
    np.testing.assert_allclose(
        read_volume(tmp_path / "scaled.nii.gz").image, nibabel.load(tmp_path / "scaled.nii.gz").get_fdata().T, rtol=1e-6
    )


def test_big_endian_masks_and_many_labels(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(VOXELS, turned(), header), tmp_path / "a.nii")
    case = read_volume(tmp_path / "a.nii")
    write_case_mask(tmp_path / "m.nii", MASK.astype(np.uint16) * 700, case)
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "m.nii").dataobj).T, MASK.astype(np.uint16) * 700)
    assert nibabel.load(tmp_path / "m.nii").header.endianness == ">"


def test_a_side_beyond_nifti_1(tmp_path: Path) -> None:
    geometry = Geometry((1, 1, 40000), (1, 1, 1))
    write_mask(tmp_path / "long.nii", np.ones(geometry.shape, np.uint8), geometry)
    assert nibabel.load(tmp_path / "long.nii").shape == (40000, 1, 1)


def test_voxels_that_are_no_numbers_become_0_with_a_word(tmp_path: Path) -> None:
    values = VOXELS.astype(np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, np.inf
    nibabel.save(nibabel.Nifti1Image(values, turned()), tmp_path / "nan.nii")
    with pytest.warns(CaseWarning, match=r"2 voxels of nan\.nii are NaN or infinity; they are taken as 0"):
        image = read_volume(tmp_path / "nan.nii").image
    assert image[0, 0, 0] == image[1, 1, 1] == 0


def test_a_gzip_checksum_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    """The voxels are all there when the checksum comes, so a reader that stops behind them never sees it."""
    write_mask(tmp_path / "a.nii.gz", MASK, Geometry(MASK.shape, (1.0, 1.0, 1.0)))
    data = bytearray((tmp_path / "a.nii.gz").read_bytes())
    data[-6] ^= 255
    (tmp_path / "a.nii.gz").write_bytes(data)
    with pytest.raises(CaseError, match=r"CRC|damaged"):
        read_volume(tmp_path / "a.nii.gz")


def test_headers_that_lie(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    image = nibabel.Nifti1Image(VOXELS, turned())
    image.set_qform(turned(), 1)
    nibabel.save(image, tmp_path / "a.nii")
    whole = (tmp_path / "a.nii").read_bytes()

    def says(at: int, layout: str, *values: object) -> None:
        header = bytearray(whole)
        struct.pack_into(layout, header, at, *values)
        file.write_bytes(bytes(header))

    says(42, "<3h", 30000, 30000, 30000)
    with pytest.raises(CaseError, match="truncated"):
        read_nifti(file)
    for at, layout, value, said in (
        (70, "<h", 128, "got 3 values a voxel"),
        (70, "<h", 32, "got complex numbers"),
        (70, "<h", 77, "got the unknown data type 77"),
        (108, "<f", 3.0, "got voxels at byte 3"),
        (108, "<f", float("nan"), "got voxels at byte nan"),
        (344, "<4s", b"ni1\0", "no NIfTI file with its voxels inside"),
        (42, "<h", 0, "got the 3-D size"),
        (42, "<h", -4, "got the 3-D size"),
        (280, "<f", float("nan"), None),
    ):
        says(at, layout, value)
        if said:
            with pytest.raises(CaseError, match=said):
                read_nifti(file)
        else:
            with pytest.warns(CaseWarning, match=r"the sform of a\.nii\.gz is not finite, or has no volume"):
                np.testing.assert_allclose(read_nifti(file)[1].affine, lps(turned()), atol=1e-5)

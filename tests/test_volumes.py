"""Volumes against SimpleITK's own reading and writing; the files here are written by SimpleITK."""

import gzip
import multiprocessing
import os
import re
import resource
import shutil
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_files import write_stack

from gstk.cases import dicom
from gstk.cases.npz import CaseWarning
from gstk.cases.volumes import (
    VOLUME_SUFFIXES,
    case_name,
    find_cases,
    is_volume,
    read_any,
    read_volume,
    write_case_mask,
    write_mask,
)
from gstk.core.geometry import Geometry
from gstk.errors import CaseError, OutputError

ROTATED = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
GEOMETRY = Geometry((4, 5, 6), (2.5, 0.75, 0.5), (-10, 20.5, 30), ROTATED)
NOISE = np.random.default_rng(0).integers(-1024, 2000, GEOMETRY.shape)


def write(path: Path, array: np.ndarray, geometry: Geometry = GEOMETRY) -> Path:
    image = SimpleITK.GetImageFromArray(array, isVector=False)
    if array.ndim == 3:
        geometry.apply_to(image)
    SimpleITK.WriteImage(image, str(path))
    return path


def write_series(
    folder: Path, slices: int, uid: str, modality: str = "CT", first_z: float = 0, names: str = "{:03}.dcm"
) -> Path:
    """A DICOM series of constant slices whose value is 100 + the slice's number; spacing (2, 0.5, 0.5) mm."""
    folder.mkdir(exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(slices):
        image = SimpleITK.Image(8, 7, SimpleITK.sitkInt16) + 100 + index
        image.SetSpacing((0.5, 0.5))
        for tag, value in {
            "0008|0060": modality,
            "0008|0018": f"{uid}.{index + 1}",
            "0020|000e": uid,
            "0020|000d": "1.2.3",
            "0020|0013": str(index),
            "0018|0050": "2",
            "0020|0032": f"0\\0\\{first_z + 2 * index}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / names.format(slices - index)))  # the names run against the positions
        writer.UseCompressionOff()
        writer.SetImageIO("GDCMImageIO")
        writer.Execute(image)
    return folder


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_formats_keep_voxels_dtype_and_geometry(tmp_path: Path, suffix: str, dtype: type) -> None:
    file = write(tmp_path / f"ct.1{suffix}", NOISE.astype(dtype))
    case = read_volume(file)
    assert (case.name, case.path, case.modality, case.prompts) == ("ct.1", file, None, {})
    assert case.image.dtype == dtype
    np.testing.assert_array_equal(case.image, NOISE.astype(dtype))
    assert case.geometry.shape == GEOMETRY.shape
    np.testing.assert_allclose(case.geometry.affine, GEOMETRY.affine, atol=1e-5)  # NIfTI holds single precision


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
@pytest.mark.parametrize(("top", "dtype"), [(7, "u1"), (300, "u2")])
def test_masks_lie_where_the_image_does(tmp_path: Path, suffix: str, top: int, dtype: str) -> None:
    image = SimpleITK.ReadImage(str(write(tmp_path / f"image{suffix}", NOISE.astype(np.int16))))
    mask = np.zeros(GEOMETRY.shape, np.int64)
    mask[1, 2, 3] = top
    write_mask(tmp_path / f"mask{suffix}", mask, read_volume(tmp_path / f"image{suffix}").geometry)
    written = SimpleITK.ReadImage(str(tmp_path / f"mask{suffix}"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), mask)
    assert SimpleITK.GetArrayFromImage(written).dtype == dtype
    np.testing.assert_allclose(Geometry.from_sitk(written).affine, Geometry.from_sitk(image).affine, atol=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_masks_that_cannot_be_written(tmp_path: Path) -> None:
    mask = np.ones(GEOMETRY.shape, np.uint8)
    with pytest.raises(OutputError, match=r"got the suffix '\.png' for a\.png, expected \.nii\.gz"):
        write_mask(tmp_path / "a.png", mask, GEOMETRY)
    with pytest.raises(OutputError, match=r"got shape \(4, 5, 5\) for the mask, expected \(4, 5, 6\)"):
        write_mask(tmp_path / "a.nii", mask[..., 1:], GEOMETRY)
    with pytest.raises(OutputError, match=r"cannot write .*a\.nii"):
        write_mask(tmp_path / "none" / "a.nii", mask, GEOMETRY)
    (tmp_path / "a.nrrd").mkdir()
    with pytest.raises(OutputError, match=r"cannot write [^\n]*$"):
        write_mask(tmp_path / "a.nrrd", mask, GEOMETRY)
    assert [child.name for child in tmp_path.iterdir()] == ["a.nrrd"]


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_masks_hold_sheared_axes(tmp_path: Path, suffix: str) -> None:
    sheared = Geometry((2, 3, 4), (1, 1, 1), (5, 6, 7), (1, 0, 0, 0, 1, 0.6, 0, 0, 0.8))
    file = tmp_path / f"a{suffix}"
    write_mask(file, np.ones((2, 3, 4), np.uint8), sheared)
    if suffix != ".nii":
        np.testing.assert_allclose(Geometry.from_sitk(SimpleITK.ReadImage(str(file))).affine, sheared.affine)
        return
    lps = np.diag([-1, -1, 1, 1]) @ nibabel.load(file).affine
    np.testing.assert_allclose(lps[:, [2, 1, 0, 3]], sheared.affine, atol=1e-6)
    with pytest.raises(RuntimeError, match="orthonormal"):  # rather than a mask at a wrong place
        SimpleITK.ReadImage(str(file))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_sheared_volumes_are_resampled_and_their_masks_given_back(tmp_path: Path, suffix: str) -> None:
    z, y, x = np.indices((24, 40, 48))
    organ = ((z - 11) / 5) ** 2 + ((y - 16) / 8) ** 2 + ((x - 30) / 8) ** 2 < 1
    turned = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0.26], [0, 0, 0.966]])
    image = np.where(organ, 160, 40).astype(np.int16)
    sheared = Geometry(organ.shape, (2.5, 0.9, 0.8), (5, 6, 7), tuple(turned.ravel()))
    file = tmp_path / f"a{suffix}"
    if suffix == ".nii.gz":
        affine = np.diag([-1, -1, 1, 1]) @ sheared.affine[:, [2, 1, 0, 3]]
        nibabel.save(nibabel.Nifti1Image(image.T, affine), file)
    else:
        write(file, image, sheared)
    with pytest.warns(
        CaseWarning, match=r"are up to 15.1 degrees off right angles, as with a gantry tilt; it is resampled"
    ):
        case = read_volume(file)
    axes = np.reshape(case.geometry.direction, (3, 3))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    centre = sheared.voxel_to_mm(np.argwhere(organ)).mean(axis=0)
    np.testing.assert_allclose(case.geometry.voxel_to_mm(np.argwhere(case.image > 100)).mean(axis=0), centre, atol=0.2)
    mask = tmp_path / f"mask{suffix}"
    write_case_mask(mask, case.image > 100, case)
    if suffix == ".nii.gz":
        written = nibabel.load(mask)
        np.testing.assert_array_equal(written.affine, nibabel.load(file).affine)
        restored = np.asarray(written.dataobj).T > 0
    else:
        read = SimpleITK.ReadImage(str(mask))
        np.testing.assert_allclose(Geometry.from_sitk(read).affine, sheared.affine, atol=1e-6)
        restored = SimpleITK.GetArrayFromImage(read) > 0
    assert 2 * (restored & organ).sum() / (restored.sum() + organ.sum()) > 0.96
    labels = read_volume(mask, is_label_map=True).image if suffix != ".nii.gz" else restored
    assert set(np.unique(labels)) == {0, 1}


def test_slight_shear_is_taken_and_said(tmp_path: Path) -> None:
    for name, off, said in (("none", 5e-5, None), ("slight", 9e-4, "0.05.* degrees off right angles; they are taken")):
        affine = np.diag([0.9, 0.9, 2.5, 1])
        affine[1, 2] = off * 2.5
        nibabel.save(nibabel.Nifti1Image(NOISE.astype(np.int16), affine), tmp_path / f"{name}.nii")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case = read_volume(tmp_path / f"{name}.nii")
        assert [re.search(str(said), str(w.message)) is not None for w in caught] == [True] * (said is not None)
        assert case.slices is None
        write_case_mask(tmp_path / "m.nii", case.image > 0, case)
        np.testing.assert_array_equal(
            nibabel.load(tmp_path / "m.nii").affine, nibabel.load(tmp_path / f"{name}.nii").affine
        )
    affine = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(NOISE.astype(np.int16), affine), tmp_path / "rows.nii")
    with pytest.raises(CaseError, match=r"resample it to axes at right angles, for example with nibabel.processing"):
        read_volume(tmp_path / "rows.nii")


def test_a_disk_that_is_full_is_an_error_in_every_format(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: writes past it fail."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 40, 50))
    cube = Geometry(noise.shape, (1, 1, 1))
    for suffix in VOLUME_SUFFIXES:
        file = tmp_path / f"mask{suffix}"
        write_mask(file, np.zeros_like(noise), cube)
        stood = {child.name: child.read_bytes() for child in tmp_path.iterdir()}
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        try:
            with pytest.raises(OutputError, match=rf"cannot write .*mask\{suffix}: (File too large|.*written to it)"):
                write_mask(file, noise, cube)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert {child.name: child.read_bytes() for child in tmp_path.iterdir()} == stood


@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd", ".nhdr", ".mha", ".mhd"])
def test_no_byte_of_what_was_written_is_missing(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ITK reads a compressed stream that lacks its end, with the checksum; other readers do not."""
    write_whole = SimpleITK.WriteImage
    cut = {"bytes": 0}

    def write_most(image: SimpleITK.Image, path: str, **options: object) -> None:
        write_whole(image, path, **options)
        largest = max(Path(path).parent.iterdir(), key=lambda file: file.stat().st_size)
        os.truncate(largest, largest.stat().st_size - cut["bytes"])

    monkeypatch.setattr(SimpleITK, "WriteImage", write_most)
    noise = np.random.default_rng(0).integers(0, 300, (20, 40, 50))  # a long header, where it names segments
    for cut["bytes"] in (12, 9, 4, 1):
        with pytest.raises(OutputError, match="does not hold what was written to it"):
            write_mask(tmp_path / f"mask{suffix}", noise, Geometry(noise.shape, (1, 1, 1)))
        assert not list(tmp_path.iterdir())
    cut["bytes"] = 0
    write_mask(tmp_path / f"mask{suffix}", noise, Geometry(noise.shape, (1, 1, 1)))


def test_more_axes_and_channels(tmp_path: Path) -> None:
    for suffix in (".nii", ".nrrd", ".mha"):
        write(tmp_path / f"one{suffix}", NOISE[None].astype(np.int16))
        np.testing.assert_array_equal(read_volume(tmp_path / f"one{suffix}").image, NOISE)
        write(tmp_path / f"time{suffix}", np.stack([NOISE, NOISE]).astype(np.int16))
        with pytest.raises(CaseError, match=r"got the 4-D size .*\(6, 5, 4, 2\) in time\.\w+, expected 3-D"):
            read_volume(tmp_path / f"time{suffix}")
        write(tmp_path / f"flat{suffix}", NOISE[0].astype(np.int16))
        with pytest.raises(CaseError, match="got the 2-D size"):
            read_volume(tmp_path / f"flat{suffix}")
        vectors = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
        SimpleITK.WriteImage(vectors, str(tmp_path / f"rgb{suffix}"))
        with pytest.raises(CaseError, match="got 3 values a voxel"):
            read_volume(tmp_path / f"rgb{suffix}")


def test_damaged_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    array = np.random.default_rng(0).normal(size=(20, 20, 20))
    cube = Geometry(array.shape, (1, 1, 1))
    for suffix in VOLUME_SUFFIXES:
        file = write(tmp_path / f"a{suffix}", array, cube)
        largest = max(tmp_path.glob("a.*"), key=lambda child: child.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 2)
        with pytest.raises(CaseError, match=rf"a{suffix}") as caught:
            read_volume(file)
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)
        for child in tmp_path.glob("a.*"):
            child.unlink()
        file.write_bytes(b"garbage")
        with pytest.raises(CaseError, match=r"cannot read [^\n]*a\.\w+[^\n]*$"):
            read_volume(file)
        file.unlink()
    assert "WARNING" not in capfd.readouterr().err
    write(tmp_path / "nan.nrrd", np.full(GEOMETRY.shape, np.nan))
    with pytest.raises(CaseError, match=r"got 120 voxels of NaN or infinity in the image of nan\.nrrd"):
        read_volume(tmp_path / "nan.nrrd")


def test_a_dicom_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series.1", 4, "1.9.1", first_z=-10)
    case = read_volume(folder)
    assert (case.name, case.modality) == ("series.1", "CT")
    assert case.image.dtype == np.int16
    assert case.image[:, 0, 0].tolist() == [100, 101, 102, 103]  # by position, not by file name
    assert case.geometry == Geometry((4, 7, 8), (2, 0.5, 0.5), (0, 0, -10))
    one_file = read_volume(folder / "002.dcm")
    assert one_file.name == "002"
    np.testing.assert_array_equal(one_file.image, case.image)


def test_one_dicom_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    # In a process that has read a series, ITK writes a spacing between slices of 1 mm into the next file.
    with multiprocessing.get_context("spawn").Pool(1) as fresh:
        folder = fresh.apply(write_series, (tmp_path / "one", 1, "1.9.1"))
    with pytest.warns(CaseWarning, match=r"one is one slice; its z spacing of 2 mm is its slice thickness"):
        case = read_volume(folder)
    assert case.geometry.spacing_mm == (2, 0.5, 0.5)


def test_several_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", 3, "1.9.1", names="a{}")
    write_series(folder, 5, "1.9.2", "MR", names="b{}")
    with pytest.warns(
        CaseWarning, match=r"ct holds 2 DICOM series; took 1\.9\.2 \(5 slices\), not 1\.9\.1 \(3 slices\)"
    ):
        case = read_volume(folder)
    assert case.image.shape[0] == 5
    assert case.modality == "MR"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_volume(folder / "a2").image.shape[0] == 3


def test_slices_that_are_missing_or_damaged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_series(tmp_path / "gap", 5, "1.9.1")
    (folder / "003.dcm").unlink()
    with pytest.warns(CaseWarning, match=r"the 4 slices of gap are not evenly spaced: a slice may be missing"):
        read_volume(folder)
    folder = write_series(tmp_path / "damaged", 5, "1.9.1")
    os.truncate(folder / "005.dcm", 300)
    with pytest.warns(
        CaseWarning, match=r"1 DICOM files of damaged cannot be read as images and are left out, 005\.dcm"
    ):
        assert read_volume(folder).image.shape[0] == 4
    for file in folder.iterdir():
        os.truncate(file, 300)
    with pytest.raises(CaseError, match="holds no DICOM image that can be decoded"):
        read_volume(folder)
    assert capfd.readouterr().err == ""


def test_what_is_a_volume(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", 2, "1.9.1", names="IM{}")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert is_volume(series)
    assert is_volume(series / "IM1")
    assert is_volume("anything.NII.GZ")
    assert not is_volume(tmp_path)
    assert not is_volume(tmp_path / "notes.txt")
    assert not is_volume(tmp_path / "none.txt")
    assert not is_volume("case.npz")


def test_case_names() -> None:
    named = {"a/ct.nii.gz": "ct", "ct.NRRD": "ct", "x.1.npz": "x.1", "series.2": "series.2", "IM1.dcm": "IM1"}
    assert {path: case_name(path) for path in named} == named


def test_finding_cases(tmp_path: Path) -> None:
    for name in ("b.npz", "a.nii.gz", "sub/c.mhd", "sub/c.raw", "sub/notes.txt", ".hidden/d.npz", ".e.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 200)
    series = write_series(tmp_path / "sub" / "series", 2, "1.9.1")
    everything = [tmp_path / "a.nii.gz", tmp_path / "b.npz", tmp_path / "sub" / "c.mhd", series]
    assert find_cases(tmp_path) == everything
    assert find_cases([str(tmp_path / "b.npz"), tmp_path]) == [tmp_path / "b.npz", *everything[:1], *everything[2:]]
    assert find_cases(series / "001.dcm") == [series / "001.dcm"]
    (tmp_path / "empty").mkdir()
    for path, message in {
        "none": "does not exist; check the path",
        "empty": "holds no case; expected .npz, .nii.gz",
        "sub/notes.txt": "is of no known format; expected .npz, .nii.gz",
    }.items():
        with pytest.raises(CaseError) as caught:
            find_cases([tmp_path / path])
        assert message in str(caught.value)


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    np.savez(tmp_path / "a.npz", imgs=np.zeros((2, 2, 2)))
    assert find_cases(tmp_path) == [tmp_path / "a.npz"]
    looked = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the administrator, as whom tests may run, may look into all folders
    with pytest.raises(CaseError, match=r"cannot look into .*locked: Permission denied"):
        find_cases(tmp_path)


def test_a_slice_that_may_not_be_read_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_stack(tmp_path / "series", np.arange(60, dtype=np.uint16).reshape(5, 3, 4), names="im{:03}")
    access, read_frames, is_dicom_file = os.access, dicom.read_frames, dicom.is_dicom_file
    locked = folder / "im004"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    monkeypatch.setattr(dicom, "is_dicom_file", lambda file: file != locked and is_dicom_file(file))
    monkeypatch.setattr(dicom, "read_frames", lambda file: [] if file == locked else read_frames(file))
    with pytest.warns(CaseWarning, match="cannot be read as images and are left out, im004 first"):
        assert read_volume(folder).image.shape[0] == 4


def test_read_any(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgs=NOISE.astype(np.int16), spacing=[0.5, 0.75, 2.5])
    write(tmp_path / "b.nrrd", NOISE.astype(np.int16))
    for name in ("a.npz", "b.nrrd"):
        case = read_any(tmp_path / name, "xyz")
        assert case.geometry.spacing_mm == (2.5, 0.75, 0.5)
        np.testing.assert_array_equal(case.image, NOISE)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(CaseError, match=r"a\.txt is of no known format; expected \.npz, \.nii\.gz"):
        read_any(tmp_path / "a.txt")
    with pytest.raises(CaseError, match="holds no DICOM slices; expected"):
        read_any(tmp_path)
    with pytest.raises(CaseError, match="does not exist"):
        read_any(tmp_path / "none.nii")


def test_real_files(shared_data: Path, tmp_path: Path) -> None:
    for name in ("ct_totalseg_sm.nii.gz", "mr_ibsi_sts026_T1.nii.gz", "mr_pyrad_breast1.nrrd"):
        image = SimpleITK.ReadImage(str(shared_data / "raw" / name))
        case = read_volume(shared_data / "raw" / name)
        np.testing.assert_array_equal(case.image, SimpleITK.GetArrayFromImage(image))
        assert case.geometry == Geometry.from_sitk(image)
        write_mask(tmp_path / name, case.image > 100, case.geometry)
        written = Geometry.from_sitk(SimpleITK.ReadImage(str(tmp_path / name)))
        np.testing.assert_allclose(written.affine, case.geometry.affine, rtol=1e-5, atol=1e-4)
    whole = gzip.decompress((shared_data / "raw" / "ct_totalseg_sm.nii.gz").read_bytes())
    (tmp_path / "half.nii").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaseError, match="is truncated"):
        read_volume(tmp_path / "half.nii")


def test_a_real_dicom_series(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "raw" / "dicom_totalseg_ct"
    assert find_cases(shared_data / "raw").count(folder) == 1
    case = read_volume(folder)
    assert (case.modality, case.image.dtype) == ("CT", np.int16)
    assert case.geometry == Geometry((20, 512, 512), (2, 0.9765625, 0.9765625), (-249.51171875, -437.51171875, -804.5))
    np.testing.assert_array_equal(read_volume(next(folder.iterdir())).image, case.image)
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied, copy_function=shutil.copyfile)
    sorted(copied.iterdir())[7].unlink()
    with pytest.warns(CaseWarning, match="not evenly spaced"):
        read_volume(copied)

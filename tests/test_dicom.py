"""DICOM series whose slices differ in what they say; the files are made by pydicom, truths are worked out by hand."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_files import AXIAL, sequence, write_slice, write_stack

from gstk.cases.npz import Case, CaseWarning
from gstk.cases.volumes import read_volume, write_case_mask
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.errors import CaseError, PromptError

SHAPE = (8, 10, 12)
VOLUME = np.random.default_rng(0).integers(-500, 500, SHAPE).astype(np.int16)


def read_quietly(path: Path, **picks: object) -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_volume(path, **picks)  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", [1, -1])
def test_slices_are_ordered_along_their_normal(tmp_path: Path, sign: int) -> None:
    # A sagittal series; numbers and names say nothing of the order.
    order = np.random.default_rng(1).permutation(8)
    positions = [(sign * 2.5 * k, 5, 100) for k in order]
    write_stack(tmp_path / "s", VOLUME[order], positions, ImageOrientationPatient=[0.0, 1, 0, 0, 0, -1])
    case = read_quietly(tmp_path / "s")
    # The normal of (0,1,0) x (0,0,-1) is (-1,0,0).
    np.testing.assert_array_equal(case.image, VOLUME if sign < 0 else VOLUME[::-1])
    for k, position in ((0, positions), (7, positions)):
        lowest = sorted(position, key=lambda p: -p[0])[k]
        np.testing.assert_allclose(case.geometry.voxel_to_mm((k, 0, 0)), lowest)
    assert case.geometry.spacing_mm == (2.5, 0.9, 0.8)


def test_every_slice_has_its_own_slope(tmp_path: Path) -> None:
    truth = np.random.default_rng(2).uniform(0, 2, SHAPE)
    truth[0] = 0
    slopes = [1.0 if k == 0 else float(f"{0.0003 + 1e-5 * k:.6g}") for k in range(8)]
    stored = np.stack([np.rint(truth[k] / slopes[k]) for k in range(8)]).astype(np.uint16)
    write_stack(tmp_path / "pet", stored, Modality="PT", RescaleSlope=slopes, RescaleIntercept=0, Units="BQML")
    case = read_quietly(tmp_path / "pet")
    assert case.image.dtype == np.float32
    np.testing.assert_allclose(case.image, truth, atol=4e-4)
    write_stack(tmp_path / "ct", stored, RescaleSlope=1, RescaleIntercept=[-1024.0, *[-1000.0] * 7])
    case = read_quietly(tmp_path / "ct")
    assert case.image.dtype == np.int16
    np.testing.assert_array_equal(
        case.image[:2].astype(int), stored[:2].astype(int) - np.reshape([1024, 1000], (2, 1, 1))
    )


def test_a_slice_without_slope_and_other_units(tmp_path: Path) -> None:
    write_stack(tmp_path / "some", VOLUME, RescaleSlope=[None, *[2.0] * 7], RescaleIntercept=[None, *[0.0] * 7])
    with pytest.warns(CaseWarning, match="1 of the 8 slices of some state no rescale slope and intercept"):
        read_volume(tmp_path / "some")
    write_stack(tmp_path / "units", VOLUME, Units=["BQML"] * 5 + ["CNTS"] * 3)
    with pytest.warns(CaseWarning, match="holds 2 images; took number 1, 5 slices"):
        assert read_volume(tmp_path / "units").image.shape[0] == 5


def test_positions_of_few_digits_are_even(tmp_path: Path) -> None:
    write_stack(tmp_path / "s", VOLUME, [(-112.3, -98.7, float(f"{33.3 + 0.7 * k:.4g}")) for k in range(8)])
    assert read_quietly(tmp_path / "s").geometry.spacing_mm[0] == pytest.approx(0.7)


def test_a_scout_of_the_same_size_and_one_of_another(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "scout", VOLUME)
    write_slice(
        folder / "a_scout.dcm",
        VOLUME[0],
        ImagePositionPatient=[200, -20, 400],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        InstanceNumber=99,
    )
    write_slice(folder / "b_small.dcm", VOLUME[0, :5, :5].copy(), ImagePositionPatient=[0, 0, 40], InstanceNumber=98)
    with pytest.warns(
        CaseWarning, match=r"holds 3 images; took number 1, 8 slices of 12 x 10, axial, .*2: 1 slice of 5 x 5"
    ):
        case = read_volume(folder)
    np.testing.assert_array_equal(case.image, VOLUME)
    assert case.geometry == Geometry(SHAPE, (2.5, 0.9, 0.8))
    with pytest.warns(CaseWarning, match="is one slice"):
        assert read_volume(folder, phase=3).image.shape == (1, 10, 12)
    with pytest.raises(CaseError, match=r"got the phase 4 of .*scout, expected 1 to 3: 1: 8 slices"):
        read_volume(folder, phase=4)


@pytest.mark.parametrize(
    "tags",
    [
        {"TemporalPositionIdentifier": (1, 2)},
        {"EchoTime": (10.0, 80.0)},
        {"AcquisitionNumber": (3, 4)},
        {"TriggerTime": (0.0, 400.0), "AcquisitionTime": ("101010", "101011")},
        {},
    ],
)
def test_two_phases_in_a_series(tmp_path: Path, tags: dict[str, tuple[object, object]]) -> None:
    for phase in (0, 1):
        write_stack(
            tmp_path / "two", VOLUME // (1 + phase), names=f"{1 - phase}{{:03}}", first=8 * phase,
            **{key: value[phase] for key, value in tags.items()},
        )  # fmt: skip
    with pytest.warns(CaseWarning, match=r"holds 2 images; took number 1, 8 slices .*; --phase picks another"):
        case = read_volume(tmp_path / "two")
    np.testing.assert_array_equal(case.image, VOLUME)
    assert case.geometry.spacing_mm[0] == 2.5
    for phase in (1, 2):
        np.testing.assert_array_equal(read_quietly(tmp_path / "two", phase=phase).image, VOLUME // phase)


def test_copies_and_interleaved_acquisitions(tmp_path: Path) -> None:
    for copy in (0, 1):
        write_stack(tmp_path / "copies", VOLUME, names=f"{copy}{{:03}}", first=8 * copy)
    with pytest.warns(CaseWarning, match="8 slices of copies are copies of others and are left out"):
        np.testing.assert_array_equal(read_volume(tmp_path / "copies").image, VOLUME)
    for number, start in ((1, 0), (2, 1)):
        places = [(0, 0, start + 2.5 * k) for k in range(8)]
        write_stack(tmp_path / "between", VOLUME, places, names=f"{number}{{:03}}", AcquisitionNumber=number)
    with pytest.warns(CaseWarning, match="holds 2 images; took number 1, 8 slices of 12 x 10, axial, acquisition 1"):
        assert read_volume(tmp_path / "between").geometry.spacing_mm[0] == 2.5
    # Acquisitions that follow each other are one image.
    write_stack(tmp_path / "one", VOLUME, AcquisitionNumber=[1, 1, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(read_quietly(tmp_path / "one").image, VOLUME)


def test_series_are_picked_by_number_description_or_uid(tmp_path: Path) -> None:
    write_stack(tmp_path / "s", VOLUME, names="a{}", SeriesNumber=4, SeriesDescription="soft")
    write_stack(
        tmp_path / "s", VOLUME[:4], names="b{}", SeriesInstanceUID="1.9", SeriesNumber=5, SeriesDescription="lung"
    )
    with pytest.warns(CaseWarning, match=r"holds 2 DICOM series; took 1\.2\.3 \(8 slices\), not 1\.9 \(4 slices\)"):
        read_volume(tmp_path / "s")
    for pick in ("5", "lung", "1.9"):
        assert read_quietly(tmp_path / "s", series=pick).image.shape[0] == 4
    with pytest.raises(CaseError, match=r"got 0 series that are '6' .*4 \(soft\), 5 \(lung\)"):
        read_volume(tmp_path / "s", series="6")


@pytest.mark.parametrize(
    ("tags", "spacing", "said"),
    [
        ({"SliceThickness": 2.5}, 2.5, "is their slice thickness"),
        ({"SliceThickness": 5, "SpacingBetweenSlices": 3}, 3, "is the stated spacing between slices"),
        ({"SliceLocation": [float(3 * k) for k in range(8)]}, 3, "is that of their slice locations"),
        ({}, 1, "of 1 mm is assumed"),
    ],
)
def test_without_positions_the_spacing_is_what_is_stated(
    tmp_path: Path, tags: dict[str, object], spacing: float, said: str
) -> None:
    order = [3, 1, 0, 2, 7, 6, 5, 4]
    write_stack(tmp_path / "s", VOLUME, [None] * 8, InstanceNumber=order, **tags)
    with pytest.warns(CaseWarning, match=f"the 8 slices of s state no positions; .*{said}"):
        case = read_volume(tmp_path / "s")
    assert case.geometry.spacing_mm == (spacing, 0.9, 0.8)
    np.testing.assert_array_equal(case.image, VOLUME[np.argsort(order)])


def ball(shape: tuple[int, int, int], centre: np.ndarray, where_mm: np.ndarray) -> np.ndarray:
    return (np.linalg.norm(where_mm - centre, axis=-1) < 12).reshape(shape)


def slices_of_a_ball(positions: np.ndarray, orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stored values and truth of slices of 40 x 48 pixels through a ball of 12 mm at (20, 17, 25) mm."""
    rows, columns = np.indices((40, 48))
    where = (
        positions[:, None, None] + rows[..., None] * 0.9 * orientation[3:] + columns[..., None] * 0.8 * orientation[:3]
    )
    truth = ball((len(positions), 40, 48), np.array([20.0, 17, 25]), where)
    return np.where(truth, 160, 40).astype(np.int16), truth


@pytest.mark.parametrize("kind", ["tilt", "gap", "uneven"])
def test_tilted_and_uneven_slices_are_resampled_and_given_back(tmp_path: Path, kind: str) -> None:
    angle = np.deg2rad(18) if kind == "tilt" else 0.0
    orientation = np.array([1, 0, 0, 0, np.cos(angle), -np.sin(angle)])
    heights = {
        "tilt": 2.5 * np.arange(24),
        "gap": np.delete(2.5 * np.arange(24), [10, 11]),
        "uneven": np.concatenate([2.5 * np.arange(12), 30 + 5 * np.arange(6)]),
    }[kind]
    positions = np.stack([0 * heights, 0 * heights, heights], axis=1)
    stored, truth = slices_of_a_ball(positions, orientation)
    folder = write_stack(tmp_path / kind, stored, positions.tolist(), ImageOrientationPatient=orientation.tolist())
    said = (
        "by 18 degrees, as with a gantry tilt"
        if kind == "tilt"
        else f"the {len(heights)} slices of {kind} are not evenly"
    )
    with pytest.warns(CaseWarning, match=said):
        case = read_volume(folder)
    axes = np.reshape(case.geometry.direction, (3, 3))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    # The ball is at its place in the patient, and round.
    inside = case.geometry.voxel_to_mm(np.argwhere(case.image > 100))
    np.testing.assert_allclose(inside.mean(axis=0), (20, 17, 25), atol=0.5)
    assert len(inside) * case.geometry.volume_mm3 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.05)
    # A mask comes back on the slices that were read.
    mask = (case.image > 100).astype(np.uint8)
    regular = write_case_mask(tmp_path / "mask.nii.gz", mask, case)
    import nibabel

    given = nibabel.load(tmp_path / "mask.nii.gz")
    restored = np.asarray(given.dataobj).T > 0
    assert restored.shape == truth.shape
    assert 2 * (restored & truth).sum() / (restored.sum() + truth.sum()) > 0.96
    if kind == "tilt":
        corner = np.diag([-1, -1, 1, 1]) @ given.affine @ [47, 39, 23, 1]
        np.testing.assert_allclose(
            corner[:3], positions[23] + 47 * 0.8 * orientation[:3] + 39 * 0.9 * orientation[3:], atol=1e-4
        )
    assert regular == tmp_path / "mask_regular.nii.gz"
    lies = Geometry.from_sitk(SimpleITK.ReadImage(str(regular)))
    np.testing.assert_allclose(lies.affine, case.geometry.affine, atol=1e-4)


def test_prompts_on_the_slices_read_reach_the_same_place(tmp_path: Path) -> None:
    orientation = np.array([1, 0, 0, 0, np.cos(0.3), -np.sin(0.3)])
    positions = np.stack([np.zeros(24), np.zeros(24), 2.5 * np.arange(24)], axis=1)
    stored, _ = slices_of_a_ball(positions, orientation)
    write_stack(tmp_path / "tilt", stored, positions.tolist(), ImageOrientationPatient=orientation.tolist())
    with pytest.warns(CaseWarning, match="gantry tilt"):
        case = read_volume(tmp_path / "tilt")
    assert case.slices is not None
    given = {2: ObjectPrompts((Point((10, 20, 30)), Point((23, 39, 47), False)), Box(4, 16, 10, 12, 9, 40, 30))}
    moved = case.slices.to_regular(given)[2]
    for before, after in zip(given[2].points, moved.points, strict=True):
        truth_mm = (
            positions[before.zyx[0]] + before.zyx[1] * 0.9 * orientation[3:] + before.zyx[2] * 0.8 * orientation[:3]
        )
        assert np.abs(case.geometry.mm_to_voxel(truth_mm) - after.zyx).max() < 0.51
        assert after.foreground == before.foreground
    assert moved.box is not None
    middle_mm = positions[10] + 9 * 0.9 * orientation[3:] + 12 * 0.8 * orientation[:3]
    box = moved.box
    assert np.abs(case.geometry.mm_to_voxel(middle_mm) - (box.z_mid, box.z_mid_y_min, box.z_mid_x_min)).max() < 0.51
    with pytest.raises(PromptError, match=r"got \(z, y, x\) \(24, 0, 0\), expected it inside the slices read"):
        case.slices.to_regular({1: ObjectPrompts((Point((24, 0, 0)),))})


def test_multi_frame_functional_groups(tmp_path: Path) -> None:
    order = [2, 0, 3, 1, 7, 6, 5, 4]
    frames = [
        sequence(
            PlanePositionSequence=sequence(ImagePositionPatient=[0, 0, 3.0 * k]),
            PixelValueTransformationSequence=sequence(RescaleSlope=0.5 + k, RescaleIntercept=1.0, RescaleType="US"),
            FrameContentSequence=sequence(TemporalPositionIndex=1, StackID="1"),
        )[0]
        for k in order
    ]
    shared = sequence(
        PixelMeasuresSequence=sequence(PixelSpacing=[0.7, 0.6], SliceThickness=3),
        PlaneOrientationSequence=sequence(ImageOrientationPatient=list(AXIAL)),
    )
    file = write_slice(
        tmp_path / "e" / "enhanced", VOLUME[order], SharedFunctionalGroupsSequence=shared, ImageOrientationPatient=None,
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(frames), PixelSpacing=None, Modality="MR",
    )  # fmt: skip
    case = read_quietly(file)
    assert case.geometry == Geometry(SHAPE, (3, 0.7, 0.6))
    np.testing.assert_allclose(case.image, VOLUME * (0.5 + np.arange(8)).reshape(-1, 1, 1) + 1)
    for k, frame in enumerate(frames):
        frame.FrameContentSequence[0].TemporalPositionIndex = 1 + k // 4
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3.0 * (k % 4)]
    write_slice(
        file, VOLUME, SharedFunctionalGroupsSequence=shared, ImageOrientationPatient=None,
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(frames), PixelSpacing=None, Modality="MR",
    )  # fmt: skip
    with pytest.warns(CaseWarning, match="took number 1, 4 slices of 12 x 10, axial, temporal position 1"):
        assert read_volume(tmp_path / "e").image.shape == (4, 10, 12)


def test_a_dose_grid_states_the_offsets_of_its_frames(tmp_path: Path) -> None:
    write_slice(
        tmp_path / "d" / "dose", VOLUME.astype(np.uint16), ImagePositionPatient=[1, 2, 3], Modality="RTDOSE",
        GridFrameOffsetVector=[2.0 * k for k in range(8)], DoseGridScaling=0.001, DoseUnits="GY",
    )  # fmt: skip
    case = read_quietly(tmp_path / "d")
    assert case.geometry == Geometry(SHAPE, (2, 0.9, 0.8), (1, 2, 3))
    np.testing.assert_allclose(case.image, VOLUME.astype(np.uint16) * 0.001, rtol=1e-6)


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
def test_compressed_slices_keep_their_own_slope(tmp_path: Path, compressor: str) -> None:
    for k in range(3):
        image = SimpleITK.GetImageFromArray(VOLUME[k].astype(np.uint16))
        writer = SimpleITK.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        file = tmp_path / "c" / f"{k}.dcm"
        file.parent.mkdir(exist_ok=True)
        writer.SetFileName(str(file))
        writer.Execute(image)
        data = pydicom.dcmread(file)
        assert data.file_meta.TransferSyntaxUID.is_compressed
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * k], list(AXIAL)
        data.RescaleSlope, data.RescaleIntercept, data.SeriesInstanceUID = 0.5 + k, 1, "1.2"
        data.save_as(file)
    expected = VOLUME[:3].astype(np.uint16) * (0.5 + np.arange(3)).reshape(-1, 1, 1) + 1
    np.testing.assert_allclose(read_quietly(tmp_path / "c").image, expected)


def test_pixels_that_cannot_be_decoded_name_the_syntax(tmp_path: Path) -> None:
    file = write_slice(tmp_path / "h" / "a.dcm", VOLUME[0], ImagePositionPatient=[0, 0, 0])
    data = pydicom.dcmread(file)
    data.PixelData = pydicom.encaps.encapsulate([bytes(range(200))])
    data["PixelData"].VR = "OB"
    for uid, name in (
        ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Image Compression"),
        ("1.2.840.10008.1.2.4.70", "JPEG Lossless"),
        ("1.3.6.1.4.1.5962.300", "unknown, 1.3.6.1.4.1.5962.300"),  # private
    ):
        data.file_meta.TransferSyntaxUID = uid
        data.save_as(file)
        with pytest.raises(CaseError, match=f"cannot decode the pixels of .*a\\.dcm, transfer syntax {name}[^\n]*$"):
            read_volume(file)
    plain = write_slice(tmp_path / "t" / "b.dcm", VOLUME[0], ImagePositionPatient=[0, 0, 0])
    plain.write_bytes(plain.read_bytes()[:-50])
    with pytest.raises(
        CaseError, match=r"transfer syntax Explicit VR Little Endian: [^\n]*; the file is truncated or damaged"
    ):
        read_volume(plain)


def test_pictures_are_no_volumes(tmp_path: Path) -> None:
    write_stack(tmp_path / "mosaic", VOLUME[:1], ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    with pytest.raises(CaseError, match=r"got a mosaic of slices in one picture .*; convert it with dcm2niix"):
        read_volume(tmp_path / "mosaic")
    colours = np.zeros((10, 36), np.uint8)
    write_stack(tmp_path / "rgb", colours[None], SamplesPerPixel=3, PhotometricInterpretation="RGB", Columns=12)
    with pytest.raises(CaseError, match="got colours, several values a voxel"):
        read_volume(tmp_path / "rgb")

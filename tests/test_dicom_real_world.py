"""DICOM real world values, and files as public reports describe them; made by hand, truths worked out by hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import AXIAL, sequence, write_slice, write_stack

from gstk.cases.npz import Case
from gstk.cases.volumes import read_volume
from gstk.core.geometry import Geometry
from gstk.errors import CaseError

SHAPE = (6, 10, 12)
STORED = np.random.default_rng(3).integers(0, 2000, SHAPE).astype(np.uint16)


def quietly(path: Path) -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_volume(path)


def said(path: Path) -> tuple[Case, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case = read_volume(path)
    return case, " | ".join(str(w.message) for w in caught)


def mapping(slope: float, intercept: float, units: str = "1", **more: Any) -> pydicom.Dataset:
    codes = sequence(CodeValue=units, CodingSchemeDesignator="UCUM", CodeMeaning=units)
    (item,) = sequence(
        RealWorldValueSlope=slope, RealWorldValueIntercept=intercept, MeasurementUnitsCodeSequence=codes, **more
    )
    return item


def mapped(*items: pydicom.Dataset) -> pydicom.Sequence:
    return pydicom.Sequence(list(items))


def test_real_world_values_are_taken_where_no_rescale_is_stated(tmp_path: Path) -> None:
    """nibabel 143, dcm2niix 493: MR of Philips by way of ADNI; STIR 1123: SPECT in one file."""
    write_stack(
        tmp_path / "mr", STORED, Modality="MR",
        RealWorldValueMappingSequence=[mapped(mapping(0.5 + k, -3)) for k in range(6)],
    )  # fmt: skip
    np.testing.assert_allclose(quietly(tmp_path / "mr").image, STORED * (0.5 + np.arange(6)).reshape(-1, 1, 1) - 3)
    detector = sequence(ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=list(AXIAL))
    file = write_slice(
        tmp_path / "nm" / "a.dcm", STORED, Modality="NM", ImageOrientationPatient=None, SpacingBetweenSlices=4,
        DetectorInformationSequence=detector, RealWorldValueMappingSequence=mapped(mapping(0.013, 0, "{counts}")),
    )  # fmt: skip
    np.testing.assert_allclose(quietly(file).image, STORED * 0.013, rtol=1e-6)


def test_of_several_mappings_hounsfield_units_are_taken_and_others_said(tmp_path: Path) -> None:
    """vtk-dicom 26: several items with conversions of their own."""
    items = mapped(mapping(0.1, 0, "g/cm3"), mapping(1, -1024, "[hnsf'U]"))
    write_stack(tmp_path / "ct", STORED, RealWorldValueMappingSequence=items)
    case, words = said(tmp_path / "ct")
    np.testing.assert_array_equal(case.image, STORED.astype(int) - 1024)
    assert "values are the real world values in HU, not in g/cm3" in words


def test_a_rescale_goes_before_real_world_values(tmp_path: Path) -> None:
    """dcm2niix 493 and 575: both are stated; what scanners and viewers show is the rescale."""
    both = {"RescaleSlope": 2, "RescaleIntercept": 1, "RealWorldValueMappingSequence": mapped(mapping(0.1, 0))}
    write_stack(tmp_path / "mr", STORED, Modality="MR", **both)
    np.testing.assert_array_equal(quietly(tmp_path / "mr").image, STORED.astype(int) * 2 + 1)


@pytest.mark.parametrize(("units", "offset", "words"), [("US", -1000, "not the rescaled ones in US"), ("HU", 0, "two")])
def test_rescale_and_mapping_in_hounsfield_units(tmp_path: Path, units: str, offset: int, words: str) -> None:
    write_stack(
        tmp_path / "ct", STORED, RescaleSlope=1, RescaleIntercept=0, RescaleType=units,
        RealWorldValueMappingSequence=mapped(mapping(1, -1000, "[hnsf'U]")),
    )  # fmt: skip
    case, heard = said(tmp_path / "ct")
    np.testing.assert_array_equal(case.image, STORED.astype(int) + offset)
    assert words in heard


def test_a_table_of_real_world_values(tmp_path: Path) -> None:
    table = np.sqrt(np.arange(2000.0)) - 7
    item = mapping(1, 0, "mm2/s", RealWorldValueLUTData=table.tolist(), LUTLabel="root")
    del item.RealWorldValueSlope
    del item.RealWorldValueIntercept
    item.add_new("RealWorldValueFirstValueMapped", "US", 0)
    item.add_new("RealWorldValueLastValueMapped", "US", 1999)
    write_stack(tmp_path / "mr", STORED, Modality="MR", RealWorldValueMappingSequence=mapped(item))
    np.testing.assert_allclose(quietly(tmp_path / "mr").image, table[STORED])
    beyond = STORED.copy()
    beyond[2, 3, 4] = 2500
    write_stack(tmp_path / "beyond", beyond, Modality="MR", RealWorldValueMappingSequence=mapped(item))
    with pytest.raises(CaseError, match=r"stored values from \d+ to 2500, where .* stated for 0 to 1999; convert it"):
        quietly(tmp_path / "beyond")


def enhanced(
    file: Path, places: list[int], groups: list[dict[str, Any]] | None = None, shared: Any = None, **tags: Any
) -> Path:
    """A multi-frame file whose frame k is slice `places[k]` of STORED, 3 mm apart."""
    frames = [
        sequence(
            PlanePositionSequence=sequence(ImagePositionPatient=[0, 0, 3.0 * place]), **(groups[k] if groups else {})
        )[0]
        for k, place in enumerate(places)
    ]
    common = sequence(
        PixelMeasuresSequence=sequence(PixelSpacing=[0.7, 0.6], SliceThickness=5),
        PlaneOrientationSequence=sequence(ImageOrientationPatient=list(AXIAL)),
        **(shared or {}),
    )
    return write_slice(
        file, STORED[places], SharedFunctionalGroupsSequence=common, PixelSpacing=None, ImageOrientationPatient=None,
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(frames), **tags,
    )  # fmt: skip


@pytest.mark.parametrize("places", [[3, 0, 5, 1, 4, 2], [5, 4, 3, 2, 1, 0]], ids=["random", "descending"])
@pytest.mark.parametrize("numbered", [False, True])
def test_frames_in_any_order(tmp_path: Path, places: list[int], numbered: bool) -> None:
    """horos 543: random order, no stack; dwv 2290: descending; dcm2niix 839: acquisition numbers not in space."""
    groups = [{"FrameContentSequence": sequence(FrameAcquisitionNumber=k + 1)} for k in range(6)] if numbered else None
    case = quietly(enhanced(tmp_path / "e.dcm", places, groups, RescaleSlope=3, RescaleIntercept=0))
    # dicomifier 20: the rescale is at the top of the data set.
    np.testing.assert_array_equal(case.image, STORED.astype(int) * 3)
    assert case.geometry == Geometry(SHAPE, (3, 0.7, 0.6))


def test_each_frame_has_its_own_rescale(tmp_path: Path) -> None:
    """dcm2niix 363 and 853: Philips' diffusion, Mediso's PET."""
    groups = [
        {"PixelValueTransformationSequence": sequence(RescaleSlope=0.5 + k, RescaleIntercept=-k, RescaleType="US")}
        for k in range(6)
    ]
    order = [2, 1, 0, 5, 4, 3]
    case = quietly(enhanced(tmp_path / "e.dcm", order, groups, Modality="PT"))
    expected = np.empty(SHAPE)
    for k, place in enumerate(order):
        expected[place] = STORED[place] * (0.5 + k) - k
    np.testing.assert_allclose(case.image, expected)


def test_slopes_of_a_hundred_millionth(tmp_path: Path) -> None:
    """dcm2niix 978: slices of a PET with slopes near 1e-8, each its own; VolView 292: a part of them another."""
    slopes = [1.02609e-08, 7.56104e-09, 3.07385e-08, 1.0623e-08, 7.80307e-09, 2.39983e-08]
    write_stack(tmp_path / "pt", STORED, Modality="PT", RescaleSlope=slopes, RescaleIntercept=0, Units="PROPCPS")
    case = quietly(tmp_path / "pt")
    np.testing.assert_allclose(case.image, STORED * np.array(slopes).reshape(-1, 1, 1), rtol=1e-6)


@pytest.mark.parametrize(("tags", "spacing"), [({"SpacingBetweenSlices": 0.3}, 0.3), ({"SliceThickness": 0.25}, 0.25)])
def test_a_file_of_many_frames_without_positions(tmp_path: Path, tags: dict[str, float], spacing: float) -> None:
    """Slicer 6773 and 7496: z spacing became 1 mm."""
    file = write_slice(tmp_path / "cbct" / "a.dcm", STORED, ImageOrientationPatient=None, **tags)
    case, words = said(file)
    assert case.geometry.spacing_mm == (spacing, 0.9, 0.8)
    assert "state no positions" in words
    np.testing.assert_array_equal(case.image, STORED)


def test_a_reversed_series_is_the_same_image(tmp_path: Path) -> None:
    """SimpleITK 2292, ITK 5357: a series in reverse order got a negative spacing and a wrong direction."""
    cases = []
    for name, order in (("up", range(6)), ("down", range(5, -1, -1))):
        places = [(1.0, 2.0, 3.0 * k) for k in order]
        write_stack(tmp_path / name, STORED[list(order)], places)
        cases.append(quietly(tmp_path / name))
    assert cases[0].geometry == cases[1].geometry
    np.testing.assert_array_equal(cases[0].image, cases[1].image)


def test_bits_beside_the_stored_ones_are_no_values(tmp_path: Path) -> None:
    """pydicom 2066 and 2260, dicom2nifti 13: overlays in high bits, a sign in bit 11, values that begin at bit 4."""
    low = STORED % 200
    ink = np.random.default_rng(5).integers(0, 16, SHAPE).astype(np.uint16)
    twelve = {"BitsStored": 12, "HighBit": 11}
    np.testing.assert_array_equal(quietly(write_stack(tmp_path / "ink", low | ink << 12, **twelve)).image, low)
    signed = low.astype(np.int16) - 100
    cut = signed.astype(np.uint16) & 0x0FFF
    folder = write_stack(tmp_path / "sign", cut, **twelve, PixelRepresentation=1)
    np.testing.assert_array_equal(quietly(folder).image, signed)
    for name, stored, tags in (("high", low, {}), ("high-signed", cut, {"PixelRepresentation": 1})):
        folder = write_stack(tmp_path / name, stored << 4 | ink, BitsStored=12, HighBit=15, **tags)
        np.testing.assert_array_equal(quietly(folder).image, signed if tags else low)


def test_eight_bits_stored_in_sixteen(tmp_path: Path) -> None:
    """ITK 851: readers that take the type from the bits stored read past the pixels."""
    folder = write_stack(tmp_path / "a", STORED % 200, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(quietly(folder).image, STORED % 200)


def test_slices_of_one_number_and_time_are_no_copies(tmp_path: Path) -> None:
    """dcm2niix 168: positions decide."""
    folder = write_stack(tmp_path / "a", STORED, InstanceNumber=1, AcquisitionTime="100000", AcquisitionNumber=1)
    np.testing.assert_array_equal(quietly(folder).image, STORED)


def test_a_negative_spacing_between_frames_stacks_them_the_other_way(tmp_path: Path) -> None:
    """dcm2niix 885: SPECT was upside down."""
    detector = sequence(ImagePositionPatient=[0, 0, 100], ImageOrientationPatient=list(AXIAL))
    file = write_slice(
        tmp_path / "nm" / "a.dcm", STORED, Modality="NM", ImageOrientationPatient=None, SpacingBetweenSlices=-4,
        DetectorInformationSequence=detector,
    )  # fmt: skip
    case = quietly(file)
    np.testing.assert_array_equal(case.image, STORED[::-1])
    assert case.geometry.origin_mm == (0, 0, 80)


def test_a_decimal_comma_is_a_number(tmp_path: Path) -> None:
    """Programs that wrote numbers under their user's locale: the rescale was passed over without a word."""
    folder = write_stack(tmp_path / "a", STORED, RescaleSlope="0.5", RescaleIntercept="-3.5", PixelSpacing=[0.5, 0.5])
    for file in folder.iterdir():
        content = file.read_bytes()
        for stated in (b"-3.5", b"0.5\\0.5", b"0.5 "):
            content = content.replace(stated, stated.replace(b".", b","))
        assert content.count(b",5") == 4
        file.write_bytes(content)
    case = quietly(folder)
    np.testing.assert_allclose(case.image, STORED * 0.5 - 3.5)
    assert case.geometry.spacing_mm == (2.5, 0.5, 0.5)


def test_a_mosaic_whose_image_type_lost_the_word_is_no_slice(tmp_path: Path) -> None:
    """dcm2niix 40 and others: anonymised mosaics, which Siemens' private count of slices still tells."""
    file = write_slice(tmp_path / "a.dcm", np.tile(STORED[0], (3, 3)), ImagePositionPatient=[0, 0, 0])
    data = pydicom.dcmread(file)
    data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 9)
    data.save_as(file)
    with pytest.raises(CaseError, match="mosaic"):
        read_volume(file)


def test_a_slice_that_says_it_lies_kilometres_away_is_another_image(tmp_path: Path) -> None:
    """dcm2niix 539: a damaged position stretched the whole image."""
    places = [(0.0, 0.0, 1.2 * k) for k in range(5)]
    for name, wrong in (("far", [(0.0, 0.0, 3.4e9)]), ("twice", [(0.0, 0.0, 3.4e9), (0.0, 0.0, 1e-39)])):
        volume = np.concatenate([STORED, STORED[:1] + 1])[: 5 + len(wrong)]
        case, words = said(write_stack(tmp_path / name, volume, [*places, *wrong]))
        np.testing.assert_array_equal(case.image, STORED[:5])
        assert case.geometry.spacing_mm[0] == pytest.approx(1.2)
        assert "images" in words


@pytest.mark.parametrize("told", ["StackID", "FrameAcquisitionNumber"])
def test_stacks_that_lie_apart_are_images_of_their_own(tmp_path: Path, told: str) -> None:
    """Two stacks of one scan with 114 mm between them: not one volume that is resampled across the gap."""
    values = ["1", "1", "1", "2", "2", "2"] if told == "StackID" else [1, 1, 1, 2, 2, 2]
    groups = [{"FrameContentSequence": sequence(**{told: value})} for value in values]
    file = enhanced(tmp_path / "e.dcm", [0, 1, 2, 3, 4, 5], groups)
    header = pydicom.dcmread(file)
    for k, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3.0 * k + 114 * (k > 2)]
    header.save_as(file)
    case, words = said(file)
    np.testing.assert_array_equal(case.image, STORED[:3])
    assert case.geometry == Geometry((3, 10, 12), (3, 0.7, 0.6))
    assert "took number 1, 3 slices" in words
    np.testing.assert_array_equal(read_volume(file, phase=2).image, STORED[3:])


def test_packages_of_one_volume_are_put_together(tmp_path: Path) -> None:
    """dcm2niix 839: three stacks whose slices lie between each other's are one volume."""
    places = [0, 3, 1, 4, 2, 5]
    groups = [{"FrameContentSequence": sequence(StackID=str(k // 2 + 1))} for k in range(6)]
    np.testing.assert_array_equal(quietly(enhanced(tmp_path / "e.dcm", places, groups)).image, STORED)


@pytest.mark.parametrize("total", [2, None])
def test_a_concatenation_of_which_a_file_is_missing(tmp_path: Path, total: int | None) -> None:
    for number in (1, 2):
        places = [0, 1, 2] if number == 1 else [3, 4, 5]
        enhanced(
            tmp_path / f"{number}.dcm", places, ConcatenationUID="1.2.9", InConcatenationNumber=number,
            InConcatenationTotalNumber=total,
        )  # fmt: skip
    np.testing.assert_array_equal(quietly(tmp_path).image, STORED)
    (tmp_path / "1.dcm").unlink()
    _, words = said(tmp_path)
    assert "lacks files 1 of the 2 that its image is stored in: slices are missing" in words


def test_directions_that_are_not_of_length_one(tmp_path: Path) -> None:
    long = quietly(write_stack(tmp_path / "long", STORED, ImageOrientationPatient=6 * [[2, 0, 0, 0, 3, 0]]))
    assert long.geometry == Geometry(SHAPE, (2.5, 0.9, 0.8))
    _, words = said(write_stack(tmp_path / "skew", STORED, ImageOrientationPatient=6 * [[1, 0, 0, 0.2, 0.98, 0]]))
    assert "state no directions at right angles; their z spacing of 2.5 mm is the distance between their" in words


def test_one_place_twice_with_other_pixels_says_so_in_one_line(tmp_path: Path) -> None:
    twice = np.concatenate([STORED, STORED[4:5] + 1])
    case, words = said(write_stack(tmp_path / "ct", twice, [(0, 0, 2.5 * k) for k in (*range(6), 4)]))
    np.testing.assert_array_equal(case.image, STORED)
    assert words.count("|") == 0
    assert "left out 2: 1 slice" in words


def test_the_spacing_at_the_detector_is_said(tmp_path: Path) -> None:
    case, words = said(write_stack(tmp_path / "x", STORED, PixelSpacing=None, ImagerPixelSpacing=[0.3, 0.2]))
    assert case.geometry.spacing_mm == (2.5, 0.3, 0.2)
    assert "the pixel spacing is that at the detector" in words

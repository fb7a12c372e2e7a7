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

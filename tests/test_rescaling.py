"""Slope and intercept, against NumPy's float64."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import write_stack
from hypothesis import given
from hypothesis import strategies as st

from gstk.cases.npz import CaseWarning
from gstk.cases.rescaling import Stored, float_type, rescaled
from gstk.cases.volumes import read_volume, write_case_mask

RAMP = np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6)
SCALES = [(1e38, 0), (1e-42, 0), (1, 1e9), (1e-3, 1e6), (-1e37, 5), (0.5, -1024), (1e-8, 0), (2, 3)]


@pytest.mark.parametrize(("slope", "intercept"), SCALES)
def test_values_that_differ_go_on_to_differ(slope: float, intercept: float) -> None:
    values = rescaled(Stored(RAMP, slope, intercept))
    np.testing.assert_allclose(values, RAMP.astype(np.float64) * slope + intercept, rtol=1e-6, atol=abs(slope) / 2)
    assert len(np.unique(values)) == RAMP.size


@given(st.floats(-1e30, 1e30).filter(lambda slope: abs(slope) > 1e-30), st.floats(-1e30, 1e30))
def test_no_two_values_become_one_where_float64_tells_them_apart(slope: float, intercept: float) -> None:
    exact = np.unique(RAMP.astype(np.float64) * slope + intercept)
    assert len(np.unique(rescaled(Stored(RAMP, slope, intercept)))) == len(exact)


def test_ordinary_scales_take_no_more_memory_than_they_need() -> None:
    stored = np.arange(-32768, 32768, dtype=np.int16)
    ordinary = ((0.5, -1024), (1e-8, 0), (1, -1000.5), (3.7, 20))
    assert float_type(Stored(stored, slope, intercept) for slope, intercept in ordinary) is np.float32
    assert float_type([Stored(stored.astype(np.float32), 0.3, 0)]) is np.float32
    assert float_type([Stored(stored.astype(np.float32), 1, 1e9)]) is np.float64
    assert float_type([Stored(stored.astype(np.int32), 1, 0.5)]) is np.float64
    assert float_type([Stored(np.array([np.nan, np.inf], np.float32), 2, 0)]) is np.float32


@pytest.mark.parametrize(("slope", "intercept"), [(1e38, 0), (1, 1e9)])
def test_nifti_keeps_contrast(tmp_path: Path, slope: float, intercept: float) -> None:
    image = nibabel.Nifti1Image(RAMP.T, np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, tmp_path / "ct.nii")
    _with_scale(tmp_path / "ct.nii", slope, intercept)
    found = read_volume(tmp_path / "ct.nii").image
    np.testing.assert_allclose(found, RAMP * np.float64(np.float32(slope)) + intercept)


def test_dicom_keeps_contrast(tmp_path: Path) -> None:
    write_stack(tmp_path / "pt", RAMP + 60, Modality="PT", RescaleSlope=1e-3, RescaleIntercept=1e6 + 0.5)
    np.testing.assert_allclose(read_volume(tmp_path / "pt").image, (RAMP + 60) * 1e-3 + 1e6 + 0.5, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("slope", "intercept"), [(np.inf, 0), (1, np.nan), (2, -np.inf)])
def test_a_scale_that_is_not_finite_is_said(tmp_path: Path, slope: float, intercept: float) -> None:
    nibabel.save(nibabel.Nifti1Image(RAMP.T, np.eye(4)), tmp_path / "ct.nii")
    _with_scale(tmp_path / "ct.nii", slope, intercept)
    with pytest.warns(CaseWarning, match="expected finite numbers; the stored values are taken as they are"):
        np.testing.assert_array_equal(read_volume(tmp_path / "ct.nii").image, RAMP)


def test_a_side_of_nothing_behind_the_third_is_mended_in_the_mask(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(RAMP.T, np.eye(4)), tmp_path / "ct.nii")
    content = bytearray((tmp_path / "ct.nii").read_bytes())
    content[40:56] = np.array([4, 6, 5, 4, 0, 0, 0, 0], "<i2").tobytes()
    (tmp_path / "ct.nii").write_bytes(content)
    case = read_volume(tmp_path / "ct.nii")
    write_case_mask(tmp_path / "mask.nii", np.ones(case.image.shape, np.uint8), case)
    assert nibabel.load(tmp_path / "mask.nii").get_fdata().sum() == RAMP.size


def _with_scale(file: Path, slope: float, intercept: float) -> None:
    content = bytearray(file.read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    file.write_bytes(content)

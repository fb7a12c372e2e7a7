"""Label maps as files to download, read back by the libraries that they are for."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_stack

from gstk.cases.npz import Case
from gstk.cases.volumes import read_any
from gstk.errors import OutputError
from gstk.server.saving import save_labels

SHAPE = (12, 20, 24)
STORED = np.random.default_rng(0).integers(0, 2000, SHAPE).astype(np.uint16)
EVEN = [(0.0, 0.0, 2.5 * k) for k in range(12)]
TILTED = [(0.0, 1.8 * k, 2.5 * k) for k in range(12)]
UNEVEN = [(0.0, 0.0, 2.5 * k + 0.6 * (k % 2)) for k in range(12)]
TAGS = {
    "StudyInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5", "PatientID": "1", "PatientName": "A^B", "StudyID": "1",
    "PatientBirthDate": "", "PatientSex": "", "StudyDate": "", "StudyTime": "", "AccessionNumber": "",
    "ReferringPhysicianName": "", "PositionReferenceIndicator": "", "SeriesNumber": 1, "SliceThickness": 2.5,
}  # fmt: skip


def read(folder: Path) -> tuple[Case, list[object]]:
    pydicom = pytest.importorskip("pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = read_any(folder)
    return case, [pydicom.dcmread(file) for file in case.slice_files]


def positions_of_segment(content: bytes) -> dict[float, tuple[tuple[float, ...], np.ndarray]]:
    """Position in mm and pixels of each frame of the only segment, by z."""
    highdicom = pytest.importorskip("highdicom", reason="needs highdicom")
    segments = highdicom.seg.segread(io.BytesIO(content))
    found = {}
    planes = segments.pixel_array.reshape(-1, segments.Rows, segments.Columns)
    for frame, pixels in zip(segments.PerFrameFunctionalGroupsSequence, planes, strict=True):
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        found[round(float(place[2]), 3)] = (tuple(map(float, place)), pixels)
    return found


@pytest.mark.parametrize("places", [EVEN, TILTED, UNEVEN], ids=["even", "tilted", "uneven"])
def test_a_dicom_segmentation_lies_on_the_slices_that_were_read(
    tmp_path: Path, places: list[tuple[float, float, float]]
) -> None:
    pytest.importorskip("highdicom", reason="needs highdicom")
    case, headers = read(write_stack(tmp_path / "ct", STORED, places, **TAGS))
    low = np.array([6.0, 15.0 if places is TILTED else 5.0, 8.0])  # a box in space, mm along (x, y, z)
    high = np.add(low, (7, 8, 12))
    centres = case.geometry.voxel_to_mm(np.argwhere(np.ones(case.image.shape, bool)))
    mask = ((centres > low) & (centres < high)).all(axis=1).reshape(case.image.shape).astype(np.uint8)
    found = positions_of_segment(save_labels("dcm", mask, case, {}, headers).data)
    assert len(found) >= 4
    for origin, pixels in found.values():
        assert origin in places
        rows, columns = np.nonzero(pixels)
        y, x = origin[1] + 0.9 * rows, origin[0] + 0.8 * columns
        assert low[2] - 1.6 < origin[2] < high[2] + 1.6
        assert low[1] - 0.91 < y.min() < low[1] + 0.91
        assert high[1] - 0.91 < y.max() < high[1] + 0.91
        assert low[0] - 0.81 < x.min() < low[0] + 0.81
        assert high[0] - 0.81 < x.max() < high[0] + 0.81


def test_a_dicom_segmentation_refers_to_the_phase_that_was_read(tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="needs highdicom")
    write_stack(tmp_path / "ct", STORED, EVEN, names="a{:03}.dcm", AcquisitionNumber=2, **TAGS)
    write_stack(tmp_path / "ct", STORED // 2, EVEN, names="b{:03}.dcm", AcquisitionNumber=1, **TAGS)
    case, headers = read(tmp_path / "ct")
    assert {header.AcquisitionNumber for header in headers} == {1}
    mask = np.zeros(SHAPE, np.uint8)
    mask[3, 4, 5] = 1
    (found,) = positions_of_segment(save_labels("dcm", mask, case, {}, headers).data).values()
    assert found[0] == EVEN[3]
    np.testing.assert_array_equal(np.argwhere(found[1]), [[4, 5]])


def test_a_dicom_segmentation_without_its_slices_is_refused(tmp_path: Path) -> None:
    case, headers = read(write_stack(tmp_path / "ct", STORED, EVEN))
    with pytest.raises(OutputError, match="lack the UIDs that a DICOM SEG refers to"):
        save_labels("dcm", np.ones(SHAPE, np.uint8), case, {}, headers)
    with pytest.raises(OutputError, match="did not come as a DICOM series of single slices"):
        save_labels("dcm", np.ones(SHAPE, np.uint8), case, {}, [])

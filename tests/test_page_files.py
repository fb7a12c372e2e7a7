"""Files in the page: DICOM folders, several scans, files that are none, and masks to start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flood import POLICY, ClassEngine
from numpy.typing import NDArray

pytest.importorskip("selenium", reason="needs selenium")
pytest.importorskip("starlette")

from browser_page import (  # noqa: F401 - fixtures among them
    CENTRE,
    SHAPE,
    Page,
    browser,
    downloaded,
    downloads,
    oblique,
    page,
    scan,
    server,
    write,
)
from selenium.webdriver.common.by import By
from served import TOKEN, serving

import gstk
from gstk.cases.npz import save_case
from gstk.cases.phantom_case import phantom_case
from gstk.core.profile import find_profile
from gstk.evaluation.metrics import dice
from gstk.server.service import Settings
from gstk.session.session import Session


def dicom_series(folder: Path, image: NDArray[np.int16]) -> list[Path]:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    folder.mkdir()
    for index, plane in enumerate(image):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = folder / f"slice{(7 * index) % len(image):03d}"  # names say nothing of the order
        data = FileDataset(str(file), {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.SeriesDescription, data.PatientName, data.PatientID = "CT", "thin / slices", "A^B", "1"
        data.PatientBirthDate = data.PatientSex = data.StudyDate = data.StudyTime = data.AccessionNumber = ""
        data.StudyID, data.ReferringPhysicianName, data.PositionReferenceIndicator = "1", "", ""
        data.SeriesNumber, data.InstanceNumber = 1, index + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [-20, -30, 4 + 2.5 * index], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1.2, 1.0], 2.5
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleIntercept, data.RescaleSlope = 0, 1
        data.PixelData = plane.tobytes()
        data.save_as(file, enforce_file_format=True)
        files.append(file)
    assert pydicom.dcmread(files[0]).SeriesInstanceUID == series
    return files


def test_a_dicom_folder_is_opened_and_its_segmentation_refers_to_it(
    page: Page, tmp_path: Path, downloads: Path
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="needs highdicom")
    pydicom = pytest.importorskip("pydicom")
    image, inside = scan()
    files = dicom_series(tmp_path / "series", image)
    page.open(*reversed(files))
    assert page.js("gstk.state.volume.shape") == list(SHAPE)
    assert page.js("gstk.state.volume.image.name") == "CT_thin___slices"
    assert page.js("gstk.state.volume.image.is_ct") is True
    page.look_at(CENTRE)
    page.click("sagittal", CENTRE)
    mask = page.labels() == 1
    assert dice(mask, inside) > 0.85
    page.press('[data-format="dcm"]')
    segments = highdicom.seg.segread(downloaded(downloads, "CT_thin___slices_mask.dcm"))
    found = segments.get_pixels_by_source_instance([pydicom.dcmread(file).SOPInstanceUID for file in files])
    np.testing.assert_array_equal(found[..., 0] != 0, mask)
    assert segments.get_segment_description(1).segment_label == "object 1"
    for file in files:  # as some anonymisers leave them
        header = pydicom.dcmread(file)
        header.FrameOfReferenceUID = ""
        header.save_as(file)
    page.open(*files)
    assert not page.browser.find_element(By.CSS_SELECTOR, '[data-format="dcm"]').is_enabled()


def test_several_scans_wait_for_their_turn(page: Page, tmp_path: Path) -> None:
    image, _ = scan()
    page.open(write(tmp_path / "a.nii.gz", image), write(tmp_path / "b.nii.gz", image[:20]))
    assert page.js("gstk.state.volume.image.name") == "a"
    page.press("#next-volume")
    page.rest()
    page.until("gstk.state.volume.image.name === 'b'")
    assert page.js("gstk.state.volume.shape")[0] == 20
    assert not page.browser.find_element(By.ID, "next-volume").is_displayed()


def test_a_file_that_is_no_scan_is_an_error_and_the_page_goes_on(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"not a scan")
    page.browser.find_element(By.ID, "files").send_keys(str(bad))
    page.until("document.getElementById('status').className === 'error'")
    assert "bad.nii.gz" in page.status
    page.browser.get_log("browser")  # the refused request is logged there
    page.open(write(tmp_path / "good.nii.gz", scan()[0]))


def test_an_earlier_mask_is_gone_on_from_and_one_of_another_place_is_refused(page: Page, tmp_path: Path) -> None:
    image, inside = scan()
    page.open(write(tmp_path / "scan.nii.gz", image, oblique()))
    labels = np.zeros(SHAPE, np.uint8)
    labels[inside] = 1
    labels[5:9, 8:40, 34:38] = 4
    page.browser.find_element(By.ID, "mask-file").send_keys(str(write(tmp_path / "other.nii.gz", labels)))
    page.until("document.getElementById('status').className === 'error'")
    assert "mm away from the image" in page.status
    page.browser.get_log("browser")  # a refusal is an error there
    assert not page.labels().any()
    mask = write(tmp_path / "mask.nii.gz", labels, oblique())
    page.browser.find_element(By.ID, "mask-file").send_keys(str(mask))
    page.until("gstk.state.volume.counts[4] > 0")
    page.rest()
    np.testing.assert_array_equal(page.labels(), labels)
    page.look_at((7, 20, 36))
    page.picture("page_from_mask")
    page.tool("point", foreground=False)
    page.look_at(CENTRE)
    place = (CENTRE[0], CENTRE[1] + 4, CENTRE[2])
    page.click("axial", place)
    changed = np.argwhere(page.labels() != labels)
    assert page.labels()[place] == 0
    assert (np.abs(changed - place) < 8).all()  # near the click alone
    page.press("#undo")
    page.rest()
    np.testing.assert_array_equal(page.labels(), labels)


def test_a_class_is_found_by_name_segmented_and_corrected(browser: Any, tmp_path: Path) -> None:
    image, inside = scan()
    profile = replace(find_profile("nv-segment-ct"), patch=(32, 32, 32))
    session = Session(ClassEngine(), POLICY, profile=profile)  # type: ignore[arg-type]
    with serving(Settings(page_token=TOKEN), session) as served:
        page = Page(browser, served)
        page.js(
            "(window.said = new Set(), window.doing = document.getElementById('doing'), new MutationObserver(() => "
            "said.add(doing.textContent)).observe(doing, {childList: true}))"
        )
        page.open(write(tmp_path / "ct.nii.gz", (image - 100).astype(np.int16)))
        assert "receiving ct 100 %" in page.js("[...said]")
        assert any(text.startswith("sending ct.nii.gz") for text in page.js("[...said]"))
        untrained = page.browser.find_element(By.ID, "novel")
        assert untrained.is_displayed()
        assert not untrained.is_selected()
        options = page.js("[...document.getElementById('classes').children].map((o) => o.value)")
        assert {"spleen", "liver"} < set(options)
        assert options == sorted(options)
        field = page.browser.find_element(By.ID, "class")
        field.send_keys("Spleeen\n")
        page.until("document.getElementById('status').className === 'error'")
        assert "near names: spleen" in page.status
        page.browser.get_log("browser")
        field.clear()
        field.send_keys("spleen\n")
        page.until("gstk.state.volume.counts[3] > 0")
        page.rest()
        bar = np.zeros(SHAPE, bool)
        bar[5:9, 8:40, 34:38] = True
        assert dice(page.labels() == 3, inside | bar) > 0.9
        assert page.js("gstk.objects.entries.get(3).name") == "spleen"
        assert page.js("gstk.state.active") == 3
        assert page.js("[...gstk.objects.entries.keys()]") == [3]  # nothing was said of the first one
        page.picture("page_class")
        page.press("#undo")
        page.rest()
        assert not page.labels().any()
        page.js("gstk.state.unsaved = false")


def test_without_classes_there_is_no_field_for_them(page: Page) -> None:
    assert not page.browser.find_element(By.ID, "class-form").is_displayed()
    assert not page.browser.find_element(By.ID, "novel-choice").is_displayed()


def test_the_built_in_model_on_a_phantom_and_a_list_of_many_objects(browser: Any, tmp_path: Path) -> None:
    case = phantom_case(7, 96, "organs", 3)
    save_case(tmp_path / "phantom.npz", case)
    assert case.labels is not None
    with serving(Settings(page_token=TOKEN), gstk.open("tiny")) as served:
        page = Page(browser, served)
        page.press('[data-format="nii.gz"]')
        assert page.status == "Open a scan first."
        page.open(tmp_path / "phantom.npz")
        for object_id, prompts in case.prompts.items():
            if object_id > 1:
                page.press("#next-object")
            page.look_at(prompts.points[0].zyx)
            page.click("axial", prompts.points[0].zyx)
            page.js("Promise.resolve(gstk.state.refining).then(() => true)")  # the finer mask
        labels = page.labels()
        assert np.mean([dice(labels == object_id, case.labels == object_id) for object_id in case.prompts]) > 0.6
        page.picture("page")
        for _ in range(20):
            page.press("#next-object")
        note = page.js("document.querySelector('.note').getBoundingClientRect().top")
        assert page.js("document.querySelector('#objects').getBoundingClientRect().bottom") < note
        assert page.js("document.querySelector('#next-object').getBoundingClientRect().bottom < innerHeight")
        page.js("gstk.state.unsaved = false")

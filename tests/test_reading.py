"""The same mask by every door: the six lines of Python, an array, and `gstk infer`, in every format."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from cli_runs import Run
from dicom_files import write_stack
from flood import POLICY, FloodEngine

import gstk
from gstk.batch.infer import infer
from gstk.cases.npz import save_case
from gstk.cases.prepare import prepare_case
from gstk.cases.volumes import read_any
from gstk.core.profile import find_profile
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.volume import VolumeWarning
from gstk.session.session import Session

CLICK = (10, 20, 20)


def a_ct() -> np.ndarray:
    """A liver-like ball in soft tissue beside bone, in air."""
    grid = np.indices((20, 40, 40))
    ball = ((grid - np.array(CLICK)[:, None, None, None]) ** 2).sum(0) <= 49
    ct = np.full(grid.shape[1:], -1000, np.int16)
    ct[:, 4:36, 4:36] = 20
    ct[ball] = 110
    ct[:, 30:34, 30:34] = 1200
    return ct


@pytest.fixture(params=["nii.gz", "nrrd", "mha", "dicom"])
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    image = sitk.GetImageFromArray(a_ct())
    image.SetSpacing((1.0, 1.0, 2.0))
    if request.param != "dicom":
        path = tmp_path / f"scan.{request.param}"
        sitk.WriteImage(image, str(path))
        return path
    folder = tmp_path / "scan"
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(20):
        one = image[:, :, index]
        tags = {
            "0008|0060": "CT",
            "0020|000e": "1.2.3.4",
            "0020|000d": "1.2.3",
            "0008|0018": f"1.2.3.4.{index + 1}",
            "0020|0032": f"0\\0\\{2 * index}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(index),
            "0018|0050": "2",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{index:02}.dcm"))
        writer.Execute(one)
    return folder


def session() -> Session:
    return Session(FloodEngine(), POLICY)  # type: ignore[arg-type]


def test_every_door_gives_one_mask(scan: Path, tmp_path: Path) -> None:
    masks = {}
    with session() as one:
        one.set_image(gstk.read_volume(scan))
        one.add_point(CLICK)
        masks["Python"], words = one.mask.copy(), one.intensities
        volume = gstk.read_volume(scan)
        one.set_image(volume.image, volume.geometry.spacing_mm)
        one.add_point(CLICK)
        masks["array"] = one.mask.copy()
        one.set_image(prepare_case(scan).volume)
        one.add_point(CLICK)
        masks["prepared"] = one.mask.copy()
        (result,) = infer(one, scan, tmp_path / "out", prompts={1: ObjectPrompts((Point(CLICK),))})
    assert result.error is None
    assert result.intensities == words
    assert result.output is not None
    masks["infer"] = read_any(result.output).image
    assert masks["Python"].any()
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, masks["Python"], err_msg=name)
    assert "CT window soft" in words


def test_volume_says_what_the_file_says(scan: Path, tmp_path: Path) -> None:
    volume = gstk.read_volume(scan)
    np.testing.assert_array_equal(volume.image, a_ct())
    assert volume.geometry.spacing_mm == (2.0, 1.0, 1.0)
    assert (volume.modality, volume.units) == (("CT", "HU") if scan.is_dir() else (None, None))
    assert volume.has_orientation
    save_case(tmp_path / "case.npz", prepare_case(scan))
    case = gstk.read_volume(tmp_path / "case.npz")
    assert (case.units, case.has_orientation) == ("0-255", False)


def test_what_was_chosen_is_printed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "ct.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(a_ct()), str(path))
    done = run("infer", path, "-o", tmp_path / "out", "--point", "10,20,20")
    assert done.code == 0, done.err
    assert "CT window soft W400 L40, for the minimum of -1000 looks like air" in " ".join(done.out.split())
    refused = run("infer", path, "-o", tmp_path / "no", "--point", "10,20,20", "--assume-window", "soft")
    assert refused.code == 1
    assert "takes no HU" in refused.err


def test_pet_and_mr_series_given_to_a_network_for_ct_are_warned_of(tmp_path: Path) -> None:
    """By what DICOM says they are, by either door; a CT is not."""
    stored = np.random.default_rng(0).integers(0, 4000, (16, 24, 24)).astype(np.int16)
    profile = replace(find_profile("nv-segment-ct"), patch=(32, 32, 32), crop_margin=None)
    said = {}
    with Session(FloodEngine(), POLICY, profile=profile) as session:  # type: ignore[arg-type]
        for modality, tags in (("PT", {"Units": "BQML"}), ("MR", {}), ("CT", {})):
            folder = write_stack(
                tmp_path / modality, stored, Modality=modality, RescaleSlope=1.5, RescaleIntercept=0, **tags
            )
            volume = gstk.read_volume(folder)
            assert volume.modality == modality
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", VolumeWarning)
                session.set_image(volume)
            prompts = {1: ObjectPrompts((Point((8, 12, 12)),))}
            (result,) = infer(session, folder, tmp_path / "out", prompts=prompts)
            assert result.error is None, result.error
            by_door = ([str(w.message) for w in caught], result.warnings)
            said[modality] = [
                [text for text in door if "is for CT: its values count as HU" in text] for door in by_door
            ]
    assert said["CT"] == [[], []]
    for modality in ("PT", "MR"):
        for door in said[modality]:
            assert len(door) == 1
            assert f"is {modality}, but the profile nv-segment-ct is for CT" in door[0]

"""Files in HU through C++: read by it, or by a host that hands voxels over, they give the mask of `gstk infer`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from cpp_build import needs_a_compiler
from cpp_replay import Volume, handed_over, replay_many_cpp
from dicom_files import write_stack
from nibabel.eulerangles import euler2mat
from test_cpp_profiles import PROFILES, a_bundle, a_scan

import gstk
from gstk.batch.infer import infer
from gstk.core.prompts import ObjectPrompts, Point
from gstk.evaluation.metrics import dice

pytestmark = [
    *needs_a_compiler,
    pytest.mark.filterwarnings("ignore:the mask of object"),
    pytest.mark.filterwarnings("ignore:.*does not say its units"),
    pytest.mark.filterwarnings("ignore:.*HU"),
]

RAW = ("ct_totalseg_sm.nii.gz", "dicom_totalseg_ct", "mr_ibsi_sts026_T1.nii.gz", "mr_pyrad_breast1.nrrd")
AXES = {"flipped": np.diag([-1.0, 1, -1]), "oblique": euler2mat(0.2, -0.1, 0.3)}


def written(folder: Path, kind: str, axes: str, seed: int) -> Path:
    """A scan in HU, flipped or oblique."""
    folder.mkdir()
    hu = np.ascontiguousarray(a_scan(np.random.default_rng(seed), folder / "of.nii.gz", 0).image).astype(np.int16)
    turn = AXES[axes]
    if kind == "dicom":
        positions = [(2.5 * k * turn[:, 2]).tolist() for k in range(len(hu))]
        orientation = [*turn[:, 0].tolist(), *turn[:, 1].tolist()]
        tags = {"RescaleSlope": 1, "RescaleIntercept": 0, "Modality": "CT"}
        return write_stack(folder / "series", hu, positions, ImageOrientationPatient=orientation, **tags)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing([0.8, 1.5, 2.5])
    image.SetDirection(turn.ravel().tolist())
    image.SetOrigin([5.0, -7.0, 11.0])
    file = folder / f"scan.{kind}"
    sitk.WriteImage(image, str(file))
    return file


def compare(program: Path, profile: str, files: list[Path], folder: Path) -> list[float]:
    """The share of each mask, which is that of `infer`; NIfTI in both ways."""
    bundle = a_bundle(folder / "bundle", PROFILES[profile])
    scripts: list[tuple[Volume, list[str]]] = []
    for file in files:
        given = handed_over(file, folder)
        click = ["point 1 {} {} {} 1".format(*(n // 2 for n in given.image.shape))]
        scripts.append((given, click))
        if file.suffix == ".gz":
            scripts.append((replace(given, line=""), click))
    found = replay_many_cpp(program, bundle, scripts, folder, backend="openvino", threads=1)
    shares = []
    with gstk.open(bundle, "openvino", threads=1, refine=False) as session:
        for (volume, _), cpp in zip(scripts, found, strict=True):
            z, y, x = (n // 2 for n in volume.image.shape)
            prompts = {1: ObjectPrompts((Point((z, y, x)),))}
            (result,) = infer(session, volume.path, folder / "out", prompts=prompts, overwrite=True)
            assert result.error is None, result.error
            assert result.output is not None
            expected = gstk.read_volume(result.output).image > 0
            door = f"{volume.path}, {volume.line or 'read by C++'}"
            assert dice(cpp.masks[0] > 0, expected) >= 0.999, door
            shares.append(float(expected.mean()))
    return shares


@pytest.fixture(autouse=True)
def without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of objects that run out of the training's patch are Python's alone."""
    monkeypatch.setattr("gstk.session.segmenter.wants_tiles", lambda image, window: False)


@pytest.mark.parametrize("profile", ["challenge", "nv-segment-ct"])
def test_masks_of_flipped_and_oblique_files_are_those_of_infer(checked: Path, tmp_path: Path, profile: str) -> None:
    kinds = [(kind, axes) for kind in ("nii.gz", "nrrd", "mha", "dicom") for axes in AXES]
    files = [written(tmp_path / f"{kind}-{axes}", kind, axes, seed) for seed, (kind, axes) in enumerate(kinds)]
    shares = compare(checked / "replay", profile, files, tmp_path)
    print(f"{profile}: {len(shares)} masks of {min(shares):.4f} to {max(shares):.4f}")
    assert sum(0.002 < share < 0.9 for share in shares) > len(shares) / 2


@pytest.mark.parametrize("profile", ["challenge", "nv-segment-ct"])
def test_masks_of_real_files_are_those_of_infer(checked: Path, shared_data: Path, tmp_path: Path, profile: str) -> None:
    names = [name for name in RAW if profile == "challenge" or "ct_" in name or "_ct" in name]  # it wants HU
    files = [file for name in names if (file := shared_data / "raw" / name).exists()]
    if not files:
        pytest.skip(f"none of {', '.join(names)} in {shared_data / 'raw'}")
    shares = compare(checked / "replay", profile, files, tmp_path)
    print(f"{profile}: {len(shares)} masks of {min(shares):.4f} to {max(shares):.4f}")
    assert min(shares) > 0

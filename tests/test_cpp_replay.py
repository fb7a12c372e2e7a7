"""The C++ session is the Python one without refinement and without a budget: whole histories through both."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import SimpleITK
from cpp_build import needs_a_compiler
from cpp_histories import compare_histories
from cpp_replay import Volume, agreement, clicks_and_a_box, replay_cpp, replay_python

import gstk
from gstk.batch.infer import infer
from gstk.cases.npz import load_case
from gstk.cases.volumes import read_volume
from gstk.core.bundle import builtin
from gstk.core.prompts import ObjectPrompts, Point

pytestmark = needs_a_compiler

HISTORIES = int(os.environ.get("GSTK_HISTORIES", "40"))
"""Random histories that are replayed; GSTK_HISTORIES=200 takes minutes."""


def test_random_histories_agree(checked: Path, tmp_path: Path) -> None:
    found = compare_histories(checked / "replay", HISTORIES, tmp_path)
    print(found)
    assert found.differing == []
    assert found.least_agreement >= 0.9999
    assert found.nonempty > found.masks / 3


@pytest.mark.parametrize(
    "name", ["ct_totalseg_sm.nii.gz", "dicom_totalseg_ct", "mr_ibsi_sts026_T1.nii.gz", "mr_pyrad_breast1.nrrd"]
)
def test_raw_volumes_are_prepared_as_infer_prepares_them(
    released: Path, shared_data: Path, tmp_path: Path, name: str
) -> None:
    """Raw units, and the click in the middle of the volume: one mask, whichever door it came through."""
    file, case = shared_data / "raw" / name, read_volume(shared_data / "raw" / name)
    if not name.endswith(".nii.gz"):  # C++ reads no other format, so the voxels go into one
        file = tmp_path / "volume.nii.gz"
        image = SimpleITK.GetImageFromArray(case.image)
        case.geometry.apply_to(image)
        SimpleITK.WriteImage(image, str(file))
    z, y, x = (n // 2 for n in case.image.shape)
    prompts = {1: ObjectPrompts((Point((z, y, x)),))}
    with gstk.open("tiny", "openvino", threads=2, refine=False) as session:
        (result,) = infer(session, file, tmp_path / "out", prompts=prompts)
    assert result.output is not None
    expected = read_volume(result.output).image
    volume = Volume(file, case.image, case.geometry.spacing_mm)
    program = released.parent / "build" / "tests" / "replay"
    click = [f"point 1 {z} {y} {x} 1"]
    found = replay_cpp(program, builtin("tiny"), volume, click, tmp_path, threads=2, refine=0).masks[0]
    share = float((found == expected).mean())
    print(f"{name}: {int((expected > 0).sum())} voxels, agreement {share:.6f}; {result.intensities}")
    assert expected.any()
    assert share >= 0.9999


@pytest.mark.parametrize("name", ["PET_ibsi_sts018", "US_itksnap_mitral_t0", "CT_msd_spleen"])
def test_real_cases_agree(released: Path, shared_data: Path, tmp_path: Path, name: str) -> None:
    file = shared_data / "cases" / f"{name}.npz"
    case = load_case(file)
    lines = clicks_and_a_box(case)
    volume = Volume(file, case.image, case.geometry.spacing_mm)
    with gstk.open("tiny", "openvino", threads=2, refine=False) as session:
        python = replay_python(session, volume, lines)
    program = released.parent / "build" / "tests" / "replay"
    cpp = replay_cpp(program, builtin("tiny"), volume, lines, tmp_path, threads=2, refine=0)
    assert python.masks.any(axis=(1, 2, 3)).sum() > 4
    assert cpp.counts == python.counts
    assert agreement(cpp, python) >= 0.9999
    refined = replay_cpp(program, builtin("tiny"), volume, lines, tmp_path, threads=2)  # as the bundle says
    assert agreement(refined, cpp) < 1

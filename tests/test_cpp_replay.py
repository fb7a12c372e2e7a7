"""The C++ session is the Python one without refinement and without a budget: whole histories through both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from cpp_build import needs_a_compiler
from cpp_histories import compare_histories
from cpp_replay import (
    Volume,
    agreement,
    clicks_and_a_box,
    phantom,
    replay_cpp,
    replay_many_cpp,
    replay_python,
    volume_of,
)

import gstk
from gstk.batch.infer import infer
from gstk.cases.npz import load_case
from gstk.cases.volumes import read_volume
from gstk.core.bundle import builtin
from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.evaluation.metrics import dice

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


def written(image: np.ndarray, spacing_mm: tuple[float, float, float], file: Path) -> Volume:
    np.savez(file, imgs=image, spacing=np.array(spacing_mm))
    return Volume(file, image, spacing_mm)


@pytest.mark.parametrize("refine", [0, 1])
def test_flat_and_small_boxes_hold_their_objects(checked: Path, tmp_path: Path, refine: int) -> None:
    """Against the objects themselves: on one slice of a long one, on a slice that is all there is, of 1 to 3 voxels."""
    z, y, x = np.indices((24, 64, 64))
    disc, rng = ((y - 32) / 15) ** 2 + ((x - 30) / 18) ** 2 < 1, np.random.default_rng(0)
    scripts, truths = [], []
    for spacing in ((1.0, 1.0, 1.0), (5.0, 0.8, 0.8)):
        for index, organ in enumerate((disc & (z > 3) & (z < 20), disc & (z == 12), disc[12:13])):
            image = np.where(organ, 160, 40) + rng.normal(0, 8, organ.shape)
            k = 12 if len(organ) > 1 else 0
            (y0, x0), (y1, x1) = np.argwhere(disc[12]).min(axis=0), np.argwhere(disc[12]).max(axis=0)
            file = tmp_path / f"{spacing[0]}{index}.npz"
            scripts.append((written(image, spacing, file), [f"box 1 {k} {y0} {x0} {k} {y1} {x1} {k}"]))
            truths.append((k, disc[12]))
    found = replay_many_cpp(checked / "replay", builtin("tiny"), scripts, tmp_path, threads=1, refine=refine)
    for (k, truth), replayed in zip(truths, found, strict=True):
        assert dice(replayed.masks[0, k] > 0, truth) > 0.9
    small = []
    for n in (1, 2, 3):
        image = rng.normal(40, 6, (24, 36, 36))
        image[12 : 12 + n, 18 : 18 + n, 18 : 18 + n] = 160
        end = f"{11 + n} {17 + n} {17 + n}"
        small.append((written(image, (1, 1, 1), tmp_path / f"{n}.npz"), [f"box 1 12 18 18 {end} {12 + (n - 1) // 2}"]))
    found = replay_many_cpp(checked / "replay", builtin("tiny"), small, tmp_path, threads=1, refine=refine)
    for n, replayed in zip((1, 2, 3), found, strict=True):
        mask = replayed.masks[0] > 0
        assert mask[12 : 12 + n, 18 : 18 + n, 18 : 18 + n].mean() >= 0.5  # the ellipsoid in the box: 0.52
        assert mask.sum() <= 2 * n**3


def test_half_voxels_are_rounded_as_everywhere(checked: Path, tmp_path: Path) -> None:
    """A half goes to the voxel above, also below 0, and at the last half voxel there is none."""
    volume = written(np.random.default_rng(0).normal(40, 8, (24, 30, 30)), (1, 1, 1), tmp_path / "case.npz")
    clicks = [(10.5, 16, 20), (11.5, 16, 20.5), (-0.5, 3, 3), (23.5, 16, 20), (5, 29.4999, 3), (5, 29.5, 3)]
    lines = [f"point {k} {z} {y} {x} 1" for k, (z, y, x) in enumerate(clicks, start=1)]
    found = replay_cpp(checked / "replay", builtin("tiny"), volume, lines, tmp_path, threads=1, refine=0)
    geometry = Geometry(volume.image.shape, (1, 1, 1))
    wanted = [geometry.nearest_voxel(zyx) for zyx in clicks]
    assert wanted == [(11, 16, 20), (12, 16, 21), (0, 3, 3), None, (5, 29, 3), None]
    assert found.refused == [voxel is None for voxel in wanted]
    for k, voxel in enumerate(wanted, start=1):
        assert voxel is None or found.masks[-1][voxel] == k


def test_novel_objects_and_many_clicks_agree(checked: Path, small_export: Any, tmp_path: Path) -> None:
    """Clicks on objects of no trained class, and more of them than the network is given at once."""
    rng = np.random.default_rng(3)
    volume = volume_of(phantom(tmp_path / "case.npz", 3, 24), tmp_path / "case.npz")

    def click(what: str, object_id: int) -> str:
        return f"{what} {object_id} {' '.join(str(i) for i in rng.integers(0, 24, 3))} {int(rng.random() < 0.6)}"

    lines = ["novel 1 12 12 12 1", click("point", 1), "point 2 6 6 6 1", click("novel", 2), "undo", "redo", "reset 1"]
    lines += ["box 1 4 4 4 18 17 16 10", click("novel", 1), click("novel", 1), "undo", "undo", "undo"]
    many = [f"{' '.join(str(i) for i in rng.integers(0, 24, 3))} {int(rng.random() < 0.6)}" for _ in range(135)]
    lines += [f"prompts 3 0 {len(many)} {' '.join(many)}", click("point", 3)]
    with gstk.open(small_export.bundle.path, "openvino", threads=1, refine=False) as session:
        python = replay_python(session, volume, lines)
    cpp = replay_cpp(checked / "replay", small_export.bundle.path, volume, lines, tmp_path, threads=1, refine=0)
    assert cpp.refused == python.refused == [False] * len(lines)
    assert cpp.counts == python.counts
    assert agreement(cpp, python) >= 0.9999
    assert not np.array_equal(python.masks[2] == 2, python.masks[3] == 2)


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

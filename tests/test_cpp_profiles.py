"""C++ sessions of every input profile: the masks of Python's, on volumes that lie in any way in the patient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from cpp_build import needs_a_compiler
from cpp_replay import Volume, agreement, replay_many_cpp, replay_python
from nibabel.eulerangles import euler2mat

import gstk
from gstk.core.bundle import Bundle, builtin, write_bundle
from gstk.core.profile import InputProfile, Intensities, find_profile

pytestmark = [
    *needs_a_compiler,
    pytest.mark.filterwarnings("ignore:the mask of object"),
    pytest.mark.filterwarnings("ignore:.*does not say its units"),
]

PATCH = (32, 32, 32)
PROFILES = {
    "challenge": find_profile("challenge"),
    "nv-segment-ct": find_profile("nv-segment-ct"),
    # Its weights take no points; on any weights that do, everything else of it holds.
    "nv-segment-ctmr": replace(find_profile("nv-segment-ctmr"), branches=("points",)),
    "own": replace(
        find_profile("nv-segment-ctmr"),
        axis_order="zyx",
        spacing_mm=2.3,
        projection="linear",
        intensities=Intensities("file", (-900, 1200)),
        branches=("points",),
    ),
    "tiny": find_profile("tiny"),
}
ANGLES = [(0, 0, 0), (0.2, -0.1, 0.3), (0, 0, np.pi), (np.pi / 2, 0.1, 0), (2.9, 0.3, -1.4)]


def a_bundle(folder: Path, profile: InputProfile) -> Path:
    """A trained network, whose masks hang on the prompts, with another profile and small windows."""
    given = Bundle.open(builtin("tiny"))
    manifest = given.manifest
    roi = replace(manifest.roi, default=PATCH)
    sources = {name: given.path / name for name in manifest.files}
    write_bundle(folder, replace(manifest, profile=replace(profile, patch=PATCH), roi=roi, refine=False), sources)
    return folder


def a_scan(rng: np.random.Generator, file: Path, index: int) -> Volume:
    """A CT in HU, organs with air around, oblique or flipped, anisotropic, and not always larger than a window."""
    shape = tuple(int(n) for n in rng.integers(18, 60, 3))
    grid = np.indices(shape).astype(float)
    image = rng.normal(40, 30, shape)
    for _ in range(5):
        middle, radius = rng.uniform(0, shape), rng.uniform(4, 12)
        away = np.sqrt(sum((grid[a] - middle[a]) ** 2 for a in range(3)))
        image[away < radius] += rng.uniform(-300, 500)
    edge = rng.integers(0, 5, 3)
    air = np.ones(shape, bool)
    air[tuple(slice(int(e), n - int(e)) for e, n in zip(edge, shape, strict=True))] = False
    image[air] = -1000
    affine = np.eye(4)
    sides = rng.choice([0.8, 1.0, 1.5, 2.5], 3) * rng.choice([-1, 1], 3)
    affine[:3, :3] = euler2mat(*ANGLES[index % len(ANGLES)]) @ np.diag(sides)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), file)
    return Volume(file, image.T, np.abs(sides[::-1]).tolist())


def a_script(rng: np.random.Generator, volume: Volume) -> list[str]:
    """Clicks, one of them at the border, a box that a window cannot hold, and what takes them back."""

    def voxel() -> str:
        return " ".join(str(rng.integers(n // 6, n - n // 6)) for n in volume.image.shape)

    z, y, x = volume.image.shape
    return [
        f"point 1 {voxel()} 1",
        f"point 1 {voxel()} 0",
        f"point 1 {voxel()} 1",
        f"point 2 0 {y - 1} {x // 2} 1",
        f"box 3 1 1 1 {z - 2} {y - 2} {x - 2} {z // 2}",
        f"box 4 {z // 3} {y // 3} {x // 3} {z // 2} {y // 2} {x // 2} {z // 2}",
        "undo",
        "undo",
        "redo",
    ]


@pytest.mark.parametrize("windows", ["training", "adapted"])
@pytest.mark.parametrize("name", list(PROFILES))
def test_masks_are_pythons(
    checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, windows: str
) -> None:
    # Tiles of objects that run out of the training's patch are Python's alone.
    monkeypatch.setattr("gstk.session.segmenter.wants_tiles", lambda image, window: False)
    bundle = a_bundle(tmp_path / "bundle", PROFILES[name])
    rng = np.random.default_rng(11)
    volumes = [a_scan(rng, tmp_path / f"{i}.nii.gz", i) for i in range(len(ANGLES))]
    scripts = [(volume, a_script(rng, volume)) for volume in volumes]
    settings = {"backend": "openvino", "threads": 1, "adapts": int(windows == "adapted")}
    found = replay_many_cpp(checked / "replay", bundle, scripts, tmp_path, **settings)
    least, masks = 1.0, []
    with gstk.open(bundle, "openvino", threads=1, refine=False, windows=windows) as session:
        for (volume, lines), cpp in zip(scripts, found, strict=True):
            python = replay_python(session, volume, lines)
            assert cpp.counts == python.counts, volume.path.name
            least = min(least, agreement(cpp, python))
            masks += [float((mask > 0).mean()) for mask in python.masks]
    print(f"{name}, {windows}: agreement {least:.6f} over {len(masks)} masks of {min(masks):.4f} to {max(masks):.4f}")
    assert sum(0.005 < share < 0.9 for share in masks) > len(masks) / 2
    assert least >= 0.9999


def test_points_are_refused_where_weights_take_classes_alone(checked: Path, tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "bundle", find_profile("nv-segment-ctmr"))
    volume = a_scan(np.random.default_rng(1), tmp_path / "a.nii.gz", 0)
    lines = ["point 1 5 5 5 1", "box 1 1 1 1 9 9 9 5"]
    (found,) = replay_many_cpp(checked / "replay", bundle, [(volume, lines)], tmp_path, backend="openvino")
    assert found.refused == [True, True]

"""Training on what a profile says: patches against MONAI's transforms, cases made for it, and what a run remembers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from monai.transforms import Compose, Spacingd  # noqa: E402

from gstk.cases.npz import load_case  # noqa: E402
from gstk.cases.prepare import prepare, prepare_case  # noqa: E402
from gstk.core.geometry import Geometry  # noqa: E402
from gstk.core.profile import InputProfile, find_profile  # noqa: E402
from gstk.core.volume import Volume as ReadVolume  # noqa: E402
from gstk.errors import ExportError, TrainingError  # noqa: E402
from gstk.export.input_rules import fitting_profile  # noqa: E402
from gstk.training.bundle_reference import BundlePipeline  # noqa: E402
from gstk.training.checkpoint import load_checkpoint, load_extra  # noqa: E402
from gstk.training.cutting import Volume, cut_patches  # noqa: E402
from gstk.training.network import build_network  # noqa: E402
from gstk.training.recipe import DataRecipe, Recipe, load_recipe  # noqa: E402
from gstk.training.recipe_sections import LoopRecipe, StageRecipe, ValidationRecipe  # noqa: E402
from gstk.training.run_folder import RunFolder  # noqa: E402
from gstk.training.run_profile import profile_from_json, require_profile, with_profile, without_classes  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402
from gstk.training.train import train  # noqa: E402

SMALL = VISTA3DSpec(width=16, blocks_down=(1, 1), heads=1, attention_downsample=1)
CT = replace(find_profile("nv-segment-ct"), patch=(16, 16, 16))
RECIPE = Recipe(
    "mine",
    network=SMALL,
    data=DataRecipe(patches_per_case=1, max_objects=1, workers=0),
    loop=LoopRecipe(precision="off"),
    stage1=StageRecipe(steps=2),
    validation=ValidationRecipe(cases=1, clicks=1, max_objects=1),
)


def a_case(seed: int = 0, shape: tuple[int, int, int] = (14, 22, 20)) -> tuple[Any, Any]:
    """A CT in HU, and its labels: the liver and a lung tumour."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    image = 400 * np.sin(z / 3) * np.cos(y / 4) + 300 * np.sin(x / 5) + rng.normal(0, 30, shape)
    labels = np.zeros(shape, np.uint8)
    labels[3:9, 5:14, 4:12] = 1
    labels[9:12, 14:19, 12:17] = 23
    return image.astype(np.int16), labels


@pytest.mark.parametrize("name", ["ct", "ctmr", "zyx"])
def test_a_patch_is_what_nvidias_transforms_make(name: str) -> None:
    """A patch larger than the volume holds all of it: NVIDIA's image, padded on both sides."""
    profile = {
        "ct": CT,
        "ctmr": replace(find_profile("nv-segment-ctmr"), branches=("points",)),
        "zyx": replace(CT, axis_order="zyx"),
    }[name]
    image, labels = a_case()
    spacing = (2.0, 1.2, 1.5)
    sides = (48, 32, 40)
    recipe = DataRecipe(patches_per_case=2, patch_size=sides)
    patches = cut_patches(Volume(image, labels, spacing), recipe, np.random.default_rng(0), profile=profile)
    geometry = Geometry(image.shape, spacing)  # type: ignore[arg-type]
    given = ReadVolume(image, geometry, "CT", "HU", has_orientation=False)
    pipeline = BundlePipeline(build_network(SMALL), profile, given)
    expected = pipeline.image[0, 0].numpy()
    before = [(a - b) // 2 for a, b in zip(sides, expected.shape, strict=True)]
    inside = tuple(slice(a, a + n) for a, n in zip(before, expected.shape, strict=True))
    steps = [s for s in pipeline._transforms.transforms if type(s).__name__ not in _OF_VALUES]
    for step in steps:
        if isinstance(step, Spacingd):
            step.mode = ("nearest",)
    from monai.data import MetaTensor

    truth = MetaTensor(torch.from_numpy(labels.T.astype(np.float32))[None], affine=pipeline._affine)
    resampled = Compose([s for s in steps if type(s).__name__ != "CropForegroundd"])({"image": truth})["image"][0]
    assert len(patches) == 2
    for patch in patches:
        assert patch.image.shape == sides
        np.testing.assert_allclose(patch.image[inside], expected, atol=1e-5)
        outside = patch.image.copy()
        outside[inside] = 0
        assert not outside.any()
        assert set(patch.classes) == {1, 23}
        assert resampled.shape == expected.shape  # nothing was cropped away
        assert (patch.labels[inside] == resampled.numpy()).mean() > 0.999


_OF_VALUES = ("ScaleIntensityRanged", "ScaleIntensityRangePercentilesd", "CastToTyped")


def test_patches_lie_around_their_object_inside_the_volume() -> None:
    image, labels = a_case(shape=(40, 60, 50))
    recipe = DataRecipe(patches_per_case=8, patch_size=CT.patch)
    for patch in cut_patches(Volume(image, labels, (1.5, 1.0, 3.0)), recipe, np.random.default_rng(1), profile=CT):
        assert patch.image.shape == patch.labels.shape == CT.patch
        assert (patch.labels == patch.classes[0]).any()
        assert (patch.image > 0).mean() > 0.9  # no padding where the volume is larger than the patch


def test_a_case_for_a_profile_keeps_hu_and_ids_and_lies_as_ras(tmp_path: Path) -> None:
    """Against nibabel's `as_closest_canonical`, for axes in any order and of any sign."""
    image, labels = a_case()
    affine = np.array([[0, -2.0, 0, 30], [0, 0, 1.5, -10], [-3.0, 0, 0, 5], [0, 0, 0, 1]])
    for name, array in (("ct", image), ("labels", labels)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    case = prepare_case(tmp_path / "ct.nii.gz", labels=tmp_path / "labels.nii.gz", profile=CT)
    assert case.image.dtype == np.int16
    for name, array in (("ct", case.image), ("labels", case.labels)):
        canonical = nibabel.as_closest_canonical(nibabel.load(tmp_path / f"{name}.nii.gz"))
        np.testing.assert_array_equal(array, np.asarray(canonical.dataobj).T)
    assert case.geometry.spacing_mm == pytest.approx(canonical.header.get_zooms()[::-1])
    assert set(case.prompts) == {1, 23}
    (result,) = prepare(tmp_path / "ct.nii.gz", tmp_path / "out", labels=tmp_path / "labels.nii.gz", profile=CT)
    assert result.output is not None
    assert result.intensities.endswith("axes turned to RAS")
    np.testing.assert_array_equal(load_case(result.output).labels, case.labels)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("cases")
    found = []
    for seed in range(2):
        image, labels = a_case(seed, (20, 24, 22))
        found.append(folder / f"{seed}.npz")
        np.savez(found[-1], imgs=image, gts=labels, spacing=(1.5, 1.5, 1.5))
    return found


def test_a_run_remembers_its_profile_and_so_does_what_it_makes(cases: list[Path], tmp_path: Path) -> None:
    profile = find_profile("nv-segment-ct")
    recipe = with_profile(RECIPE, profile)
    assert recipe.data.patch_size == profile.patch
    assert 23 in recipe.stage1.special_classes
    recipe = replace(recipe, data=replace(recipe.data, patch_size=(16, 16, 16)))
    model = train(recipe, tmp_path, cases[:1], cases[1:], (1,), profile=profile)
    carried = profile_from_json(load_extra(model)["profile"], model)
    assert carried == replace(profile, patch=(16, 16, 16)) == RunFolder(tmp_path).profile()
    spec, state = load_checkpoint(model)
    fitting: InputProfile = fitting_profile(None, spec, state, None, True, carried)
    assert fitting == carried
    with pytest.raises(ExportError, match="trained on the input of nv-segment-ct; leave --profile out"):
        fitting_profile(find_profile("challenge"), spec, state, None, True, carried)
    train(recipe, tmp_path, cases[:1], cases[1:], (1,), resume=True, profile=profile)
    with pytest.raises(TrainingError, match=r"got the profile none .* began with nv-segment-ct; leave --profile out"):
        train(recipe, tmp_path, cases[:1], cases[1:], (1,), resume=True)
    assert require_profile(spec, load_extra(model), model) == carried


def test_what_does_not_fit_a_profile_is_refused(cases: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="windows have any resolution"):
        with_profile(load_recipe("tiny-real"), CT)
    phantoms = replace(RECIPE, data=replace(RECIPE.data, source="phantoms"))
    with pytest.raises(TrainingError, match="generates volumes of 0 to 255"):
        with_profile(phantoms, CT)
    windowed = tmp_path / "w.npz"
    np.savez(windowed, imgs=np.full((20, 20, 20), 9, np.uint8), gts=np.ones((20, 20, 20), np.uint8))
    with pytest.raises(TrainingError, match=r"1 of 2 cases .* first w.npz, .* gstk prepare --profile nv-segment-ct"):
        train(with_profile(RECIPE, CT), tmp_path / "run", [cases[0], windowed], profile=CT)
    assert not (tmp_path / "run").exists()
    with pytest.raises(TrainingError, match=r"full size .* --profile: challenge \("):
        require_profile(VISTA3DSpec(), {}, tmp_path / "model.pt")
    assert require_profile(VISTA3DSpec(), {"training": {}}, tmp_path / "model.pt") is None
    assert require_profile(SMALL, {}, tmp_path / "model.pt") is None
    with pytest.raises(TrainingError, match="no point head to train"):
        without_classes(find_profile("nv-segment-ctmr"))
    assert without_classes(CT).branches == ("points",)


def test_tiny_profile_changes_no_patch_of_a_case() -> None:
    """Runs that begin with the bundle `tiny` see what they saw without a profile."""
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (20, 30, 24)).astype(np.uint8)
    labels = (image > 100).astype(np.uint8)
    for recipe in (DataRecipe(patch_size=(16, 16, 16)), DataRecipe(cut="zoom", zoom_sides=(16, 32), session_share=0.5)):
        pairs = zip(
            cut_patches(Volume(image, labels), recipe, np.random.default_rng(2)),
            cut_patches(Volume(image, labels), recipe, np.random.default_rng(2), profile=find_profile("tiny")),
            strict=True,
        )
        for plain, own in pairs:
            np.testing.assert_array_equal(plain.image, own.image)
            np.testing.assert_array_equal(plain.labels, own.labels)

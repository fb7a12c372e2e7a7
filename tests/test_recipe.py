import dataclasses
import json
import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from gstk.errors import TrainingError
from gstk.training.recipe import (
    DataRecipe,
    LoopRecipe,
    Recipe,
    StageRecipe,
    flat_values,
    load_recipe,
    recipe_from_dict,
    with_settings,
)
from gstk.training.spec import VISTA3DSpec

RECIPES = resources.files("gstk.training") / "recipes"
SHIPPED = sorted(p.name.removesuffix(".toml") for p in RECIPES.iterdir() if p.name.endswith(".toml"))


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_these_are_shipped() -> None:
    assert SHIPPED == ["all-data", "coreset", "small", "tiny", "tiny-real"]


@pytest.mark.parametrize(("name", "epochs"), [("coreset", 200), ("all-data", 100)])
def test_the_papers_recipes_hold_its_tables(name: str, epochs: int) -> None:
    """Tables 2 and 3: AdamW 2e-5, 128 cubed, batch 1, epochs in all; section 3.2: four patches, probability 0.2."""
    recipe = load_recipe(name)
    assert recipe.stage1.epochs + recipe.stage2.epochs == epochs
    assert recipe.stage1.learning_rate == recipe.stage2.learning_rate == 2e-5
    assert (recipe.stage1.sampler, recipe.stage2.sampler) == ("vista3d", "edge-center")
    assert recipe.data.patch_size == (128, 128, 128)
    assert (recipe.data.patches_per_case, recipe.data.max_objects, recipe.stage2.max_points) == (4, 10, 5)
    assert (recipe.loop.accumulate, recipe.loop.weight_decay, recipe.loop.cross_entropy_weight) == (1, 1e-5, 1.0)
    assert recipe.data.intensity_probability == recipe.data.spatial_probability == 0.2
    assert recipe.network == VISTA3DSpec()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_say_what_their_file_says(name: str) -> None:
    recipe = load_recipe(name)
    text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    written = tomllib.loads(text)
    assert recipe.name == name
    for section in ("network", "data", "loop", "stage1", "stage2", "validation"):
        part = dataclasses.asdict(getattr(recipe, section))
        for key, value in written.pop(section, {}).items():
            assert part[key] == (tuple(value) if isinstance(value, list) else value)
    assert {key: getattr(recipe, key) for key in written} == written


def test_what_is_not_said_is_the_default(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "")) == Recipe("mine")
    recipe = load_recipe(write(tmp_path, 'name = "n"\nseed = 7\n[network]\nwidth = 16\n[stage1]\nsteps = 3\n'))
    expected = Recipe("n", 7, VISTA3DSpec(width=16), DataRecipe(), LoopRecipe(), StageRecipe(steps=3))
    assert recipe == expected
    assert load_recipe(str(tmp_path / "mine.toml")) == expected


def test_a_recipe_can_be_kept_as_json(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "[network]\nblocks_down = [1, 2, 3]\n[data]\nzoom_sides = [16, 32]\n"))
    kept = json.loads(json.dumps(recipe.to_dict()))
    assert VISTA3DSpec.from_dict(kept["network"]) == recipe.network
    assert kept["data"]["zoom_sides"] == [16, 32]
    assert recipe_from_dict(kept) == recipe
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    assert load_recipe(tmp_path / "kept.json") == recipe
    assert set(kept) == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", "mine.toml is no recipe: Invalid value"),
        ("[loop]\nkeep = 1\nkeep = 2", "mine.toml is no recipe: Cannot overwrite"),
        ("[loop]\nstep = 1", "mine.toml: .*'step'; `gstk train --dry-run` lists the fields"),
        ("[data]\nsteps = 1", "mine.toml: .*'steps'"),
        ("[optimiser]\nsteps = 1", "mine.toml: .*'optimiser'"),
        ("learning_rate = 1", "mine.toml: .*'learning_rate'"),
        ("[network]\nwdith = 16", "mine.toml: .*'wdith'"),
        ("[network]\nwidth = 12", "mine.toml: got width 12"),
        ("[network]\nblocks_down = 3", "mine.toml: .*blocks_down"),
        ("network = 3", "mine.toml: "),
        ("data = 3", "mine.toml: got data = 3, expected a table"),
        ("[[loop]]\nkeep = 3", "mine.toml: got loop = .*expected a table"),
        ("[loop]\nkeep = 1.5", "mine.toml: got loop.keep = 1.5, expected a whole number"),
        ("[loop]\nkeep = 0", "mine.toml: got loop.keep = 0, expected 1 or more"),
        ("[loop]\nprecision = 16", "mine.toml: got loop.precision = 16, expected text"),
        ("[loop]\nprecision = 'fp8'", "mine.toml: got loop.precision = 'fp8', expected one of auto, bf16, fp16, off"),
        ("[loop]\nema_decay = 1.0", "mine.toml: got loop.ema_decay = 1.0, expected a number below 1"),
        ("[loop]\nhalf_weights = 1", "mine.toml: got loop.half_weights = 1, expected true or false"),
        ("[data]\npatch_size = 128", "mine.toml: got data.patch_size = 128, expected a list"),
        ("[data]\npatch_size = [128]", "mine.toml: got data.patch_size = .128., expected 3 numbers"),
        ("[data]\npatch_size = [128, 128, 120]", "mine.toml: got patch sides .*, expected multiples of 16"),
        ("[data]\npatch_size = ['a', 1, 1]", "mine.toml: got data.patch_size = 'a', expected a whole number"),
        ("[data]\nsource = 'web'", "mine.toml: got data.source = 'web', expected one of cases, phantoms"),
        ("[data]\ncut = 'zoom'\nzoom_voxels = [1, 9]", "mine.toml: got data.zoom_voxels = .*, expected 32768 or more"),
        ("[stage1]\nsampler = 'x'", "mine.toml: got sampler = 'x', expected one of vista3d, edge-center, error"),
        ("[stage2]\nlearning_rate = 'fast'", "mine.toml: got stage2.learning_rate = 'fast', expected a number"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nope", "nope.toml", "a/nope", ""])
def test_what_is_not_there(name: str) -> None:
    with pytest.raises(TrainingError, match=r"got recipe '.*', expected a \.toml file or one of .*tiny") as caught:
        load_recipe(name)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    for name in ("folder.toml", "latin.toml"):
        with pytest.raises(TrainingError, match=f"{name} is no recipe") as caught:
            load_recipe(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_settings_change_single_fields() -> None:
    recipe = load_recipe("tiny")
    changed = with_settings(
        recipe, ["seed=3", "stage1.steps=7", "stage2.learning_rate=1", "data.zoom_sides=[32, 64]", "loop.precision=off"]
    )
    assert changed == dataclasses.replace(
        recipe,
        seed=3,
        stage1=dataclasses.replace(recipe.stage1, steps=7),
        stage2=dataclasses.replace(recipe.stage2, learning_rate=1.0),
        data=dataclasses.replace(recipe.data, zoom_sides=(32, 64)),
        loop=dataclasses.replace(recipe.loop, precision="off"),
    )
    before, after = flat_values(recipe), flat_values(changed)
    assert [key for key in before if before[key] != after[key]] == [
        "seed", "data.zoom_sides", "loop.precision", "stage1.steps", "stage2.learning_rate"
    ]  # fmt: skip
    assert with_settings(recipe, ['data.shares={"CT_*"=2, phantoms=0.5}']).data.shares == {"CT_*": 2.0, "phantoms": 0.5}
    assert with_settings(recipe, []) == recipe


@pytest.mark.parametrize(
    "setting", ["steps", "stage1.steps", "stage1.stpes=3", "stage1=3", "a.b.c=1", "stage1.steps=many", "=3", "seed.x=1"]
)
def test_settings_that_change_nothing(setting: str) -> None:
    with pytest.raises(TrainingError) as caught:
        with_settings(load_recipe("tiny"), [setting])
    assert "\n" not in str(caught.value)


def test_the_page_names_every_field_with_its_default() -> None:
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| `([^`]+)` \|", page, re.M))
    defaults = {
        key: value for key, value in flat_values(Recipe("r")).items() if key != "name" and not key.startswith("stage2.")
    }
    defaults["network.filters"] = 0  # filled in by the width
    assert set(rows) == set(defaults)
    for key, value in defaults.items():
        assert tomllib.loads(f"value = {rows[key]}")["value"] == value, key


def test_the_page_names_every_recipe() -> None:
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in SHIPPED)

import dataclasses
import json
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from gstk.errors import TrainingError
from gstk.training.recipe import DataRecipe, LoopRecipe, Recipe, load_recipe
from gstk.training.spec import VISTA3DSpec

SHIPPED = sorted(p.name.removesuffix(".toml") for p in (resources.files("gstk.training") / "recipes").iterdir())


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_tiny_is_shipped() -> None:
    assert "tiny" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_say_what_their_file_says(name: str) -> None:
    recipe = load_recipe(name)
    text = (resources.files("gstk.training") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    written = tomllib.loads(text)
    assert recipe.name == name
    for section in ("network", "data", "loop"):
        part = dataclasses.asdict(getattr(recipe, section))
        for key, value in written.pop(section, {}).items():
            assert part[key] == (tuple(value) if isinstance(value, list) else value)
            assert type(part[key]) is type(getattr(type(getattr(recipe, section))(), key))
    assert {key: getattr(recipe, key) for key in written} == written


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_fit_their_network(name: str) -> None:
    recipe = load_recipe(name)
    assert all(side % recipe.network.roi_multiple == 0 for side in recipe.data.patch_sides)
    assert min(recipe.data.patch_sides) ** 3 <= min(recipe.data.patch_voxels)
    assert recipe.data.phantom_side >= 16


def test_what_is_not_said_is_the_default(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "")) == Recipe("mine")
    recipe = load_recipe(write(tmp_path, 'name = "n"\nseed = 7\n[network]\nwidth = 16\n[loop]\nsteps = 3\n'))
    expected = Recipe("n", 7, VISTA3DSpec(width=16), DataRecipe(), LoopRecipe(steps=3))
    assert recipe == expected
    assert load_recipe(str(tmp_path / "mine.toml")) == expected


def test_a_recipe_can_be_kept_as_json(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "[network]\nblocks_down = [1, 2, 3]\n[data]\npatch_sides = [16, 32]\n"))
    kept = json.loads(json.dumps(recipe.to_dict()))
    assert VISTA3DSpec.from_dict(kept["network"]) == recipe.network
    assert kept["data"]["patch_sides"] == [16, 32]
    assert set(kept) == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", "mine.toml is no recipe: Invalid value"),
        ("[loop]\nsteps = 1\nsteps = 2", "mine.toml is no recipe: Cannot overwrite"),
        ("[loop]\nstep = 1", "mine.toml: .*'step'; see gstk.training.recipe for the fields"),
        ("[data]\nsteps = 1", "mine.toml: .*'steps'"),
        ("[optimiser]\nsteps = 1", "mine.toml: .*'optimiser'"),
        ("learning_rate = 1", "mine.toml: .*'learning_rate'"),
        ("[network]\nwdith = 16", "mine.toml: .*'wdith'"),
        ("[network]\nwidth = 12", "mine.toml: got width 12"),
        ("[network]\nblocks_down = 3", "mine.toml: .*blocks_down"),
        ("network = 3", "mine.toml: "),
        ("data = 3", "mine.toml: got data = 3, expected a table"),
        ("[[loop]]\nsteps = 3", "mine.toml: got loop = .*expected a table"),
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

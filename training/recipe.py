"""A training run as data: what a recipe's TOML file holds."""

from __future__ import annotations

import json
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from gstk.errors import CheckpointError, TrainingError
from gstk.training.recipe_sections import DataRecipe, LoopRecipe, StageRecipe, ValidationRecipe
from gstk.training.spec import VISTA3DSpec

__all__ = [
    "DataRecipe",
    "LoopRecipe",
    "Recipe",
    "StageRecipe",
    "ValidationRecipe",
    "load_recipe",
    "recipe_from_dict",
    "with_settings",
]


LEAST_LOCAL_WIDTH, LEAST_A_HEAD = 16, 6
"""What `gstk.training.initialise` needs: sine and cosine along three axes, a head, and twice that in all."""


@dataclass(frozen=True)
class Recipe:
    """One run: its name, seed, network, data, loop, and the two stages."""

    name: str
    seed: int = 0
    network: VISTA3DSpec = field(default_factory=VISTA3DSpec)
    data: DataRecipe = field(default_factory=DataRecipe)
    loop: LoopRecipe = field(default_factory=LoopRecipe)
    stage1: StageRecipe = field(default_factory=StageRecipe)
    stage2: StageRecipe = field(default_factory=lambda: StageRecipe(sampler="edge-center"))
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)

    def __post_init__(self) -> None:
        multiple = self.network.roi_multiple
        sides = self.data.zoom_sides if self.data.cut == "zoom" else self.data.patch_size
        if any(side % multiple or side < multiple for side in sides):
            raise TrainingError(
                f"got patch sides {list(sides)}, expected multiples of {multiple} for {self.network.levels} levels"
            )
        if self.data.cut == "zoom" and min(sides) ** 3 > min(self.data.zoom_voxels):
            raise TrainingError(
                f"got data.zoom_voxels = {list(self.data.zoom_voxels)}, expected {min(sides) ** 3} or more, a cube of "
                "the shortest side"
            )

        network = self.network
        a_head = network.width // network.attention_downsample // network.heads
        if self.loop.local_init and (network.width < LEAST_LOCAL_WIDTH or a_head < LEAST_A_HEAD):
            raise TrainingError(
                f"got network.width = {network.width} and {a_head} channels a head with loop.local_init, expected a "
                f"multiple of 8 from {LEAST_LOCAL_WIDTH} on and {LEAST_A_HEAD} a head"
            )

    def stage(self, number: int) -> StageRecipe:
        """The recipe of stage 1 or 2."""
        return self.stage1 if number == 1 else self.stage2

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values, for a checkpoint or a manifest; `recipe_from_dict` reads them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self) | {"network": self.network.to_dict()}))
        return values


_SECTIONS: dict[str, type[Any]] = {
    "data": DataRecipe,
    "loop": LoopRecipe,
    "stage1": StageRecipe,
    "stage2": StageRecipe,
    "validation": ValidationRecipe,
}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Reads a recipe: a TOML or JSON file, or the name of one that gstk ships.

    Raises:
        TrainingError: there is no such recipe, it is not TOML, a field is unknown or of a wrong type, or the network
            is none.
    """
    path = Path(name_or_path)
    shipped = resources.files("gstk.training") / "recipes"
    if path.suffix not in (".toml", ".json"):
        path = Path(str(shipped / f"{name_or_path}.toml"))
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        names = sorted(p.name.removesuffix(".toml") for p in shipped.iterdir() if p.name.endswith(".toml"))
        wanted = f"expected a .toml file or one of {', '.join(names)}"
        raise TrainingError(f"got recipe {str(name_or_path)!r}, {wanted}") from None
    except (OSError, ValueError) as error:  # errors of TOML, of JSON and of Unicode are ValueErrors
        raise TrainingError(f"{path.name} is no recipe: {error}") from None
    try:
        return recipe_from_dict({"name": path.stem, **values})
    except TrainingError as error:
        raise TrainingError(f"{path.name}: {error}") from None


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """A recipe from what its TOML file, or `Recipe.to_dict`, holds.

    Raises:
        TrainingError: a field is unknown, missing or of a wrong type, or its value makes no sense.
    """
    rest = dict(values)
    try:
        parts = {key: _section(key, kind, rest.pop(key, {})) for key, kind in _SECTIONS.items()}
        network = rest.pop("network", {})
        if not isinstance(network, Mapping):
            raise TrainingError(f"got network = {network!r}, expected a table of fields")
        return Recipe(**_checked("", Recipe, rest), network=VISTA3DSpec.from_dict(network), **parts)
    except (TypeError, CheckpointError) as error:
        raise TrainingError(f"{error}; `gstk train --dry-run` lists the fields") from None


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with some fields changed.

    Args:
        settings: `key=value` each, the key as `seed` or `stage1.epochs`, the value as TOML has it; a word that is no
            TOML value is text.

    Raises:
        TrainingError: there is no such field, or it cannot have that value.
    """
    values = recipe.to_dict()
    for setting in settings:
        key, equals, text = setting.partition("=")
        *path, name = key.strip().split(".")
        table = values
        for part in path:
            table = table[part] if isinstance(table.get(part), dict) else {}
        if not equals or name not in table or (isinstance(table[name], dict) and not path):
            raise TrainingError(
                f"got --set {setting!r}, expected section.field=value with a field of the recipe, as stage1.epochs=5"
            )
        try:
            table[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            table[name] = text.strip()
    return recipe_from_dict(values)


def flat_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe's values by name, such as `stage1.steps`, JSON-ready."""
    values: dict[str, Any] = {}
    for key, value in recipe.to_dict().items():
        values |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return values


def with_spec(recipe: Recipe, spec: VISTA3DSpec) -> Recipe:
    """The recipe for a network of another architecture."""
    return replace(recipe, network=spec)


def _section(name: str, kind: type[Any], values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise TrainingError(f"got {name} = {values!r}, expected a table of fields")
    defaults = {"sampler": "edge-center"} if name == "stage2" else {}
    return kind(**defaults | _checked(f"{name}.", kind, values))


def _checked(prefix: str, kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with lists as tuples, each of its field's type; unknown ones are left for the constructor."""
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    checked = {}
    for key, value in values.items():
        kept = tuple(value) if isinstance(value, list) else value
        if key in known:
            kept = _as_type(f"{prefix}{key}", hints[key], kept)
        checked[key] = kept
    return checked


def _as_type(name: str, hint: Any, value: Any) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            raise TrainingError(f"got {name} = {value!r}, expected a list")
        return tuple(_as_type(name, get_args(hint)[0], item) for item in value)
    if get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise TrainingError(f"got {name} = {value!r}, expected a table")
        return {str(key): _as_type(f"{name}.{key}", get_args(hint)[1], item) for key, item in value.items()}
    assert get_origin(hint) not in (Union, types.UnionType), "no field may be of several types"
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TrainingError(f"got {name} = {value!r}, expected {_TYPE_NAMES.get(hint, hint.__name__)}")
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

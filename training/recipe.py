"""A training run as data: what a recipe's TOML file holds."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from gstk.errors import CheckpointError, TrainingError
from gstk.training.spec import VISTA3DSpec

__all__ = ["DataRecipe", "LoopRecipe", "Recipe", "load_recipe"]


@dataclass(frozen=True)
class DataRecipe:
    """Where patches come from.

    Attributes:
        phantom_side: side of a generated volume, voxels.
        patches_per_phantom: patches that are cut from one volume before the next is drawn.
        patch_voxels: most voxels of a patch, at the start of a run and from `growth_patches` on; cubes in between.
        growth_patches: patches over which the first grows into the second.
        patch_sides: sides that a patch may have along each axis; multiples of the spec's `roi_multiple`.
        cube_share: share of the patches that are cubes.
        object_extent: range (log-uniform) of the clicked object's longest side over the patch's side.
        max_objects: objects of a patch that are clicked on.
        intensity_probability: chance of each intensity perturbation (the paper: 0.2).
    """

    phantom_side: int = 96
    patches_per_phantom: int = 3
    patch_voxels: tuple[int, int] = (64**3, 64**3)
    growth_patches: int = 0
    patch_sides: tuple[int, ...] = (32, 48, 64, 80, 96)
    cube_share: float = 0.6
    object_extent: tuple[float, float] = (0.12, 1.1)
    max_objects: int = 4
    intensity_probability: float = 0.2


@dataclass(frozen=True)
class LoopRecipe:
    """How weights are fitted.

    Attributes:
        steps: optimiser steps, one patch each.
        learning_rate, weight_decay, warmup_steps: AdamW under a warm-up cosine.
        max_points: most points of a sign that the first round draws.
        max_rounds: most rounds of clicks on the error that follow the first prompt.
        round_steps: steps after which one more such round is allowed, until there are `max_rounds`.
        cross_entropy_weight: weight of cross entropy beside Dice (the paper: 1).
        local_init: start from `gstk.training.initialise`, for networks trained from scratch.
        ema_decay: exponential moving average of the weights, which is what is saved.
        clip_norm: largest gradient norm.
        bf16: run convolutions in bfloat16.
        train_frequencies: also fit the positional encoding's frequencies, which MONAI draws and leaves.
    """

    steps: int = 5000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    warmup_steps: int = 200
    max_points: int = 4
    max_rounds: int = 4
    round_steps: int = 0
    cross_entropy_weight: float = 1.0
    local_init: bool = False
    ema_decay: float = 0.998
    clip_norm: float = 1.0
    bf16: bool = True
    train_frequencies: bool = False


@dataclass(frozen=True)
class Recipe:
    """One run: its name, seed, network, data and loop."""

    name: str
    seed: int = 0
    network: VISTA3DSpec = field(default_factory=VISTA3DSpec)
    data: DataRecipe = field(default_factory=DataRecipe)
    loop: LoopRecipe = field(default_factory=LoopRecipe)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values, for a checkpoint or a manifest."""
        return {**asdict(self), "network": self.network.to_dict()}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Reads a recipe: a TOML file, or the name of one that gstk ships.

    Raises:
        TrainingError: there is no such recipe, it is not TOML, a field is unknown, or the network is none.
    """
    path = Path(name_or_path)
    shipped = resources.files("gstk.training") / "recipes"
    if path.suffix != ".toml":
        path = Path(str(shipped / f"{name_or_path}.toml"))
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = sorted(p.name.removesuffix(".toml") for p in shipped.iterdir())
        wanted = f"expected a .toml file or one of {', '.join(names)}"
        raise TrainingError(f"got recipe {str(name_or_path)!r}, {wanted}") from None
    except (OSError, ValueError) as error:  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors
        raise TrainingError(f"{path.name} is no recipe: {error}") from None
    sections: dict[str, Any] = {"data": DataRecipe, "loop": LoopRecipe}
    try:
        parts = {key: kind(**_tuples(key, values.pop(key, {}))) for key, kind in sections.items()}
        network = VISTA3DSpec.from_dict(values.pop("network", {}))
        return Recipe(**{"name": path.stem, **values}, network=network, **parts)
    except (TypeError, CheckpointError) as error:
        raise TrainingError(f"{path.name}: {error}; see gstk.training.recipe for the fields") from None


def _tuples(section: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise TypeError(f"got {section} = {values!r}, expected a table of fields")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

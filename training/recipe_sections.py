"""What a recipe says of its parts: the data, the loop, a stage, validation. Each checks its own values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gstk.errors import TrainingError
from gstk.training.sampling import COUNT_LAWS, SAMPLERS

__all__ = ["DataRecipe", "LoopRecipe", "StageRecipe", "ValidationRecipe"]

SOURCES = ("cases", "phantoms")
CUTS = ("crop", "zoom")
SPACING_ORDERS = ("zyx", "xyz")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("auto", "bf16", "fp16", "off")


@dataclass(frozen=True)
class DataRecipe:
    """Where patches come from and how they are varied (the paper, section 3.2).

    Attributes:
        source: `cases` (.npz files) or `phantoms` (generated volumes).
        spacing_order: axis order of the `spacing` of the cases: `zyx`, or `xyz` as in some published files.
        cut: `crop` takes patches at the volume's own resolution around a voxel of a class drawn at random, as the paper
            does; `zoom` samples windows around an object at the resolution that it asks for, as a session does.
        patches_per_case: patches that are cut from one volume.
        max_objects: most objects of a patch that are clicked on.
        patch_size: (z,y,x) of `crop`; smaller volumes are padded with zeros.
        intensity_probability: chance of each intensity perturbation: scale, shift, noise.
        spatial_probability: chance of a flip along each axis, and of a quarter turn.
        any_orientation: all 48 orientations of a cube alike instead, for data without an up.
        workers: processes that prepare data ahead; 0 prepares it between the steps.
        zoom_voxels: most voxels of a `zoom` patch at the start of a stage, and from `growth_patches` on.
        growth_patches: patches over which the first grows into the second; cubes in between.
        zoom_sides: sides that a `zoom` patch may have along each axis.
        cube_share: share of the `zoom` patches that are cubes.
        object_extent: range (log-uniform) of the object's longest side over the `zoom` patch's side.
        zoom_steps: least and greatest step of a `zoom` patch, voxels of the volume.
        phantom_side: side of a generated volume, voxels.
        phantoms: generated volumes that count as one epoch.
        phantom_shares: weight of each kind of generated volume, in any unit, kinds that are not named at 0. Empty takes
            `gstk.cases.phantoms`' own.
        shares: what part of the volumes comes from where, in any unit: the weight of the cases whose name, without
            .npz, matches a pattern such as `CT_*` (the first that does), and of `phantoms`, which are generated. Empty
            takes every case alike.
        session_share: share of the `zoom` patches that are windows as a session lays them: around a click on an object
            of unknown size, around its box, or around a mask that is too large or too small.
        session_voxels: least and most voxels of those, in between by their logarithm and more often few.
    """

    source: str = "cases"
    spacing_order: str = "zyx"
    cut: str = "crop"
    patches_per_case: int = 4
    max_objects: int = 10
    patch_size: tuple[int, ...] = (128, 128, 128)
    intensity_probability: float = 0.2
    spatial_probability: float = 0.2
    any_orientation: bool = False
    workers: int = 4
    zoom_voxels: tuple[int, ...] = (64**3, 64**3)
    growth_patches: int = 0
    zoom_sides: tuple[int, ...] = (32, 48, 64, 80, 96)
    cube_share: float = 0.6
    object_extent: tuple[float, ...] = (0.12, 1.1)
    zoom_steps: tuple[float, ...] = (0.35, 2.5)
    phantom_side: int = 96
    phantoms: int = 1000
    phantom_shares: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    session_share: float = 0.0
    session_voxels: tuple[int, ...] = (32**3, 64**3)

    @property
    def voxels(self) -> int:
        """Most voxels of a patch."""
        return (
            math.prod(self.patch_size)
            if self.cut == "crop"
            else max(*self.zoom_voxels, *(self.session_voxels if self.session_share else ()))
        )

    def __post_init__(self) -> None:
        _require_one_of("data.source", self.source, SOURCES)
        _require_one_of("data.spacing_order", self.spacing_order, SPACING_ORDERS)
        _require_one_of("data.cut", self.cut, CUTS)
        _require_range(self, "data", 1, "patches_per_case", "max_objects", "phantoms", "phantom_side")
        _require_range(
            self,
            "data",
            0,
            "workers",
            "growth_patches",
            "intensity_probability",
            "spatial_probability",
            "session_share",
        )
        for name, length in (
            ("patch_size", 3),
            ("zoom_voxels", 2),
            ("object_extent", 2),
            ("zoom_steps", 2),
            ("session_voxels", 2),
        ):
            if len(getattr(self, name)) != length:
                raise TrainingError(f"got data.{name} = {list(getattr(self, name))}, expected {length} numbers")
        if not self.zoom_sides:
            raise TrainingError("got data.zoom_sides = [], expected one side or more")
        if any(weight <= 0 for weight in self.shares.values()):
            raise TrainingError(f"got data.shares = {self.shares}, expected weights above 0; leave out what has none")
        if self.phantom_shares:
            from gstk.cases.phantoms import KINDS  # SciPy, for who names kinds alone

            unknown = [name for name in self.phantom_shares if name not in KINDS]
            if unknown:
                known = ", ".join(KINDS)
                raise TrainingError(f"got data.phantom_shares for {unknown[0]!r}, expected kinds of {known}")
            if any(not 0 < weight < math.inf for weight in self.phantom_shares.values()):
                raise TrainingError(
                    f"got data.phantom_shares = {self.phantom_shares}, expected each above 0; leave out what has none"
                )


@dataclass(frozen=True)
class LoopRecipe:
    """How weights are fitted.

    Attributes:
        accumulate: patches, one after the other, of one step of each process.
        weight_decay: of AdamW.
        cross_entropy_weight: weight of cross entropy beside Dice.
        precision: `bf16` or `fp16` autocast (the second with a scaled loss), `off`, or `auto`: bfloat16 where the
            processor computes in it, else float16 on a GPU and float32 on a CPU, which would emulate the others.
        clip_norm: largest norm of the gradient.
        convolution_rate: where it is above 0, every convolution keeps the norm of weights that it began with, and its
            learning rate is this share of their root mean square. Norm layers make a convolution's scale meaningless,
            so Adam lets it grow; from fresh weights the maps of the up path grew to 1e9 and drowned the skip
            connections. (Karras et al., CVPR 2024, normalise weights at each step for the same reason.)
        ema_decay: of the moving average of the weights, which is the model that comes out; 0 keeps none.
        object_weight: weight of what `gstk.training.auxiliary` asks of the embedding beside the masks; 0: nothing.
        stream_weight: weight of what `gstk.training.streams` asks of the encoder's levels; 0: nothing.
        half_weights: round the model to float16, so that a bundle may store it so and lose nothing.
        local_init: fresh weights from `gstk.training.initialise`, for narrow networks.
        train_frequencies: fit the positional encoding's frequencies too, which MONAI draws and leaves.
        checkpoint_steps: steps between checkpoints.
        keep: how many checkpoints are kept.
    """

    accumulate: int = 1
    weight_decay: float = 1e-5
    cross_entropy_weight: float = 1.0
    precision: str = "auto"
    clip_norm: float = 1.0
    convolution_rate: float = 0.0
    ema_decay: float = 0.999
    object_weight: float = 0.0
    stream_weight: float = 0.0
    half_weights: bool = False
    local_init: bool = False
    train_frequencies: bool = False
    checkpoint_steps: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        _require_one_of("loop.precision", self.precision, PRECISIONS)
        _require_range(self, "loop", 1, "accumulate", "checkpoint_steps", "keep")
        _require_range(
            self,
            "loop",
            0,
            "weight_decay",
            "cross_entropy_weight",
            "clip_norm",
            "convolution_rate",
            "ema_decay",
            "object_weight",
            "stream_weight",
        )
        if self.ema_decay >= 1:
            raise TrainingError(f"got loop.ema_decay = {self.ema_decay}, expected a number below 1")


@dataclass(frozen=True)
class StageRecipe:
    """One of the two stages (the paper, section 3.2, "Model selection criteria").

    Attributes:
        epochs: passes over the cases.
        steps: optimiser steps instead, where it is not 0.
        learning_rate: AdamW's, at the top of the warm-up cosine.
        warmup_steps: of the schedule; at most a tenth of the stage's steps are used.
        schedule: after the warm-up, `cosine` falls to nothing at the stage's end; `constant` stays, for a stage that
            may be ended at any step.
        sampler, count_law, max_points, max_rounds, special_classes: see `gstk.training.sampling.make_sampler`.
    """

    epochs: int = 100
    steps: int = 0
    learning_rate: float = 2e-5
    warmup_steps: int = 500
    schedule: str = "cosine"
    sampler: str = "vista3d"
    count_law: str = "paper"
    max_points: int = 5
    max_rounds: int = 4
    special_classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require_one_of("schedule", self.schedule, SCHEDULES)
        _require_one_of("sampler", self.sampler, SAMPLERS)
        _require_one_of("count_law", self.count_law, COUNT_LAWS)
        _require_range(self, "stage", 0, "epochs", "steps", "learning_rate", "warmup_steps", "max_rounds")
        _require_range(self, "stage", 1, "max_points")


@dataclass(frozen=True)
class ValidationRecipe:
    """Clicks by the official rule on cases that are not trained on.

    Attributes:
        steps: steps between validations; 0 validates at the end of a stage alone.
        cases: most cases of the list, or generated volumes where the source is `phantoms`.
        clicks: clicks on each object, one after the other.
        max_objects: most objects of a case, the largest first.
    """

    steps: int = 0
    cases: int = 8
    clicks: int = 5
    max_objects: int = 4

    def __post_init__(self) -> None:
        _require_range(self, "validation", 0, "steps", "cases")
        _require_range(self, "validation", 1, "clicks", "max_objects")


def _require_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise TrainingError(f"got {name} = {value!r}, expected one of {', '.join(choices)}")


def _require_range(part: Any, section: str, least: int, *names: str) -> None:
    for name in names:
        if getattr(part, name) < least:
            raise TrainingError(f"got {section}.{name} = {getattr(part, name)}, expected {least} or more")

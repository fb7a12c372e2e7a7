"""Recipes small enough to train within a test, their cases, and a report that keeps what it is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gstk.cases.npz import Case, save_case
from gstk.cases.phantoms import generate_phantom
from gstk.core.geometry import Geometry
from gstk.training.checkpoint import load_checkpoint
from gstk.training.loop import Progress
from gstk.training.recipe import DataRecipe, LoopRecipe, Recipe, StageRecipe, ValidationRecipe
from gstk.training.spec import VISTA3DSpec
from gstk.training.train import Report

SMALL = Recipe(
    name="small",
    seed=5,
    network=VISTA3DSpec(width=16, blocks_down=(1, 1), heads=1, attention_downsample=1),
    data=DataRecipe(patch_size=(16, 16, 16), patches_per_case=2, max_objects=2, workers=0),
    loop=LoopRecipe(precision="off", checkpoint_steps=2, local_init=True, object_weight=1.0, convolution_rate=0.02),
    stage1=StageRecipe(steps=4, learning_rate=1e-3, sampler="error", max_rounds=1, warmup_steps=2),
    stage2=StageRecipe(steps=2, learning_rate=1e-3, sampler="edge-center"),
    validation=ValidationRecipe(cases=0),
)


PHANTOMS = replace(
    SMALL,
    data=replace(
        SMALL.data, source="phantoms", cut="zoom", phantom_side=32, zoom_voxels=(4096, 4096), zoom_sides=(16,)
    ),
)


def make_cases(folder: Path) -> list[Path]:
    """Three labelled volumes of 24 voxels a side in an existing folder."""
    for seed in range(3):
        phantom = generate_phantom(seed, (24, 24, 24), "blobs")
        case = Case(f"c{seed}", phantom.image, Geometry((24, 24, 24), phantom.spacing_mm), labels=None)
        save_case(folder / f"c{seed}.npz", replace(case, labels=phantom.labels.astype(np.uint8)))
    return sorted(folder.glob("*.npz"))


class Notes(Report):
    """Keeps what it is told."""

    def __init__(self, stop_at: int = 0) -> None:
        self.losses: list[float] = []
        self.problems: list[str] = []
        self.scores: list[tuple[int, Any]] = []
        self.began: list[tuple[int, int, int]] = []
        self.changes: list[str] = []
        self.stopped: list[int] = []
        self.began_fresh = False
        self.stop_at = stop_at

    def changed(self, changes: Sequence[str]) -> None:
        self.changes += changes

    def fresh(self) -> None:
        self.began_fresh = True

    def stopping(self, number: int) -> None:
        self.stopped.append(number)

    def begin(self, stage: int, step: int, steps: int) -> None:
        self.began.append((stage, step, steps))

    def progress(self, stage: int, progress: Progress) -> None:
        self.losses.append(progress.values["loss"])
        self.problems += progress.problems
        if progress.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def validated(self, stage: int, step: int, scores: Any) -> None:
        self.scores.append((step, scores))


def same_weights(first: Path, second: Path) -> None:
    one, two = load_checkpoint(first)[1], load_checkpoint(second)[1]
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name

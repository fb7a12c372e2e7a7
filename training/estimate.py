"""Estimates of a run: its steps and memory without computing anything, and its time, if wanted, by measuring steps.

Memory is that of the largest patch: the network runs on tensors that have shapes and no values. Time is that of real
patches of the run, drawn evenly over it, since the patches, their objects and the clicks on them differ; patches that
are not measured count by their voxels and objects.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets.vista3d import VISTA3D

from gstk.core.profile import InputProfile
from gstk.training.cutting import Patch
from gstk.training.data import Volumes
from gstk.training.distributed import Processes
from gstk.training.loop import Trainer, stage_steps, trained_parameters
from gstk.training.network import Encoder, PromptDecoder, build_network
from gstk.training.precision import autocast_dtype
from gstk.training.recipe import Recipe

__all__ = ["Measured", "StagePlan", "measure_stage", "plan_stage"]

_BYTES_PER_WEIGHT = 4 * 4
"""Weight, gradient and two moments of AdamW, float32; the moving average is a fifth."""
_DRAWN_VOLUMES = 8
"""Volumes whose patches stand for those of the run."""
_ENCODER_SHARE = 1.2
"""What encoding takes, forward and backward, over decoding one object in the rounds of a patch."""
_LEAST_PATCHES = 2
_FIRST_SIDE = 4
"""Of the patch that says how long measuring takes, in multiples of the network's; a smaller one is all overhead."""


@dataclass(frozen=True)
class StagePlan:
    """Steps, weights and memory of a stage.

    Attributes:
        steps: optimiser steps.
        patches_per_step: over all processes.
        parameters: weights that are fitted.
        memory_bytes: of a process, for the largest patch with the most objects: weights, optimiser and what the
            backward pass keeps.
        device: where it will compute.
        precision: what it computes in: bf16, fp16 or fp32.
    """

    steps: int
    patches_per_step: int
    parameters: int
    memory_bytes: int
    device: str
    precision: str


@dataclass(frozen=True)
class Measured:
    """Measured times of a stage's steps.

    Attributes:
        seconds_per_step: expected of a step, without waiting for data.
        patches: how many were measured.
    """

    seconds_per_step: float
    patches: int


def plan_stage(recipe: Recipe, stage: int, cases: int, processes: Processes | None = None) -> StagePlan:
    """Counts a stage's steps, weights and memory; nothing is computed.

    Args:
        cases: number of cases to train on; 0 where volumes are generated.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    processes = processes or Processes()
    dtype = autocast_dtype(recipe.loop.precision, processes.device)
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a copy of a layer asks where its values are, and there are none
        network = build_network(recipe.network).train()
        fitted = sum(p.numel() for p in trained_parameters(network, recipe.loop))
        kept = _kept_bytes(network, recipe, stage, dtype)
    lanes = processes.count * recipe.loop.accumulate
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}
    return StagePlan(
        steps=stage_steps(recipe, stage, cases, lanes),
        patches_per_step=lanes,
        parameters=fitted,
        memory_bytes=fitted * (_BYTES_PER_WEIGHT + (4 if recipe.loop.ema_decay else 0)) + kept,
        device=str(processes.device),
        precision=names[dtype],
    )


def _kept_bytes(network: VISTA3D, recipe: Recipe, stage: int, dtype: torch.dtype | None) -> int:
    """Bytes that autograd keeps of the first and the last mask of the largest patch; the tensors have no values."""
    multiple = recipe.network.roi_multiple
    shape = recipe.data.patch_size
    if recipe.data.cut == "zoom":
        side = max(multiple, round(recipe.data.voxels ** (1 / 3) / multiple) * multiple)
        shape = (side, side, side)
    chosen = recipe.stage(stage)
    objects, points = recipe.data.max_objects, chosen.max_points
    decodes = 2 if chosen.sampler == "error" and chosen.max_rounds else 1
    encoder, decoder = Encoder(network), PromptDecoder(network)
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        embedding = encoder(torch.empty(1, 1, *shape)).float()
        coords, labels = torch.zeros(objects, points, 3), torch.ones(objects, points, dtype=torch.int64)
        masks = [decoder(embedding, coords, labels).float() for _ in range(decodes)]
    del masks
    return sum(size for place, size in kept.items() if place not in weights)


def measure_stage(
    recipe: Recipe,
    stage: int,
    cases: Sequence[Path],
    processes: Processes | None = None,
    seconds: float = 45.0,
    on_progress: Callable[[str], None] = lambda line: None,
    profile: InputProfile | None = None,
) -> Measured:
    """Runs some steps of a stage with fresh weights, and extrapolates their time.

    Args:
        cases: to train on; empty where volumes are generated.
        seconds: ends after about so long, but not before two patches of the run and a small one to warm up.
        on_progress: told what is measured, and how long that will take.
        profile: what the network's input is; see `gstk.training.cutting.cut_patches`.
    """
    processes = processes or Processes()
    data = replace(recipe.data, workers=0)
    steps = stage_steps(recipe, stage, len(cases), processes.count * recipe.loop.accumulate)
    volumes = Volumes(cases, data, (recipe.seed, stage), profile)
    last = max(1, math.ceil(steps * recipe.loop.accumulate / data.patches_per_case))
    draws = np.unique(np.linspace(0, last, _DRAWN_VOLUMES, endpoint=False).astype(int))
    patches = [patch for draw in draws for patch in volumes[int(draw)].patches]
    if not patches:
        return Measured(math.nan, 0)
    patches = [patches[i] for i in np.random.default_rng(0).permutation(len(patches))]
    trainer = Trainer(recipe, stage, build_network(recipe.network), cases, Processes(device=processes.device))
    small = min(patches, key=_cost)
    side = _FIRST_SIDE * recipe.network.roi_multiple
    first = Patch(small.image[:side, :side, :side], small.labels[:side, :side, :side], small.classes)
    trainer.measure(first)  # what a first call sets up
    expected = trainer.measure(first) / _cost(first) * float(np.mean([_cost(p) for p in patches]))
    wanted = int(np.clip(0.5 * seconds / max(expected, 1e-9), _LEAST_PATCHES, len(patches)))
    shapes = {patch.image.shape for patch in patches[:wanted]}
    takes = expected * (wanted + len(shapes))
    on_progress(f"stage {stage}: measuring {wanted} of its patches takes about {takes:.0f} s")
    began, spent, measured = time.perf_counter(), 0.0, 0.0
    done = 0
    for patch in patches[:wanted]:
        if patch.image.shape in shapes:  # a first call of its shape, which a run has few of
            trainer.measure(patch)
            shapes.remove(patch.image.shape)
        spent += trainer.measure(patch)
        measured += _cost(patch)
        done += 1
        if done >= _LEAST_PATCHES and time.perf_counter() - began > seconds:
            break
    mean = float(np.mean([_cost(p) for p in patches]))
    return Measured(spent / measured * mean * recipe.loop.accumulate, done)


def _cost(patch: Patch) -> float:
    return patch.image.size * (_ENCODER_SHARE + len(patch.classes))

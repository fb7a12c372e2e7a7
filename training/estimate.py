"""What a run will take, measured on a small patch before it begins."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from gstk.training.cutting import Patch
from gstk.training.distributed import Processes
from gstk.training.loop import Trainer, stage_steps
from gstk.training.network import build_network
from gstk.training.recipe import Recipe

__all__ = ["Estimate", "estimate_stage"]

MEASURED_SHARE = 1 / 8
"""Voxels of the patch that is measured, over those of the recipe's."""
_BYTES_PER_WEIGHT = 4 * 4
"""Weight, gradient and two moments of AdamW, float32; the moving average is a fifth."""


@dataclass(frozen=True)
class Estimate:
    """What a stage will take.

    Attributes:
        steps: optimiser steps.
        patches_per_step: over all processes.
        parameters: weights that are fitted.
        seconds_per_step: of a step with as many objects as the recipe allows, without waiting for data.
        memory_bytes: of a process: weights, optimiser and what the backward pass keeps.
        measured: (z,y,x) of the patch that was measured; time and activations grow with its voxels.
        device: where.
    """

    steps: int
    patches_per_step: int
    parameters: int
    seconds_per_step: float
    memory_bytes: int
    measured: tuple[int, int, int]
    device: str

    @property
    def seconds(self) -> float:
        """Of the whole stage."""
        return self.steps * self.seconds_per_step


def estimate_stage(recipe: Recipe, stage: int, cases: int, processes: Processes | None = None) -> Estimate:
    """Times one forward and backward pass on a patch of random numbers and scales it to the recipe's.

    Args:
        cases: number of cases; 0 where volumes are generated.
    """
    processes = processes or Processes()
    trainer = Trainer(recipe, stage, build_network(recipe.network), [], Processes(device=processes.device))
    wanted = recipe.data.voxels
    shape = _measured_shape(wanted, recipe.network.roi_multiple)
    patch = _random_patch(shape, recipe.data.max_objects)
    scale = wanted / float(np.prod(shape))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in trainer.network.parameters()}
    seconds = 0.0
    for attempt in range(2):  # the first one also warms up
        _wait(trainer.device)
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _, _ = trainer.rounds(patch, np.random.default_rng(attempt))
            activations = sum(size for place, size in kept.items() if place not in weights)
        loss.backward()  # type: ignore[no-untyped-call]
        _wait(trainer.device)
        seconds = time.perf_counter() - began
        kept.clear()
    fitted = sum(p.numel() for p in trainer.parameters)
    held = fitted * (_BYTES_PER_WEIGHT + (4 if recipe.loop.ema_decay else 0))
    lanes = processes.count * recipe.loop.accumulate
    return Estimate(
        steps=stage_steps(recipe, stage, cases, lanes),
        patches_per_step=lanes,
        parameters=fitted,
        seconds_per_step=seconds * scale * recipe.loop.accumulate,
        memory_bytes=int(held + activations * scale),
        measured=shape,
        device=str(trainer.device),
    )


def _measured_shape(wanted: float, multiple: int) -> tuple[int, int, int]:
    side = max(2 * multiple, int((wanted * MEASURED_SHARE) ** (1 / 3) // multiple) * multiple)
    return (side, side, side)


def _random_patch(shape: tuple[int, int, int], objects: int) -> Patch:
    """Noise with one slab an object."""
    labels = np.zeros(shape, np.int32)
    objects = min(objects, shape[0] // 2)
    for index, rows in enumerate(np.array_split(np.arange(shape[0]), objects), start=1):
        labels[rows[: len(rows) // 2 + 1], 2:-2, 2:-2] = index
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    return Patch(image, labels, tuple(range(1, objects + 1)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""A stage of training: rounds of clicks on each patch, a loss for each object, a moving average of the weights.

A step's batch is `lanes = processes * accumulate` patches, one after the other; which patch a lane sees, and where it
is clicked, follows from the seed, the stage, the step and the lane. One process with two lanes and two with one each
therefore do the same, and a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray
from torch import Tensor, nn

from gstk.core.profile import InputProfile
from gstk.training.auxiliary import ObjectReader
from gstk.training.cutting import Patch
from gstk.training.data import SAMPLER_STREAM, Item, Lane, make_loader
from gstk.training.distributed import Processes
from gstk.training.fixed_norm import FixedNorms
from gstk.training.network import Encoder, PromptDecoder
from gstk.training.precision import autocast_dtype
from gstk.training.recipe import LoopRecipe, Recipe
from gstk.training.sampling import Prompts, Sampler, make_sampler
from gstk.training.streams import StreamScale

__all__ = ["Progress", "Trainer", "stage_steps", "trained_parameters", "warmup_cosine"]


@dataclass
class Progress:
    """The result of a step.

    Attributes:
        step: its number, from 1.
        steps: of the stage.
        values: loss, dice (after the last round), first_dice (after the first prompt), lr, seconds, wait (seconds spent
            waiting for data) and patches of the step.
        problems: what went wrong and was passed over: damaged cases, gradients that were not finite.
    """

    step: int
    steps: int
    values: dict[str, float]
    problems: list[str] = field(default_factory=list)


def warmup_cosine(step: int, warmup_steps: int, steps: int | None) -> float:
    """Factor on the learning rate: linear to 1 over `warmup_steps`, then half a cosine to 0 at `steps`; 1 for None."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if steps is None:
        return 1.0
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def stage_steps(recipe: Recipe, stage: int, cases: int, lanes: int) -> int:
    """Optimiser steps of a stage: a step takes one patch a lane, an epoch every patch of every case.

    Args:
        cases: number of cases; 0 where volumes are generated.
        lanes: patches of a step, over all processes.
    """
    chosen = recipe.stage(stage)
    blocks = math.ceil((cases or recipe.data.phantoms) / lanes)
    return chosen.steps or chosen.epochs * blocks * recipe.data.patches_per_case


class Trainer:
    """Fits a network for one stage. Build it, `load_state` where a run goes on, then iterate over `run`.

    Attributes:
        network: what is fitted.
        average: the moving average of its weights: the model that comes out.
        steps: of the stage.
        step: how many of them are done.
        seconds: that they took, waiting for data included.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: int,
        network: VISTA3D,
        cases: Sequence[Path],
        processes: Processes | None = None,
        profile: InputProfile | None = None,
    ) -> None:
        """Prepares a stage.

        Args:
            network: with the weights to start from; it is moved to the device of `processes`.
            cases: files to train on; empty where the recipe generates volumes.
            processes: those of the run; None is this one alone, on the CPU.
            profile: what the network's input is; see `gstk.training.cutting.cut_patches`.
        """
        self.recipe, self.stage, self.cases, self.profile = recipe, stage, list(cases), profile
        self.processes = processes or Processes()
        self.device = self.processes.device
        self._loop, self._chosen = recipe.loop, recipe.stage(stage)
        self._lane_count = self.processes.count * self._loop.accumulate
        self.steps = stage_steps(recipe, stage, len(self.cases), self._lane_count)
        self._warmup = min(self._chosen.warmup_steps, self.steps // 10)
        self.step = 0
        self.seconds = 0.0
        self.network = network.to(self.device).train()
        self._encoder = Encoder(self.network)
        self._decoder = PromptDecoder(self.network, zero_shot=False, ignored_points=False).to(self.device)
        self.parameters = trained_parameters(self.network, self._loop)
        self._reader: ObjectReader | None = None
        if self._loop.object_weight:
            torch.manual_seed(recipe.seed)
            self._reader = ObjectReader(recipe.network.width).to(self.device)
            self.parameters += self._reader.parameters()
        self._fixed = FixedNorms(self.parameters) if self._loop.convolution_rate else None
        self._optimiser = torch.optim.AdamW(self._groups())
        self._dtype = autocast_dtype(self._loop.precision, self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype == torch.float16)
        self.average = (
            copy.deepcopy(self.network).eval().requires_grad_(False) if self._loop.ema_decay else self.network
        )
        # After the copy, which is not to be watched.
        self._streams = StreamScale(self.network) if self._loop.stream_weight else None
        self._criterion = DiceCELoss(sigmoid=True, lambda_ce=self._loop.cross_entropy_weight)
        self._sampler: Sampler = make_sampler(
            self._chosen.sampler,
            self._chosen.max_points,
            self._chosen.count_law,
            self._chosen.max_rounds,
            self._chosen.special_classes,
            workers=min(4, recipe.data.max_objects) if self.device.type == "cuda" else 1,
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups as the recipe has them, each with its top learning rate as `top`."""
        rate, decay = self._chosen.learning_rate, {"weight_decay": self._loop.weight_decay}
        if self._fixed is None:
            return [{"params": self.parameters, "top": rate} | decay]
        return [decay | group for group in self._fixed.groups(self._loop.convolution_rate, rate)]

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Runs the remaining steps, and yields the result of each.

        Args:
            stop: asked before each step, in every process; where any says yes, all of them end before it.
        """
        lanes = [Lane(n, self._lane_count) for n in range(self.processes.rank, self._lane_count, self.processes.count)]
        per_case = self.recipe.data.patches_per_case
        block = self.step // per_case
        seed = (self.recipe.seed, self.stage)
        loader = iter(make_loader(self.cases, self.recipe.data, seed, lanes, block, self.profile))
        items: list[Item] = []
        while self.step < self.steps:
            began = time.perf_counter()
            (stops,) = self.processes.sum([float(stop())])
            if stops:
                return
            problems = []
            if not items or self.step % per_case == 0:
                items = [next(loader) for _ in lanes]
                if self.step % per_case == 0:
                    problems = [f"{item.name} is left out: {item.problem}" for item in items if item.problem]
            waited = time.perf_counter() - began
            place = self.step % per_case
            patches = [(lane, i.patches[place]) for lane, i in zip(lanes, items, strict=True) if place < len(i.patches)]
            (count,) = self.processes.sum([float(len(patches))])
            values, trouble = self._step(patches, int(count))
            self.step += 1
            took = time.perf_counter() - began
            self.seconds += took
            values |= {"seconds": took, "wait": waited, "patches": count}
            yield Progress(self.step, self.steps, values, problems + trouble)

    def _step(self, patches: Sequence[tuple[Lane, Patch]], count: int) -> tuple[dict[str, float], list[str]]:
        """One optimiser step on the patches of all processes; without any, the schedule goes on and nothing else."""
        factor = warmup_cosine(self.step, self._warmup, self.steps if self._chosen.schedule == "cosine" else None)
        for group in self._optimiser.param_groups:
            group["lr"] = group["top"] * factor
        self._optimiser.zero_grad(set_to_none=True)
        sums = np.zeros(3)
        for lane, patch in patches:
            rng = np.random.default_rng([self.recipe.seed, self.stage, SAMPLER_STREAM, self.step, lane.lane])
            loss, dice, first_dice = self.rounds(patch, rng)
            self._scaler.scale(loss / count).backward()  # type: ignore[no-untyped-call]
            sums += [loss.item(), dice, first_dice]
        trouble = []
        if count:
            self.processes.sum_gradients(self.parameters)
            self._scaler.unscale_(self._optimiser)
            norm = nn.utils.clip_grad_norm_(self.parameters, self._loop.clip_norm or math.inf)
            finite = bool(torch.isfinite(norm))
            if not finite:
                trouble = [f"step {self.step + 1}: the gradient is not finite; the weights stay as they are"]
            if finite or self._scaler.is_enabled():  # the scaler passes over such a step itself, and scales less
                self._scaler.step(self._optimiser)
                self._scaler.update()
                if self._fixed is not None:
                    self._fixed.restore()
            self._follow()
        loss_sum, dice_sum, first_sum = self.processes.sum(sums.tolist())
        share = 1 / count if count else math.nan
        return {
            "loss": loss_sum * share,
            "dice": dice_sum * share,
            "first_dice": first_sum * share,
            "lr": self._chosen.learning_rate * factor,
        }, trouble

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the average; early in a stage it follows closely, so that the start is soon forgotten."""
        if self.average is self.network:
            return
        decay = min(self._loop.ema_decay, (1 + self.step) / (10 + self.step))
        for kept, new in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            kept.lerp_(new, 1 - decay)

    def measure(self, patch: Patch) -> float:
        """Seconds of a step on one patch; the weights change, the stage does not go on."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        self._step([(Lane(0, 1), patch)], 1)  # it reads the loss, and so waits for the device
        return time.perf_counter() - began

    def rounds(self, patch: Patch, rng: np.random.Generator) -> tuple[Tensor, float, float]:
        """Loss and Dice of a patch, of the prompts that the sampler gives and of the first, where it went on from them.

        The sampler may ask for masks on its way; those of its first prompt are judged too, since a user sees them.
        """
        image = torch.from_numpy(patch.image).to(self.device, non_blocking=True)[None, None]
        labels = torch.from_numpy(patch.labels).to(self.device, non_blocking=True)
        wanted = torch.tensor(patch.classes, device=self.device)
        truth = (labels[None, None] == wanted[:, None, None, None, None]).float()
        with self._autocast():
            embedding = self._encoder(image)
        embedding = embedding.float()

        def decode(prompts: Prompts) -> Tensor:
            coords, kinds = (torch.from_numpy(a).to(self.device) for a in prompts)
            with self._autocast():
                logits: Tensor = self._decoder(embedding, coords.float(), kinds)
            return logits.float()

        first: list[Tensor] = []

        def predict(prompts: Prompts) -> NDArray[np.bool_]:
            with torch.set_grad_enabled(not first):
                logits = decode(prompts)
            if not first:
                first.append(logits)
            return np.asarray((logits.detach()[:, 0] > 0).cpu().numpy())

        prompts = self._sampler(patch.labels, patch.classes, rng, predict)
        judged = [*first, decode(prompts)]
        losses = [self._criterion(logits, truth) for logits in judged]
        scores = [_dice(logits.detach(), truth) for logits in (judged[-1], judged[0])]
        loss = torch.stack(losses).mean()
        if self._reader is not None:
            loss = loss + self._loop.object_weight * self._reader(embedding, labels)
        if self._streams is not None:
            loss = loss + self._loop.stream_weight * self._streams.loss()
        return loss, scores[0], scores[1]

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = self._dtype
        return torch.autocast(self.device.type, dtype=dtype) if dtype else contextlib.nullcontext()

    def state(self) -> dict[str, Any]:
        """The state from which `load_state` continues bit for bit."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "lanes": self._lane_count,
            "weights": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not self.network else {},
            "reader": {} if self._reader is None else self._reader.state_dict(),
            "norms": [] if self._fixed is None else self._fixed.state(),
            "optimizer": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores a state that `state` returned."""
        self.network.load_state_dict(state["weights"])
        if self.average is not self.network:
            self.average.load_state_dict(state["average"])
        if self._reader is not None:
            self._reader.load_state_dict(state["reader"])
        if self._fixed is not None:
            self._fixed.load_state(state["norms"])
        self._optimiser.load_state_dict(state["optimizer"])
        # The state has the rates that it was saved with; the recipe's are those to go on with.
        for group, own in zip(self._optimiser.param_groups, self._groups(), strict=True):
            group |= {key: own[key] for key in ("top", "weight_decay")}
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def trained_parameters(network: VISTA3D, recipe: LoopRecipe) -> list[nn.Parameter]:
    """The parameters of the interactive branch; those of the automatic one stay as they are."""
    modules = (Encoder(network), PromptDecoder(network, zero_shot=False, ignored_points=False))
    automatic = {id(p) for p in network.image_encoder.up_layers_auto.parameters()}
    parameters = {id(p): p for module in modules for p in module.parameters() if id(p) not in automatic}
    if recipe.train_frequencies:
        frequencies = network.point_head.pe_layer.positional_encoding_gaussian_matrix.requires_grad_()
        parameters[id(frequencies)] = frequencies
    return list(parameters.values())


def _dice(logits: Tensor, truth: Tensor) -> float:
    hit = (logits > 0).float()
    axes = (1, 2, 3, 4)
    return float((2 * (hit * truth).sum(axes) / (hit + truth).sum(axes).clamp_min(1)).mean())

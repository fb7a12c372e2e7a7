"""The training loop: rounds of clicks on each patch, Dice and cross entropy for each object, a moving average kept."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.typing import NDArray
from torch import Tensor, nn

from gstk.clicks import Click
from gstk.training.checkpoint import load_network, save_checkpoint
from gstk.training.data import phantom_patches
from gstk.training.initialise import local_prompt_init
from gstk.training.network import Encoder, PromptDecoder, build_network
from gstk.training.recipe import LoopRecipe, Recipe
from gstk.training.sampling import centre_point, edge_center_points, error_point, gaussian_count

__all__ = ["points_to_tensors", "train_on_phantoms", "warmup_cosine"]

Clicks = list[list[Click]]


def warmup_cosine(step: int, warmup_steps: int, steps: int) -> float:
    """Factor on the learning rate: linear to 1 over `warmup_steps`, then half a cosine to 0 at `steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def points_to_tensors(clicks: Clicks) -> tuple[Tensor, Tensor]:
    """Clicks of B objects as `point_coords` [B,N,3] and `point_labels` [B,N], padded with label -1."""
    longest = max(1, *(len(c) for c in clicks)) if clicks else 1
    coords = torch.zeros(len(clicks), longest, 3)
    labels = torch.full((len(clicks), longest), -1, dtype=torch.int64)
    for b, object_clicks in enumerate(clicks):
        for n, click in enumerate(object_clicks):
            coords[b, n] = torch.tensor(click.zyx, dtype=torch.float32)
            labels[b, n] = int(click.foreground)
    return coords, labels


def _first_prompt(masks: NDArray[np.bool_], recipe: LoopRecipe, rng: np.random.Generator) -> Clicks:
    """Half the time the official first click, else the paper's edge-center points."""
    clicks: Clicks = []
    for mask in masks:
        if rng.random() < 0.5:
            clicks.append([centre_point(mask, rng)])
        else:
            foreground = gaussian_count(rng, recipe.max_points, minimum=1)
            background = gaussian_count(rng, recipe.max_points)
            clicks.append(edge_center_points(mask, rng, foreground, background))
    return clicks


def _click_on_errors(clicks: Clicks, logits: Tensor, masks: NDArray[np.bool_], rng: np.random.Generator) -> Clicks:
    predictions = (logits[:, 0] > 0).numpy()
    following: Clicks = []
    for object_clicks, prediction, mask in zip(clicks, predictions, masks, strict=True):
        click = error_point(prediction, mask, rng)
        following.append([*object_clicks, click] if click else object_clicks)
    return following


class _Average:
    """Exponential moving average of a network's parameters and of its trained frequencies."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for kept, new in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)


def train_on_phantoms(
    recipe: Recipe,
    out_dir: Path,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    save_every: int = 250,
    init: Path | None = None,
) -> Path:
    """Trains the interactive branch on generated volumes and writes `out_dir/last.pt`.

    The saved weights are the moving average, rounded to half precision, so that a bundle may store them in half the
    space and lose nothing.

    Args:
        progress: called after each step with its number and {"loss", "dice", "seconds"}.
        save_every: steps between checkpoints.
        init: checkpoint to start from, of the recipe's architecture; None starts from fresh weights.

    Returns:
        The checkpoint's path. An interrupt leaves the last one that was saved.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 2])
    network = load_network(init, recipe.network).train() if init else build_network(recipe.network).train()
    if recipe.loop.local_init and not init:
        local_prompt_init(network)
    encoder, decoder = Encoder(network), PromptDecoder(network)
    parameters = [p for module in (encoder, decoder) for p in module.parameters()]
    unused = {id(p) for p in network.image_encoder.up_layers_auto.parameters()}
    parameters = list({id(p): p for p in parameters if id(p) not in unused}.values())
    if recipe.loop.train_frequencies:
        parameters.append(network.point_head.pe_layer.positional_encoding_gaussian_matrix.requires_grad_())
    optimiser = torch.optim.AdamW(parameters, lr=recipe.loop.learning_rate, weight_decay=recipe.loop.weight_decay)
    average = _Average(network, recipe.loop.ema_decay)
    criterion = DiceCELoss(sigmoid=True, lambda_ce=recipe.loop.cross_entropy_weight)
    out_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = out_dir / "last.pt"

    def save(step: int) -> None:
        kept = copy.deepcopy(average.network).half().float()
        extra = {"training": {"recipe": json.dumps(recipe.to_dict()), "step": step}}
        save_checkpoint(checkpoint, kept, recipe.network, extra)

    stream = iter(phantom_patches(recipe.data, recipe.seed))
    for step in range(recipe.loop.steps):
        began = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = recipe.loop.learning_rate * warmup_cosine(step, recipe.loop.warmup_steps, recipe.loop.steps)
        patch = next(stream)
        loss, dice = _rounds(encoder, decoder, patch.image, patch.masks, criterion, recipe.loop, step, rng)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, recipe.loop.clip_norm)
        if torch.isfinite(norm):
            optimiser.step()
        average.update(network, step)
        if progress:
            progress(step, {"loss": loss.item(), "dice": dice, "seconds": time.perf_counter() - began})
        if (step + 1) % save_every == 0:
            save(step + 1)
    save(recipe.loop.steps)
    return checkpoint


def _rounds(
    encoder: nn.Module,
    decoder: nn.Module,
    image: NDArray[np.float32],
    masks: NDArray[np.bool_],
    criterion: nn.Module,
    recipe: LoopRecipe,
    step: int,
    rng: np.random.Generator,
) -> tuple[Tensor, float]:
    """Mean loss of the first prompt's masks and of those after some rounds of clicks on the error."""
    truth = torch.from_numpy(masks[:, None].astype(np.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
        embedding = encoder(torch.from_numpy(image)[None, None])
    embedding = embedding.float()

    def decode(clicks: Clicks) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
            logits: Tensor = decoder(embedding, *points_to_tensors(clicks)).float()
        return logits

    clicks = _first_prompt(masks, recipe, rng)
    logits = decode(clicks)
    loss = criterion(logits, truth)
    allowed = min(recipe.max_rounds, step // recipe.round_steps) if recipe.round_steps else recipe.max_rounds
    rounds = int(rng.integers(0, allowed + 1))
    for number in range(rounds):
        clicks = _click_on_errors(clicks, logits.detach(), masks, rng)
        with torch.set_grad_enabled(number == rounds - 1):
            logits = decode(clicks)
    if rounds:
        loss = (loss + criterion(logits, truth)) / 2
    hit = (logits.detach() > 0).float()
    dice = 2 * (hit * truth).sum((1, 2, 3, 4)) / (hit + truth).sum((1, 2, 3, 4)).clamp_min(1)
    return loss, float(dice.mean())

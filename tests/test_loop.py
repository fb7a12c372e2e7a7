"""The training loop: learning rates, steps, precisions and accumulated gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import PHANTOMS, SMALL, make_cases

from gstk.training.loop import Trainer, stage_steps, warmup_cosine
from gstk.training.network import build_network
from gstk.training.recipe import DataRecipe, Recipe, StageRecipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_cases(tmp_path_factory.mktemp("cases"))


def test_warmup_cosine_rises_then_falls_to_nothing() -> None:
    factors = [warmup_cosine(step, 10, 110) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[109] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert all(a >= b for a, b in pairwise(factors[10:]))


@pytest.mark.parametrize(
    ("cases", "lanes", "expected"),
    [(10, 1, 3 * 10 * 4), (10, 4, 3 * 3 * 4), (1, 8, 3 * 4)],
)
def test_a_stage_has_as_many_steps_as_its_patches_fill(cases: int, lanes: int, expected: int) -> None:
    recipe = Recipe("r", stage1=StageRecipe(epochs=3), data=DataRecipe(patches_per_case=4))
    assert stage_steps(recipe, 1, cases, lanes) == expected
    assert stage_steps(replace(recipe, stage1=StageRecipe(steps=7)), 1, cases, lanes) == 7


def test_training_lowers_the_loss_and_spares_the_automatic_branch() -> None:
    stage = StageRecipe(steps=50, learning_rate=5e-3, warmup_steps=5, sampler="edge-center")
    network = build_network(SMALL.network)
    automatic = {k: v.clone() for k, v in network.state_dict().items() if "up_layers_auto" in k or "class_head" in k}
    recipe = replace(PHANTOMS, stage1=stage, data=replace(PHANTOMS.data, object_extent=(0.5, 0.8)))
    losses = [progress.values["loss"] for progress in Trainer(recipe, 1, network, []).run()]
    assert np.nanmean(losses[-15:]) < np.nanmean(losses[:15])
    for name, value in automatic.items():
        assert torch.equal(network.state_dict()[name], value)


def test_convolutions_keep_their_norm_and_move_by_a_share_of_it() -> None:
    """Adam's first step moves every weight by its learning rate, so the share can be told from the change."""
    torch.manual_seed(0)
    network = build_network(PHANTOMS.network)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    stage = replace(PHANTOMS.stage1, steps=100, warmup_steps=0)
    trainer = Trainer(replace(PHANTOMS, stage1=stage), 1, network, [])
    next(trainer.run())
    changed = 0
    for name, value in network.named_parameters():
        if "up_layers_auto" in name or value.grad is None:
            continue
        change, first = (value.detach() - before[name]), before[name]
        if value.ndim == 5:
            torch.testing.assert_close(value.norm(), first.norm(), rtol=1e-5, atol=0)
            used = value.grad != 0
            share = change[used].abs().median() / first.pow(2).mean().sqrt()
            assert 0.5 * 0.02 < share < 1.5 * 0.02, name
            changed += 1
    assert changed > 10
    plain = replace(PHANTOMS, stage1=stage, loop=replace(PHANTOMS.loop, convolution_rate=0.0))
    free = build_network(PHANTOMS.network)
    free.load_state_dict(before, strict=False)
    next(Trainer(plain, 1, free, []).run())
    weight = free.image_encoder.encoder.conv_init.weight.detach()
    assert abs(float(weight.norm() / before["image_encoder.encoder.conv_init.weight"].norm()) - 1) > 1e-4


def test_gradients_that_are_not_finite_change_nothing(cases: list[Path]) -> None:
    network = build_network(SMALL.network)
    trainer = Trainer(SMALL, 1, network, cases)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    trainer._criterion = lambda logits, truth: logits.sum() * math.nan
    first = next(iter(trainer.run()))
    assert "not finite" in first.problems[-1]
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_stay_near_the_full_one(precision: str, cases: list[Path]) -> None:
    losses = []
    for chosen in ("off", precision):
        torch.manual_seed(0)
        recipe = replace(SMALL, loop=replace(SMALL.loop, precision=chosen))
        losses.append([p.values["loss"] for p in Trainer(recipe, 1, build_network(SMALL.network), cases).run()])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_accumulating_two_lanes_is_the_mean_of_their_gradients(cases: list[Path]) -> None:
    """Each lane's own gradient, taken apart by a learning rate of 0, against what one step of both gathers."""

    def gradients(accumulate: int, only: int | None = None) -> list[np.ndarray]:
        torch.manual_seed(0)
        loop = replace(SMALL.loop, accumulate=accumulate, clip_norm=0.0)
        recipe = replace(SMALL, loop=loop, stage1=replace(SMALL.stage1, learning_rate=0.0))
        trainer = Trainer(recipe, 1, build_network(SMALL.network), cases)
        if only is not None:
            step = trainer._step
            trainer._step = lambda patches, count: step(patches[only : only + 1], 1)  # type: ignore[method-assign]
        next(iter(trainer.run()))
        return [p.grad.numpy().copy() for p in trainer.parameters]

    both, first, second = gradients(2), gradients(2, 0), gradients(2, 1)
    for together, one, two in zip(both, first, second, strict=True):
        np.testing.assert_allclose(together, (one + two) / 2, atol=1e-6, rtol=1e-4)

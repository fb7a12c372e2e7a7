"""What a training is expected to take."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import SMALL, make_cases

from gstk.training.cutting import Patch
from gstk.training.estimate import measure_stage, plan_stage
from gstk.training.loop import Trainer
from gstk.training.network import build_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_cases(tmp_path_factory.mktemp("cases"))


def test_a_plan_counts_weights_and_grows_with_the_patch() -> None:
    plain = replace(SMALL, loop=replace(SMALL.loop, object_weight=0.0))
    small = plan_stage(replace(plain, data=replace(SMALL.data, patch_size=(32, 32, 32))), 1, cases=4)
    large = plan_stage(replace(plain, data=replace(SMALL.data, patch_size=(64, 64, 64))), 1, cases=4)
    network = build_network(SMALL.network)
    automatic = sum(p.numel() for p in network.image_encoder.up_layers_auto.parameters())
    head = [network.class_head, network.point_head.class_embeddings, network.point_head.zeroshot_embed]
    unused = automatic + sum(p.numel() for m in (*head, network.point_head.mask_downsample) for p in m.parameters())
    assert small.parameters == sum(p.numel() for p in network.parameters()) - unused
    assert small.steps == SMALL.stage1.steps
    held = 20 * small.parameters
    assert 6 < (large.memory_bytes - held) / (small.memory_bytes - held) < 10


def test_planned_memory_is_what_autograd_keeps(cases: list[Path]) -> None:
    """Against the bytes of a real step: two decodes with gradient, of the recipe's largest patch and most objects."""
    recipe = replace(SMALL, loop=replace(SMALL.loop, object_weight=0.0, ema_decay=0.0))
    trainer = Trainer(recipe, 1, build_network(recipe.network), cases)
    objects = recipe.data.max_objects
    labels = np.zeros(recipe.data.patch_size, np.int32)
    for k in range(objects):
        labels[2 + 4 * k : 5 + 4 * k, 4:12, 4:12] = k + 1
    patch = Patch(np.random.default_rng(0).random(labels.shape, np.float32), labels, tuple(range(1, objects + 1)))
    weights = {p.untyped_storage().data_ptr() for p in trainer.network.parameters()}

    def real(seed: int) -> int:
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.rounds(patch, np.random.default_rng(seed))
        return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)

    plan = plan_stage(recipe, 1, len(cases))
    most = max(real(seed) for seed in range(6))  # some of them decode once
    assert plan.memory_bytes - 16 * plan.parameters == pytest.approx(most, rel=0.3)


def test_measuring_does_real_steps(cases: list[Path]) -> None:
    lines: list[str] = []
    measured = measure_stage(SMALL, 1, cases, seconds=1.0, on_progress=lines.append)
    assert measured.patches >= 2
    assert 0 < measured.seconds_per_step < 60
    assert re.fullmatch(r"stage 1: measuring \d+ of its patches takes about \d+ s", lines[0])

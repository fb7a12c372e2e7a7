"""The training loop and what it is made of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gstk.clicks import Click
from gstk.errors import TrainingError
from gstk.training.checkpoint import load_checkpoint
from gstk.training.data import cut_patch, phantom_patches
from gstk.training.initialise import local_prompt_init
from gstk.training.loop import points_to_tensors, train_on_phantoms, warmup_cosine
from gstk.training.network import Encoder, PromptDecoder, build_network
from gstk.training.phantoms import Phantom, generate_phantom
from gstk.training.recipe import DataRecipe, LoopRecipe, Recipe
from gstk.training.spec import VISTA3DSpec

SMALL = Recipe(
    name="small",
    seed=5,
    network=VISTA3DSpec(width=16, blocks_down=(1, 1, 1), heads=1, attention_downsample=1),
    data=DataRecipe(
        phantom_side=48, patches_per_phantom=2, patch_voxels=(16**3, 24**3), patch_sides=(16, 24), max_objects=2
    ),
    loop=LoopRecipe(steps=4, learning_rate=1e-3, warmup_steps=2, max_rounds=1, local_init=True, bf16=False),
)


def test_warmup_cosine_rises_then_falls_to_nothing() -> None:
    factors = [warmup_cosine(step, 10, 110) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[109] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert all(a >= b for a, b in pairwise(factors[10:]))


def test_points_are_padded_with_minus_one() -> None:
    coords, labels = points_to_tensors([[Click((1, 2, 3), True), Click((4, 5, 6), False)], [Click((7, 8, 9), True)]])
    assert coords.tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 0, 0]]]
    assert labels.tolist() == [[1, 0], [1, -1]]


def test_a_patch_holds_its_object_and_the_volumes_own_intensities() -> None:
    recipe = DataRecipe(patch_voxels=(32**3, 32**3), patch_sides=(16, 32, 48), intensity_probability=0.0, max_objects=3)
    phantom = generate_phantom(11, (64, 64, 64), "nuclei")
    rng = np.random.default_rng(0)
    patches = [cut_patch(phantom, recipe, rng) for _ in range(30)]
    kept = [patch for patch in patches if patch is not None]
    assert len(kept) > 20
    for patch in kept:
        assert patch.image.dtype == np.float32
        assert 0 <= patch.image.min() <= patch.image.max() <= 1 + 1e-6
        assert patch.masks.dtype == bool
        assert patch.masks.shape[1:] == patch.image.shape
        assert 1 <= len(patch.masks) <= 3
        assert patch.masks.any(axis=(1, 2, 3)).all()
        assert patch.masks.sum(axis=0).max() == 1, "objects do not overlap"
        assert patch.image.size <= 32**3 + 1


def test_a_phantom_without_objects_gives_no_patch() -> None:
    empty = Phantom(np.zeros((32, 32, 32), np.uint8), np.zeros((32, 32, 32), np.int32), (1, 1, 1), "made")
    assert cut_patch(empty, DataRecipe(), np.random.default_rng(0)) is None


def test_the_stream_repeats_itself_and_begins_where_it_is_told() -> None:
    def first(count: int, start: int) -> list[np.ndarray]:
        stream = iter(phantom_patches(SMALL.data, seed=3, first=start, workers=0))
        return [next(stream).image for _ in range(count)]

    whole = first(6, 0)
    for again, image in zip(first(6, 0), whole, strict=True):
        np.testing.assert_array_equal(again, image)
    later = first(2, 2)
    assert any(later[0].shape == image.shape and np.array_equal(later[0], image) for image in whole[1:])


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (16, 2), (32, 4)])
def test_local_init_compares_places_whatever_the_image_shows(width: int, heads: int) -> None:
    torch.manual_seed(0)
    network = build_network(VISTA3DSpec(width, (1, 1, 1), heads=heads, attention_downsample=1))
    local_prompt_init(network)
    encoder, decoder = Encoder(network), PromptDecoder(network)
    grid = decoder._grid_encoding(8, 8, 8)[0]
    with torch.no_grad():
        images = [encoder(torch.rand(1, 1, 16, 16, 16))[0].flatten(1).T for _ in range(2)]
    assert (images[0] - images[1]).abs().max() > 0.5
    transformer = network.point_head.transformer
    crosses = [layer.cross_attn_image_to_token for layer in transformer.layers]
    for attention in (*crosses, transformer.final_attn_token_to_image):
        scores = []
        for features in (torch.zeros_like(grid), *images):
            q = (grid @ attention.q_proj.weight.T).reshape(512, heads, -1)[..., :6]
            k = ((features + grid) @ attention.k_proj.weight.T).reshape(512, heads, -1)[..., :6]
            scores.append(torch.einsum("ihd,jhd->hij", q, k))
        assert (scores[0].argmax(dim=2) == torch.arange(512)).all()
        for score in scores[1:]:
            torch.testing.assert_close(score, scores[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("spec", [VISTA3DSpec(8, (1, 1)), VISTA3DSpec(16, (1, 1))])
def test_local_init_needs_channels_to_compare(spec: VISTA3DSpec) -> None:
    with pytest.raises(TrainingError, match="6 a head"):
        local_prompt_init(build_network(spec))


def test_both_forms_of_the_folded_convolution_agree() -> None:
    torch.manual_seed(1)
    network = build_network(VISTA3DSpec(width=16, blocks_down=(1, 1, 1)))
    encoder, decoder = Encoder(network), PromptDecoder(network)
    coords, labels = torch.rand(2, 3, 3) * 16, torch.tensor([[1, 0, -1], [1, 1, 0]])
    with torch.no_grad():
        embedding = encoder(torch.rand(1, 1, 16, 24, 16))
        traced, trained = decoder.eval()(embedding, coords, labels), decoder.train()(embedding, coords, labels)
    torch.testing.assert_close(traced, trained, atol=1e-5, rtol=1e-5)


def test_a_run_saves_half_precision_weights_and_its_recipe(tmp_path: Path) -> None:
    seen: list[int] = []
    checkpoint = train_on_phantoms(SMALL, tmp_path, lambda step, values: seen.append(step))
    assert seen == [0, 1, 2, 3]
    spec, weights = load_checkpoint(checkpoint)
    assert spec == SMALL.network
    for value in weights.values():
        torch.testing.assert_close(value, value.half().to(value.dtype), atol=0, rtol=0)
    extra = torch.load(checkpoint, weights_only=True)["training"]
    assert json.loads(extra["recipe"]) == json.loads(json.dumps(SMALL.to_dict()))
    assert extra["step"] == 4


def test_a_run_can_start_from_a_checkpoint(tmp_path: Path) -> None:
    begun = train_on_phantoms(SMALL, tmp_path / "first")
    still = replace(SMALL, loop=replace(SMALL.loop, steps=1, learning_rate=0.0))
    again = train_on_phantoms(still, tmp_path / "second", init=begun)
    first, second = load_checkpoint(begun)[1], load_checkpoint(again)[1]
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=0, rtol=0)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    easy = replace(SMALL.data, object_extent=(0.5, 0.8))
    loop = replace(SMALL.loop, steps=60, learning_rate=5e-3, warmup_steps=5, max_rounds=0)
    losses: list[float] = []
    train_on_phantoms(replace(SMALL, data=easy, loop=loop), tmp_path, lambda _, values: losses.append(values["loss"]))
    assert np.mean(losses[-15:]) < np.mean(losses[:15])

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
from gstk.preprocess import intensity_range, normalise
from gstk.training.checkpoint import load_checkpoint
from gstk.training.data import cut_patch, phantom_patches
from gstk.training.initialise import local_prompt_init
from gstk.training.loop import points_to_tensors, train_on_phantoms, warmup_cosine
from gstk.training.network import Encoder, PromptDecoder, build_network
from gstk.training.phantoms import Phantom, generate_phantom
from gstk.training.probe import SimilarityProbe
from gstk.training.recipe import DataRecipe, LoopRecipe, Recipe
from gstk.training.spec import VISTA3DSpec

SMALL = Recipe(
    name="small",
    seed=5,
    network=VISTA3DSpec(width=16, blocks_down=(1, 1, 1)),
    data=DataRecipe(
        phantom_side=48, patches_per_phantom=2, patch_voxels=(16**3, 24**3), patch_sides=(16, 24), max_objects=2
    ),
    loop=LoopRecipe(
        steps=4, learning_rate=1e-3, warmup_steps=2, max_rounds=1, probe_steps=2, local_init=True, bf16=False
    ),
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


def test_the_easy_beginning_puts_one_object_on_the_bright_side() -> None:
    image = np.full((48, 48, 48), 200, np.uint8)
    labels = np.zeros(image.shape, np.int32)
    labels[10:30, 10:30, 10:30] = 1
    labels[34:44, 34:44, 34:44] = 2
    image[labels > 0] = 50
    recipe = DataRecipe(patch_voxels=(32**3, 32**3), patch_sides=(32,), intensity_probability=0.0, cube_share=1.0)
    low, high = intensity_range(image)
    assert normalise(image, low, high)[labels == 1].max() == 0
    for seed in range(8):
        patch = cut_patch(Phantom(image, labels, (1, 1, 1), "made"), recipe, np.random.default_rng(seed), easy=1.0)
        assert patch is not None
        assert len(patch.masks) == 1
        assert patch.image[patch.masks[0]].mean() > patch.image[~patch.masks[0]].mean() + 0.5


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


def test_local_init_scores_the_click_itself_highest() -> None:
    torch.manual_seed(0)
    network = build_network(VISTA3DSpec(width=16, blocks_down=(1, 1, 1)))
    local_prompt_init(network)
    decoder = PromptDecoder(network)
    grid = decoder._grid_encoding(8, 8, 8)[0]
    for layer in network.point_head.transformer.layers:
        attention = layer.cross_attn_image_to_token
        q = (grid @ attention.q_proj.weight.T).reshape(512, attention.num_heads, -1)
        k = (grid @ attention.k_proj.weight.T).reshape(512, attention.num_heads, -1)
        score = torch.einsum("ihd,jhd->ij", q[:, :3], k[:, :3])
        assert (score.argmax(dim=1) == torch.arange(512)).all()


def test_local_init_needs_width() -> None:
    with pytest.raises(TrainingError, match="width"):
        local_prompt_init(build_network(VISTA3DSpec(width=8, blocks_down=(1, 1))))


def test_the_probe_scores_voxels_like_the_clicked_one_and_near_it() -> None:
    embedding = torch.zeros(1, 2, 4, 4, 4)
    embedding[:, 0] = 1
    embedding[:, :, :, :, 2:] = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1, 1)
    coords = torch.tensor([[[1.0, 1, 1], [0, 0, 7]]])
    scores = SimilarityProbe()(embedding, coords, torch.tensor([[1, 0]]))[0, 0]
    assert scores.shape == (4, 4, 4)
    assert scores[0, 0, 0] == scores.max()
    assert scores[0, 0, 1] > scores[0, 0, 2]
    assert scores[0, 0, 1] > scores[3, 3, 1]


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
    easy = replace(SMALL.data, polarity_patches=10**9, object_extent=(0.5, 0.8))
    loop = replace(SMALL.loop, steps=60, learning_rate=5e-3, warmup_steps=5, max_rounds=0, probe_steps=0)
    losses: list[float] = []
    train_on_phantoms(replace(SMALL, data=easy, loop=loop), tmp_path, lambda _, values: losses.append(values["loss"]))
    assert np.mean(losses[-15:]) < np.mean(losses[:15])

"""Fresh weights that compare places, and the folded convolution in training."""

from __future__ import annotations

import pytest
import torch

from gstk.errors import TrainingError
from gstk.training.initialise import local_prompt_init
from gstk.training.network import Encoder, PromptDecoder, build_network
from gstk.training.spec import VISTA3DSpec


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

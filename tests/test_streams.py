"""The penalty on residual streams: nothing for fresh weights, the squared logarithm of the excess for large ones."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from gstk.training.network import Encoder, build_network  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402
from gstk.training.streams import LIMIT, StreamScale  # noqa: E402

SPEC = VISTA3DSpec(width=8, blocks_down=(1, 1, 1))


def network_and_image() -> tuple[object, object]:
    torch.manual_seed(3)
    return build_network(SPEC), torch.rand(1, 1, 16, 16, 16)


def test_fresh_weights_cost_nothing() -> None:
    network, image = network_and_image()
    scale = StreamScale(network)
    Encoder(network)(image)
    assert float(scale.loss().detach()) == 0


def test_a_large_stream_costs_its_excess_and_is_pulled_back() -> None:
    network, image = network_and_image()
    encoder = Encoder(network)
    deconvolution = network.image_encoder.up_layers[-1]["upsample"].deconv
    with torch.no_grad():
        deconvolution.weight *= 200
    kept: list[torch.Tensor] = []
    deconvolution.register_forward_hook(lambda *arguments: kept.append(arguments[2].detach()))
    scale = StreamScale(network)
    encoder(image)
    loss = scale.loss()
    deviation = math.sqrt(float(kept[0].var(dim=(2, 3, 4)).mean()))
    assert deviation > 10 * LIMIT
    assert float(loss.detach()) == pytest.approx(math.log(deviation / LIMIT) ** 2, rel=1e-4)
    for _ in range(10):
        deconvolution.weight.grad = None
        encoder(image)
        scale.loss().backward()
        weight, gradient = deconvolution.weight, deconvolution.weight.grad
        with torch.no_grad():
            weight -= 0.02 * weight.norm() * gradient / gradient.norm()
    encoder(image)
    assert float(scale.loss().detach()) < 0.9 * float(loss.detach())


def test_only_the_last_training_pass_counts() -> None:
    network, image = network_and_image()
    with torch.no_grad():
        network.image_encoder.encoder.conv_init.weight *= 300
    scale = StreamScale(network)
    encoder = Encoder(network)
    encoder(image)
    once = float(scale.loss().detach())
    assert once > 1
    encoder(image)
    encoder(image)
    with torch.no_grad():
        encoder(torch.zeros_like(image))
    encoder(image)
    assert float(scale.loss().detach()) == pytest.approx(once, rel=1e-6)
    levels = len(SPEC.blocks_down)
    encoder(image)
    assert len(scale._streams) == levels + levels - 1

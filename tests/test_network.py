"""The split network gives what MONAI's own `VISTA3D.forward` gives."""

import pytest

torch = pytest.importorskip("torch")

from monai.networks.nets.vista3d import VISTA3D, vista3d132  # noqa: E402

from gstk.training.network import Encoder, PromptDecoder, build_network  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402


@pytest.fixture(scope="module")
def network() -> VISTA3D:
    """`vista3d132` at width 8, with norms and biases that matter."""
    torch.manual_seed(1)
    network = build_network(VISTA3DSpec(width=8)).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return network


def prompts(objects: int, points: int, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(objects * 10 + points)
    coords = (torch.rand(objects, points, 3, generator=generator) * torch.tensor(shape)).floor()
    labels = torch.randint(-1, 4, (objects, points), generator=generator)
    labels[:, 0] = 1
    return coords, labels


def test_default_spec_is_vista3d132() -> None:
    with torch.device("meta"):
        ours, theirs = build_network().state_dict(), vista3d132().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert VISTA3DSpec().roi_multiple == 16


@pytest.mark.parametrize(("objects", "points"), [(1, 1), (3, 1), (2, 5)])
def test_split_network_equals_monai(network: VISTA3D, objects: int, points: int) -> None:
    shape = (32, 48, 64)
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    coords, labels = prompts(objects, points, shape)
    with torch.no_grad():
        expected = network(image, point_coords=coords.clone(), point_labels=labels.clone())
        logits = PromptDecoder(network)(Encoder(network)(image), coords, labels)
    assert logits.shape == (objects, 1, *shape)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


def test_novel_objects_get_the_zero_shot_token(network: VISTA3D) -> None:
    """MONAI takes a class beyond those that the network was trained on for novel, here of two objects in four."""
    shape = (32, 48, 64)
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    coords, labels = prompts(4, 5, shape)
    labels[labels > 1] -= 2
    labels[2, 0], labels[2, 4] = -1, 1  # padding in front
    classes = torch.tensor([[1], [133], [200], [132]])
    told = torch.where((classes > 132) & (labels >= 0), labels + 4, labels)
    with torch.no_grad():
        expected = network(image, point_coords=coords.clone(), point_labels=labels.clone(), prompt_class=classes)
        embedding = Encoder(network)(image)
        logits = PromptDecoder(network)(embedding, coords, told)
        supported = PromptDecoder(network)(embedding, coords, labels)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)
    changed = (logits - supported).abs().amax(dim=(1, 2, 3, 4))
    assert (changed[[1, 2]] > 1e-3).all()
    assert (changed[[0, 3]] == 0).all()


@pytest.mark.parametrize(("objects", "points"), [(1, 1), (3, 1), (2, 5)])
def test_ignored_points_are_as_if_they_were_not_there(network: VISTA3D, objects: int, points: int) -> None:
    shape = (32, 48, 64)
    coords, labels = prompts(objects, points, shape)
    more = torch.nn.functional.pad(coords, (0, 0, 3, 4), value=7.0), torch.nn.functional.pad(labels, (3, 4), value=-2)
    with torch.no_grad():
        image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
        expected = network(image, point_coords=coords.clone(), point_labels=labels.clone())
        embedding, decoder = Encoder(network)(image), PromptDecoder(network)
        found = decoder(embedding, *more)
        without = PromptDecoder(network, ignored_points=False)(embedding, coords, labels)
        assert torch.equal(decoder(embedding, coords, labels), without)
        # Where they lie is of no account either, to the last bit: their weight is 0, not small.
        elsewhere = decoder(embedding, torch.where(more[1][..., None] == -2, 20.0, more[0]), more[1])
        seen = decoder(embedding, more[0], torch.where(more[1] == -2, -1, more[1]))
    assert torch.equal(elsewhere, found)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(found, without, atol=5e-6, rtol=0)
    assert (seen - expected).abs().max() > 1e-3  # MONAI's padding is a token that counts


CHECKED = (
    "image_encoder.encoder.conv_init.weight",
    "image_encoder.up_layers.0.head.weight",
    "point_head.feat_downsample.0.weight",
    "point_head.transformer.layers.0.norm4.weight",
    "point_head.output_upscaling.0.weight",
    "point_head.output_upscaling.3.bias",
    "point_head.mask_tokens.weight",
)
"""One of each part of the network."""


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("objects", [1, 2])
def test_gradients_are_those_of_finite_differences(objects: int, training: bool) -> None:
    """Against differences and not against MONAI: with one object torch 2.13's gradient of MONAI's network is wrong."""
    torch.manual_seed(2)
    network = build_network(VISTA3DSpec(width=8, blocks_down=(1, 1))).double()
    encoder, decoder = Encoder(network).train(training), PromptDecoder(network).train(training)
    image = torch.rand(1, 1, 8, 4, 6, dtype=torch.float64)
    coords, labels = prompts(objects, 3, (8, 4, 6))
    coords = coords.double()
    weights = torch.randn(objects, 1, 8, 4, 6, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (decoder(encoder(image), coords, labels) * weights).sum()

    loss().backward()
    step = 1e-6
    for name in CHECKED:
        parameter = network.get_parameter(name)
        gradient = parameter.grad
        assert gradient is not None
        direction = gradient.sign()  # a direction in which nothing cancels
        with torch.no_grad():
            parameter.add_(step * direction)
            above = loss()
            parameter.sub_(2 * step * direction)
            below = loss()
            parameter.add_(step * direction)
        assert ((above - below) / (2 * step)).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-3), (
            name
        )

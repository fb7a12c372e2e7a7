"""Clicks in sessions of every profile, against NVIDIA's pipeline: MONAI's transforms and inferer, unsplit network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from class_weights import balance_classes  # noqa: E402
from test_training_grid import a_direction  # noqa: E402

from gstk.core.geometry import Geometry  # noqa: E402
from gstk.core.profile import InputProfile, find_profile  # noqa: E402
from gstk.core.prompts import ObjectPrompts, Point  # noqa: E402
from gstk.core.volume import Volume  # noqa: E402
from gstk.core.window import WindowPolicy  # noqa: E402
from gstk.engines.base import Engine  # noqa: E402
from gstk.session.session import Session  # noqa: E402
from gstk.training.bundle_reference import BundlePipeline  # noqa: E402
from gstk.training.network import ClassEncoder, Encoder, PromptDecoder, build_network, class_vectors  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402

SIDE = 32
PROFILES = {
    "nv-segment-ct": replace(find_profile("nv-segment-ct"), patch=(SIDE, SIDE, SIDE)),
    "challenge": replace(find_profile("challenge"), patch=(SIDE, SIDE, SIDE)),
}


class TorchHalves(Engine):
    """The split network in torch, without a bundle."""

    name = "torch halves"

    def __init__(self, network: Any) -> None:
        super().__init__(4, 8)
        self._encoder, self._decoder, self._classes = Encoder(network), PromptDecoder(network), ClassEncoder(network)
        self.vectors = class_vectors(network).numpy()

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        with torch.no_grad():
            return self._encoder(torch.from_numpy(image)), 1

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            found = self._decoder(handle, torch.from_numpy(coords), torch.from_numpy(labels))
        return np.array(found.numpy())

    def _class_features(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.array(self._classes(torch.from_numpy(image))[0].numpy())

    def _release(self) -> None:
        pass


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(21)
    return balance_classes(build_network(VISTA3DSpec(width=8, blocks_down=(1, 1, 1))).eval())


def session(network: Any, profile: InputProfile, adapts: bool = False) -> Session:
    policy = WindowPolicy(SIDE**3, 4, 8, adapts=adapts)
    return Session(TorchHalves(network), policy, profile=profile)


def a_volume(rng: np.random.Generator, profile: InputProfile, tilt: float) -> Volume:
    """A CT in HU, or a case of 0 to 255, of any shape, spacing and orientation."""
    shape = tuple(int(n) for n in rng.integers(14, 56, 3))
    grid = np.indices(shape).astype(float)
    period = rng.uniform(3, 9, 3)
    image = sum(np.sin(grid[a] / period[a] + rng.uniform(0, 6)) for a in range(3)) + rng.normal(0, 0.2, shape)
    spacing = tuple(float(s) for s in rng.choice([0.8, 1.0, 1.5, 2.5, 3.0], 3))
    direction = tuple(a_direction(rng, tilt).ravel())
    geometry = Geometry(shape, spacing, (4.0, -3.0, 20.0), direction)  # type: ignore[arg-type]
    if profile.intensities.source == "case":
        return Volume(np.clip(image * 40 + 120, 0, 255).astype(np.uint8), geometry, units="0-255")
    return Volume((image * 400).astype(np.int16), geometry, "CT", "HU")


@pytest.mark.parametrize("name", list(PROFILES))
def test_single_click_is_monais(network: Any, name: str) -> None:
    """Small and large volumes, anisotropic ones, all orders and signs of axes, oblique ones."""
    profile, agreements, shares = PROFILES[name], [], []
    for seed in range(14):
        rng = np.random.default_rng(seed)
        volume = a_volume(rng, profile, tilt=0.3 * (seed % 2))
        pipeline = BundlePipeline(network, profile, volume)
        with session(network, profile) as own:
            for _ in range(20):
                click = tuple(int(rng.integers(n)) for n in volume.image.shape)
                expected = pipeline.points(ObjectPrompts((Point(click),)))  # type: ignore[arg-type]
                if expected[click]:  # without, NVIDIA's pipeline gives nothing
                    break
            else:
                continue
            own.set_image(volume)
            own.add_point(click)
            agreements.append(float(((own.mask > 0) == expected).mean()))
            shares.append(float(expected.mean()))
    assert len(agreements) >= 8
    assert np.median(shares) > 0.02
    assert np.mean(agreements) >= 0.999, agreements


def test_first_window_is_the_trainings_and_wider_ones_follow(network: Any) -> None:
    profile = PROFILES["nv-segment-ct"]
    image = np.full((60, 120, 120), 100, np.int16)
    volume = Volume(image, Geometry(image.shape, (1.5, 0.75, 0.75)), "CT", "HU")  # type: ignore[arg-type]
    with session(network, profile) as own:
        own.set_image(volume)
        own.add_point((30, 60, 60))
        window = own.window()
        assert window is not None
        assert window.step == (1.0, 2.0, 2.0)
        assert window.shape == (SIDE, SIDE, SIDE)
        own.add_box(((5, 10, 10), (50, 110, 110)), object_id=2)
        coarser = own.window(2)
        assert coarser is not None
        assert coarser.step[0] > 1.0  # the box does not fit into the training's window
        own.add_box(((28, 58, 58), (33, 66, 66)), object_id=3)
        inside = own.window(3)
        assert inside is not None
        assert inside.step == (1.0, 2.0, 2.0)

"""The training grid, the axes and the first window of a click, against MONAI's own transforms and inferer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from nibabel.orientations import io_orientation  # noqa: E402

from gstk.core.geometry import Geometry  # noqa: E402
from gstk.core.network_image import NetworkImage  # noqa: E402
from gstk.core.orientation import AxisMap  # noqa: E402
from gstk.core.profile import InputProfile, find_profile  # noqa: E402
from gstk.core.prompts import ObjectPrompts, Point  # noqa: E402
from gstk.core.volume import Volume  # noqa: E402
from gstk.errors import ProfileError  # noqa: E402
from gstk.training.bundle_reference import BundlePipeline  # noqa: E402

CT = find_profile("nv-segment-ct")
CTMR = find_profile("nv-segment-ctmr")
PROFILES = {
    "ct": replace(CT, patch=(16, 24, 32)),
    "ctmr": replace(CTMR, patch=(16, 24, 32), branches=("points",)),
    "zyx": replace(CT, patch=(16, 24, 32), axis_order="zyx"),
    "challenge": replace(find_profile("challenge"), patch=(16, 24, 32)),
}
PERMUTATIONS = [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1), (2, 0, 1)]


class Recorder(torch.nn.Module):
    """In place of a network: keeps what it is given, and answers with a smooth function of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Any] = []

    def forward(self, image: Any, *, point_coords: Any, patch_coords: Any, **_: Any) -> Any:
        start = torch.tensor([axis.start for axis in patch_coords[0][2:]])
        self.seen.append((image.as_tensor().clone(), (point_coords - start)[0].numpy()))
        return image.as_tensor() - 0.5


def a_volume(rng: np.random.Generator, shape: tuple[int, int, int], direction: Any = None) -> Volume:
    """Smooth blobs in air, in HU, off the volume's middle."""
    grid = np.indices(shape).astype(np.float64)
    image = np.full(shape, -1000.0)
    for _ in range(4):
        centre = [rng.uniform(0.3 * n, 0.8 * n) for n in shape]
        size = rng.uniform(2, max(3, min(shape) / 3))
        far = sum((grid[a] - centre[a]) ** 2 for a in range(3)) / size**2
        image += 1300 * np.exp(-far / 2)
    image += rng.normal(0, 20, shape)
    spacing = tuple(rng.choice([0.7, 0.9, 1.0, 1.5, 2.2, 3.0]) for _ in range(3))
    flat = np.eye(3).ravel() if direction is None else np.asarray(direction).ravel()
    geometry = Geometry(shape, spacing, (5.0, -7.0, 11.0), tuple(flat))  # type: ignore[arg-type]
    return Volume(np.rint(image).astype(np.int16), geometry, modality="CT", units="HU")


def a_direction(rng: np.random.Generator, tilt: float) -> NDArray[np.float64]:
    """Axes in any order and of any sign, turned by up to `tilt` radians."""
    matrix = np.eye(3)[list(PERMUTATIONS[rng.integers(6)])] * rng.choice([-1, 1], 3)
    for axis in range(3):
        angle, turn = rng.uniform(-tilt, tilt), np.eye(3)
        i, j = (a for a in range(3) if a != axis)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@given(st.integers(0, 10**6))
def test_orientation_is_nibabels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    volume = a_volume(rng, (4, 5, 6), a_direction(rng, 0.6))
    axes = AxisMap.of(CT, volume.geometry)
    lps = np.reshape(volume.geometry.direction, (3, 3)) * volume.geometry.spacing_mm[::-1]
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ lps
    expected = io_orientation(affine)  # for (x,y,z) the axis of RAS, and its sign
    for along in range(3):
        ours = 2 - axes.order[along]
        assert expected[ours, 0] == along
        assert (expected[ours, 1] < 0) == axes.flipped[along]
    array = rng.normal(size=(4, 5, 6))
    turned = axes.to_network(array)
    np.testing.assert_array_equal(axes.to_volume(turned), array)
    point = np.array([1.0, 3.0, 2.0])
    z, y, x = point.astype(int)
    a, b, c = axes.points_to_network(point, array.shape).astype(int)
    assert turned[a, b, c] == array[z, y, x]
    assert axes.sides_to_volume(turned.shape) == array.shape


@pytest.mark.parametrize("name", list(PROFILES))
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), tilted=st.booleans(), is_rounded=st.booleans())
def test_first_window_is_what_the_network_sees_in_monai(name: str, seed: int, tilted: bool, is_rounded: bool) -> None:
    """Image, point and way back of one click: small and large volumes, every order and sign of axes, tilted ones.

    NIfTI rounds the numbers of axes to float32; MONAI then begins the grid elsewhere.
    """
    rng = np.random.default_rng(seed)
    profile: InputProfile = PROFILES[name]
    shape = tuple(int(n) for n in rng.integers(6, 48, 3))
    direction = a_direction(rng, 0.3 if tilted else 0.0)
    volume = a_volume(rng, shape, direction.astype(np.float32) if is_rounded else direction)  # type: ignore[arg-type]
    if name == "challenge":
        volume = Volume(np.clip(volume.image / 8 + 120, 0, 255).astype(np.uint8), volume.geometry)
    network = Recorder()
    pipeline = BundlePipeline(network, profile, volume)  # type: ignore[arg-type]
    image = NetworkImage.prepare(volume, profile)
    foreground = np.argwhere(volume.image > 0)
    click = foreground[rng.integers(len(foreground))]
    prompts = ObjectPrompts((Point(tuple(int(n) for n in click)),))  # type: ignore[arg-type]
    mask = pipeline.points(prompts)
    (seen, points), *_ = network.seen
    window = image.training_window(click.astype(float))
    assert window is not None
    assert image.grid is not None
    assert image.grid.holds(window)
    patch = image.sample(window)
    assert patch.shape == seen.shape
    np.testing.assert_allclose(patch, seen.numpy(), atol=2e-4)
    np.testing.assert_allclose(image.points(window, click[None].astype(float)), points, atol=1e-4)
    region, values = image.grid.nearest(window, image.to_window(patch[0, 0] - 0.5))
    ours = np.zeros(volume.image.shape, bool)
    ours[region] = values > 0
    # The reference keeps what is connected to the click.
    different = mask & ~ours
    assert different.mean() <= 1e-3


@pytest.mark.parametrize("spacing_mm", [(3.0, 3.0, 3.0), (3.0, 1.0, 0.75), (0.75, 0.75, 0.75), (5.0, 0.9, 0.9)])
@pytest.mark.parametrize("seed", range(3))
def test_way_back_of_axes_rounded_to_float32_is_monais(spacing_mm: tuple[float, float, float], seed: int) -> None:
    """Voxels of the volume halfway between two of the grid, of which every other one is in the mask."""
    rng = np.random.default_rng(seed)
    direction = a_direction(rng, 0.4).astype(np.float32)
    shape = tuple(int(n) for n in rng.integers(20, 70, 3))
    volume = Volume(
        rng.integers(40, 60, shape).astype(np.int16),
        Geometry(shape, spacing_mm, (5.3, -7.1, 11.9), tuple(direction.ravel())),  # type: ignore[arg-type]
        units="HU",
    )
    pipeline, image = BundlePipeline(Recorder(), PROFILES["ct"], volume), NetworkImage.prepare(volume, CT)  # type: ignore[arg-type]
    mask = rng.integers(0, 2, pipeline.image.shape[2:])
    assert image.grid is not None
    whole = image.grid.window(image.grid.low, image.grid.shape)
    inside, values = image.grid.nearest(whole, image.to_window(mask.astype(np.float32)))
    ours = np.zeros(shape)
    ours[inside] = values
    theirs = pipeline.labels(torch.from_numpy(2.0 * mask - 1)[None, None], [1])
    assert (ours != theirs).mean() <= 1e-2  # the plane through the middle lies halfway to the last bit of float64


@pytest.mark.parametrize("name", ["ct", "zyx", "challenge"])
def test_clicks_at_the_ends_of_a_volume_are_placed_as_monai_does(name: str) -> None:
    """First, second and last voxels of volumes that are smaller and larger than the patch, in any orientation."""
    profile: InputProfile = PROFILES[name]
    for seed, shape in enumerate([(7, 60, 20), (50, 9, 41), (33, 34, 35), (5, 6, 7)]):
        rng = np.random.default_rng(seed)
        geometry = a_volume(rng, shape, a_direction(rng, 0.2)).geometry
        image = rng.integers(30, 250, shape)
        volume = Volume(image.astype(np.uint8 if name == "challenge" else np.int16), geometry, units="HU")
        if name == "challenge":
            volume = replace(volume, units="0-255")
        network = Recorder()
        pipeline, own = BundlePipeline(network, profile, volume), NetworkImage.prepare(volume, profile)  # type: ignore[arg-type]
        for _ in range(8):
            click = tuple(int(rng.choice([0, 1, n // 2, n - 2, n - 1])) for n in shape)
            network.seen.clear()
            pipeline.points(ObjectPrompts((Point(click),)))  # type: ignore[arg-type]
            (seen, points), *_ = network.seen
            window = own.training_window(click)
            assert window is not None
            np.testing.assert_allclose(own.sample(window), seen.numpy(), atol=2e-4)
            np.testing.assert_allclose(own.points(window, np.array([click], float)), points, atol=1e-4)


def test_axes_that_are_not_at_right_angles_are_refused() -> None:
    direction = np.eye(3)
    direction[0, 1] = 0.2
    with pytest.raises(ProfileError, match="not at right angles"):
        NetworkImage.prepare(a_volume(np.random.default_rng(1), (8, 9, 10), direction), CT)


def test_volume_without_foreground_is_taken_whole() -> None:
    volume = Volume(np.full((8, 9, 10), -1000, np.int16), Geometry((8, 9, 10), (1.5, 1.5, 1.5)), units="HU")
    image = NetworkImage.prepare(volume, CT)
    assert image.grid is not None
    assert image.grid.shape == (8, 9, 10)

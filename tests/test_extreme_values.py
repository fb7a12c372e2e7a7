"""Values at the ends of what numbers hold, padding that is no air, and images in which nothing can be told apart."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gstk
from gstk.core.geometry import Geometry
from gstk.core.intensities import choose_limits, prepare_intensities, window_image
from gstk.core.profile import builtin_profiles
from gstk.core.resampling import bring_within_reach, intensity_range, normalise
from gstk.core.volume import Volume, VolumeWarning

SHAPE = (12, 20, 20)
STEPS = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 1000  # 0 to 999, each as often
EXTREMES = [
    STEPS.astype(np.uint64) + np.uint64(2**63 - 1000),
    STEPS.astype(np.uint64) + np.uint64(2**64 - 1000),
    STEPS.astype(np.int64) + np.int64(2**63 - 1000),
    STEPS.astype(np.int64) + np.int64(-(2**63)),
    STEPS.astype(np.int64) * (2**63 // 1000),
    (STEPS.astype(np.int64) - 500) * (2**63 // 500),
    STEPS * 1.7e305,
    (STEPS - 500) * 3.5e305,
    STEPS * 1e-310,
    STEPS * 5e-324,
    (STEPS + 2**31 - 1000).astype(np.int32),
    (STEPS + 2**32 - 1000).astype(np.uint32),
    1e9 + STEPS * 1e-3,
]


@pytest.mark.parametrize("index", range(len(EXTREMES)))
def test_numbers_near_the_ends_keep_their_contrast(index: int) -> None:
    volume = EXTREMES[index]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        within = bring_within_reach(volume)
        low, high = intensity_range(within)
        got = normalise(within, low, high)
        ends = np.percentile(STEPS, (1, 99))
        expected = np.clip((STEPS - ends[0]) / (ends[1] - ends[0]), 0, 1)
        np.testing.assert_allclose(got, expected, atol=2e-3)
        image, words = window_image(volume)
        assert words.startswith("percentiles") or image.max() <= 255
        np.testing.assert_allclose(image, np.clip((STEPS - 5) / 989, 0, 1) * 255, atol=3)


@pytest.mark.parametrize(("dtype", "far"), [(np.int16, 30000), (np.int32, 2 * 10**9), (np.float32, 3e38)])
def test_neighbours_far_apart_do_not_overflow(dtype: type, far: float) -> None:
    """The percentiles lie between ranks whose difference the dtype cannot hold."""
    image = np.array([-far, far, 7, 9], dtype).reshape(1, 2, 2)
    (low, high), _ = choose_limits(image, intensity_window="percentile")
    np.testing.assert_allclose((low, high), (-far + 0.015 * (far + 7), far - 0.015 * (far - 9)), rtol=1e-6)


def test_ordinary_volumes_are_not_copied() -> None:
    for dtype in (np.uint8, np.int16, np.float32, np.float64, np.int64):
        volume = STEPS.astype(dtype)
        assert bring_within_reach(volume) is volume


def ct(padding: int | None = None, fat: bool = True) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = np.where(STEPS % 3 == 0, rng.normal(-1000, 20, SHAPE), rng.normal(40, 20, SHAPE))
    if fat:
        image[:, :4] = rng.normal(-100, 10, (SHAPE[0], 4, SHAPE[2]))
    if padding is not None:
        image = np.maximum(image, -999)
        image[:, -5:] = padding
    return image.astype(np.int16)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (ct(), "CT window soft"),
        (ct(-2048), "CT window soft"),
        (np.maximum(ct(), -1024), "CT window soft"),
        (np.where(STEPS < 300, -1024, STEPS).astype(np.int16), "percentiles 0.5 and 99.5 of voxels above the padding"),
        (np.where(STEPS < 300, -1024.0, STEPS), "percentiles 0.5 and 99.5 of voxels above the padding of -1024"),
        (np.where(STEPS < 300, -32768, STEPS).astype(np.int16), "percentiles 0.5 and 99.5 of voxels above the padding"),
        (np.where(STEPS < 300, -1000, 40).astype(np.int16), "CT window soft"),  # air, and nothing else
    ],
)
def test_padding_is_no_air(image: np.ndarray, words: str) -> None:
    assert window_image(image)[1].startswith(words)


def test_padding_takes_no_part_in_the_percentiles() -> None:
    image, words = window_image(np.where(STEPS < 300, -1024, STEPS).astype(np.int16))
    low, high = np.percentile(STEPS[STEPS >= 300], (0.5, 99.5))
    assert words.endswith(f": {low:g} to {high:g}")
    assert image[STEPS == 650].min() == pytest.approx((650 - low) / (high - low) * 255, abs=1)


def test_what_cannot_be_told_apart_is_said() -> None:
    session = gstk.open("tiny")
    with pytest.warns(VolumeWarning, match="all voxels of the image have the value 7: nothing in it can be told apart"):
        session.set_image(np.full(SHAPE, 7, np.int16))
    with pytest.warns(
        VolumeWarning,
        match=r"window lung .* leaves the one value 255 of the image, whose values are 2000 to 2999: .*another window",
    ):
        session.set_image((STEPS + 2000).astype(np.int16), intensity_window="lung")
    session.close()
    volume = Volume(np.full(SHAPE, -1000, np.int16), Geometry(SHAPE, (1, 1, 1)), "CT", "HU", name="scan")
    with pytest.warns(VolumeWarning, match="all voxels of scan have the value -1000"):
        prepare_intensities(volume, builtin_profiles()["challenge"])

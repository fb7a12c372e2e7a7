"""One preparation for every way into gstk: what becomes of HU, of 0 to 255, and of units that nobody knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.intensities import prepare_intensities
from gstk.core.profile import Intensities, find_profile
from gstk.core.resampling import normalise
from gstk.core.volume import Volume, VolumeWarning
from gstk.errors import CaseError, GstkError, ProfileError

CASE, HU = find_profile("challenge"), find_profile("nv-segment-ct")


def volume(image: NDArray[np.generic], **known: object) -> Volume:
    return Volume(image, Geometry(image.shape, (1, 1, 1)), **known)  # type: ignore[arg-type]


def a_ct() -> NDArray[np.int16]:
    return np.random.default_rng(5).integers(-1000, 1500, (6, 7, 8)).astype(np.int16)


@pytest.mark.parametrize("modality", ["CT", None])
def test_raw_ct_goes_through_the_papers_window(modality: str | None) -> None:
    ct = a_ct()
    prepared = prepare_intensities(volume(ct, modality=modality), CASE)
    expected = np.rint((np.clip(ct.astype(float), -160, 240) + 160) / 400 * 255)
    np.testing.assert_array_equal(prepared.image, expected)
    assert (prepared.low, prepared.high) == tuple(np.percentile(expected, (1, 99)))
    assert prepared.words.startswith("CT window soft W400 L40, for ")
    assert "percentiles 1 and 99 (0 and 255) become 0 and 1" in prepared.words


def test_a_case_is_left_alone() -> None:
    image = np.arange(6 * 7 * 8, dtype=np.uint8).reshape(6, 7, 8)
    prepared = prepare_intensities(volume(image, units="0-255", modality="CT"), CASE)
    assert prepared.image is image
    assert "left as they are" in prepared.words


@given(st.floats(-1500, 1500, width=32), st.floats(1, 500, width=32))
def test_hounsfield_units_go_by_the_profile_alone(shift: float, scale: float) -> None:
    """NVIDIA's ScaleIntensityRange: linear between two HU, clipped, whatever else is in the volume."""
    image = np.random.default_rng(1).normal(shift, scale, (5, 5, 5)).astype(np.float32)
    prepared = prepare_intensities(volume(image, units="HU"), HU)
    low, high = -963.8247715525971, 1053.678477684517
    expected = np.clip((image.astype(float) - low) / (high - low), 0, 1)
    assert prepared.low is not None
    assert prepared.high is not None
    np.testing.assert_allclose(normalise(prepared.image, prepared.low, prepared.high), expected, atol=2e-6)


@pytest.mark.parametrize("known", [{"units": "0-255"}, {}])
def test_windowed_values_are_not_hu(known: dict[str, str]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 5, 5)).astype(np.uint8)
    with pytest.raises(ProfileError, match=r"values of 0 to 255 for the profile nv-segment-ct.*--assume-window soft"):
        prepare_intensities(volume(image, **known), HU)
    assert prepare_intensities(volume(image, **known), HU, assume_window="hu").image is image


@pytest.mark.parametrize(("window", "low", "high"), [("soft", -160, 240), ("1500,-600", -1350, 150)])
def test_assumed_window_is_inverted(window: str, low: float, high: float) -> None:
    ct = a_ct().astype(np.float64)
    windowed = np.rint((np.clip(ct, low, high) - low) / (high - low) * 255).astype(np.uint8)
    prepared = prepare_intensities(volume(windowed, units="0-255"), HU, assume_window=window)
    np.testing.assert_allclose(prepared.image, np.clip(ct, low, high), atol=(high - low) / 255 / 2 + 1e-3)
    assert "what was beyond is lost" in prepared.words


def test_windows_that_a_profile_does_not_use_are_refused() -> None:
    with pytest.raises(ProfileError, match="takes intensities as they are; leave it out"):
        prepare_intensities(volume(a_ct()), HU, "soft")
    with pytest.raises(ProfileError, match="takes no HU; leave it out"):
        prepare_intensities(volume(a_ct()), CASE, assume_window="soft")
    with pytest.raises(ProfileError, match="not 0 to 255; leave it out"):
        prepare_intensities(volume(a_ct()), HU, assume_window="soft")
    with pytest.raises(ProfileError, match="expected hu, soft"):
        prepare_intensities(volume(a_ct()), HU, assume_window="percentile")
    with pytest.raises(CaseError, match="got the window 'wide'"):
        prepare_intensities(volume(a_ct()), CASE, "wide")


def test_what_is_not_known_to_be_ct_is_warned_of() -> None:
    mr = np.random.default_rng(1).integers(0, 2000, (5, 5, 5)).astype(np.int16)
    with pytest.warns(VolumeWarning, match="is MR, but the profile nv-segment-ct is for CT"):
        prepare_intensities(volume(mr, modality="MR"), HU)
    with pytest.warns(VolumeWarning, match="does not say its units"):
        prepare_intensities(volume(mr), HU)


def test_percentiles_of_the_foreground_wait_for_it() -> None:
    prepared = prepare_intensities(volume(a_ct()), find_profile("nv-segment-ctmr"))
    assert (prepared.low, prepared.high) == (None, None)


def test_other_percentiles_are_honoured() -> None:
    own = replace(CASE, intensities=Intensities(source="file", percentiles=(10, 60)))
    prepared = prepare_intensities(volume(a_ct()), own)
    np.testing.assert_allclose((prepared.low, prepared.high), np.percentile(a_ct(), (10, 60)))


@pytest.mark.parametrize("value", [0, 7, -1000.5])
def test_one_value_has_no_contrast_and_is_taken(value: float) -> None:
    prepared = prepare_intensities(volume(np.full((4, 4, 4), value, np.float32)), CASE)
    assert prepared.low == prepared.high


def test_volume_refuses_what_is_none() -> None:
    with pytest.raises(GstkError, match="NaN or infinity"):
        volume(np.full((2, 2, 2), np.nan))
    with pytest.raises(GstkError, match="expected real numbers"):
        volume(np.zeros((2, 2, 2), complex))
    with pytest.raises(GstkError, match="expected the same"):
        Volume(np.zeros((2, 2, 2)), Geometry((2, 2, 3), (1, 1, 1)))

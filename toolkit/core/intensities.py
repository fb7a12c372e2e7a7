"""From a volume's own units to what a network takes as 0 and 1: one rule for every way into gstk.

Networks that were trained on the challenge's cases want 0 to 255 made as the paper did (section 3.2): CT through a
window, everything else between its 0.5th and 99.5th percentile, of the non-zero voxels where the image's minimum is 0,
for there 0 is the empty background, and it stays 0. Others want HU or the file's own units.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gstk.core.distribution import Distribution
from gstk.core.profile import InputProfile
from gstk.core.resampling import bring_within_reach, intensity_range
from gstk.core.volume import Volume, VolumeWarning
from gstk.errors import CaseError, ProfileError

__all__ = [
    "CT_WINDOWS",
    "IntensityWindow",
    "PreparedIntensities",
    "choose_limits",
    "is_case_like",
    "parse_intensity_window",
    "prepare_intensities",
    "rescale",
    "window_image",
]

CT_WINDOWS = {"soft": (400.0, 40.0), "lung": (1500.0, -160.0), "brain": (80.0, 40.0), "bone": (1800.0, 400.0)}
"""Width and level in Hounsfield units (the paper, section 3.2)."""

IntensityWindow: TypeAlias = str | tuple[float, float] | None
"""A key of CT_WINDOWS, "percentile", "auto" (None is the same), a (width, level), or such a pair as "width,level"."""

_PERCENTILES = (0.5, 99.5)
_AIR_HU = -900
_VACUUM_HU = -1000
_AIR, _FAT = (-1100, _AIR_HU), (-200, -10)
_CT_SHARE = 0.01
"""Of the voxels that are not padding, the share of air, or of fat, from which an image counts as CT."""


class PreparedIntensities(NamedTuple):
    """An image whose values `low` and `high` are the network's 0 and 1.

    Attributes:
        image: (z,y,x), as it was or rescaled.
        low, high: None where they are percentiles of the foreground, which only the resampled volume tells.
        words: what was done, for the user.
    """

    image: NDArray[Any]
    low: float | None
    high: float | None
    words: str


def prepare_intensities(
    volume: Volume,
    profile: InputProfile,
    intensity_window: IntensityWindow = None,
    assume_window: IntensityWindow = None,
) -> PreparedIntensities:
    """What a profile makes of a volume's values.

    Args:
        volume: any values.
        profile: of the network.
        intensity_window: for profiles of challenge cases, how other intensities become 0..255 (`choose_limits`).
        assume_window: for profiles in HU, the window that made 0..255 of the volume's HU, which is inverted: what was
            beyond the window is lost. "hu" says that the values are HU as they are.

    Raises:
        ProfileError: the volume's values do not fit the profile, or a window is given that the profile does not use.
        CaseError: the window is unknown.

    Warns:
        VolumeWarning: a profile in HU, and a volume that is not CT or does not say so.
    """
    given = profile.intensities
    _warn_if_constant(volume)
    if given.source != "case" and parse_intensity_window(intensity_window) != "auto":
        raise ProfileError(
            f"got the window {intensity_window} for the profile {profile.name}, which takes intensities as they are; "
            "leave it out"
        )
    if given.source != "hounsfield" and assume_window is not None:
        raise ProfileError(f"got an assumed window for the profile {profile.name}, which takes no HU; leave it out")
    image, words = volume.image, "taken as they are"
    if given.source == "case":
        image, words = window_image(image, volume.modality, intensity_window, volume.name)
    elif given.source == "hounsfield":
        image, words = _hounsfield(volume, profile, assume_window)
    if given.range is not None:
        low, high = given.range
        return PreparedIntensities(image, low, high, f"{words}; {low:g} to {high:g} become 0 to 1")
    first, last = given.percentiles
    if given.scope == "foreground":
        return PreparedIntensities(image, None, None, f"{words}; percentiles {first:g} and {last:g} become 0 and 1")
    image = bring_within_reach(image)
    low, high = intensity_range(image, given.percentiles)
    return PreparedIntensities(
        image, low, high, f"{words}; percentiles {first:g} and {last:g} ({low:g} and {high:g}) become 0 and 1"
    )


def window_image(
    image: NDArray[Any],
    modality: str | None = None,
    intensity_window: IntensityWindow = None,
    name: str = "the image",
) -> tuple[NDArray[Any], str]:
    """An image as the paper made the challenge's cases, and what was done to it in words; see `choose_limits`.

    Returns:
        (z,y,x), uint8 0 to 255, or the image itself where it is to be left alone.

    Raises:
        CaseError: the window is unknown.

    Warns:
        VolumeWarning: the window leaves nothing of the image's contrast.
    """
    if parse_intensity_window(intensity_window) in ("auto", "percentile"):
        image = bring_within_reach(image)
    limits, words = choose_limits(image, modality, intensity_window)
    if limits is None:
        return image, words
    scaled = rescale(image, *limits)
    if scaled.min() == scaled.max() and image.min() != image.max():
        said = f"the {words} leaves the one value {scaled.flat[0]} of {name}, whose values are {image.min():g} to "
        warnings.warn(f"{said}{image.max():g}: nothing in it can be told apart; give another window", VolumeWarning, 4)
    return scaled, words


def _warn_if_constant(volume: Volume) -> None:
    low = volume.image.min()
    if low == volume.image.max():
        said = f"all voxels of {volume.name} have the value {low:g}: nothing in it can be told apart"
        warnings.warn(said, VolumeWarning, stacklevel=5)


def _padding_of(image: NDArray[Any]) -> tuple[bool, bool]:
    """Whether an image whose minimum is air in HU, or less, is CT, and whether that minimum is padding.

    Below -1000 HU there is nothing, so a lowest value there may be what fills the corners, of MR as well as of CT. CT
    also has air, lung or fat among its other voxels; MR, padded, has its own values only, from 0 on.
    """
    values = Distribution(image)
    if values.low >= _VACUUM_HU:
        return True, False
    inside = values.without(values.low)
    if inside is None or inside.size < _CT_SHARE * values.size:  # too little to tell
        return True, False
    is_ct = max(inside.count(first, last) / inside.size for first, last in (_AIR, _FAT)) >= _CT_SHARE
    return is_ct, not is_ct


def rescale(image: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Clip an image to low..high and map that to 0..255, rounded.

    Args:
        image: (z, y, x), any integer or float dtype.
        low, high: in the image's units, low < high.

    Returns:
        uint8 (z, y, x), 0..255.
    """

    def scale(values: NDArray[Any]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = np.rint(
            (np.clip(values.astype(np.float64), low, high) - low) / (high - low) * 255
        )
        return scaled

    scaled = np.empty(image.shape, np.uint8)
    dtype = image.dtype
    if dtype.kind in "iu" and dtype.itemsize <= 2 and dtype.isnative:
        bits = np.dtype(f"u{dtype.itemsize}")
        table = scale(np.arange(2 ** (8 * bits.itemsize), dtype=bits).view(dtype)).astype(np.uint8)
        for index, image_slice in enumerate(image):
            scaled[index] = table[image_slice.view(bits)]
    else:
        for index, image_slice in enumerate(image):  # a slice at a time: float64 copies of whole volumes are large
            scaled[index] = scale(image_slice)
    return scaled


def choose_limits(
    image: NDArray[Any], modality: str | None = None, intensity_window: IntensityWindow = None
) -> tuple[tuple[float, float] | None, str]:
    """The intensities that become 0 and 255, as the paper made the challenge's cases.

    Args:
        image: (z,y,x), any units.
        modality: DICOM modality, where it is known.
        intensity_window: "auto" takes the soft-tissue window where DICOM says CT or, where nothing does, the minimum is
            at most -900 (air in Hounsfield units) and no mere padding, leaves integers within 0..255 and images of one
            value alone, and takes the percentiles otherwise. Any other choice is applied whatever the image looks like.

    Returns:
        The two intensities, None for an image to be left alone; and the choice in words.

    Raises:
        CaseError: the window is unknown.
    """
    low, high = image.min(), image.max()
    choice = parse_intensity_window(intensity_window)
    reason, is_padded = "", False
    if choice == "auto":
        looks_like_ct, is_padded = _padding_of(image) if modality is None and low <= _AIR_HU else (False, False)
        if (modality == "CT" and image.dtype != np.uint8) or looks_like_ct:
            choice = "soft"
            reason = ", for DICOM says CT" if modality else f", for the minimum of {low:g} looks like air in CT"
        elif is_case_like(image):
            return None, f"left as they are, integers from {low} to {high}"
        else:
            choice = "percentile"
    if choice != "percentile":
        width, level = CT_WINDOWS[choice] if isinstance(choice, str) else choice
        name = f"{choice} " if isinstance(choice, str) else ""
        return (level - width / 2, level + width / 2), f"CT window {name}W{width:g} L{level:g}{reason}"
    if low == high:
        return None, f"left as they are, all {low:g}"
    values = Distribution(image)
    inside = values.without(low) if low == 0 or is_padded else values
    assert inside is not None  # low is not high
    lower, upper = inside.percentiles(_PERCENTILES)
    if lower == upper:
        lower, upper = float(low), float(high)
    of_what = "non-zero voxels" if low == 0 else "all voxels"
    if is_padded:
        of_what = f"voxels above the padding of {low:g}"
    return (lower, upper), f"percentiles 0.5 and 99.5 of {of_what}: {lower:g} to {upper:g}"


def parse_intensity_window(intensity_window: IntensityWindow) -> str | tuple[float, float]:
    """A window by name, or its width and level.

    Raises:
        CaseError: it is neither.
    """
    if intensity_window is None:
        return "auto"
    if isinstance(intensity_window, str) and (
        intensity_window in CT_WINDOWS or intensity_window in ("auto", "percentile")
    ):
        return intensity_window
    parts = intensity_window.split(",") if isinstance(intensity_window, str) else intensity_window
    try:
        width, level = (float(part) for part in parts)
    except (TypeError, ValueError):
        width, level = math.nan, math.nan
    if not (0 < width < math.inf and math.isfinite(level)):
        names = ", ".join(CT_WINDOWS)
        raise CaseError(
            f"got the window {intensity_window!r}, expected auto, percentile, {names}, "
            "or a width > 0 and a level: 400,40"
        )
    return width, level


def is_case_like(image: NDArray[Any]) -> bool:
    """Whether an image looks like one that was windowed to 0..255 already."""
    return image.dtype.kind in "iu" and bool(image.min() >= 0) and bool(image.max() <= 255)


def _hounsfield(volume: Volume, profile: InputProfile, assume_window: IntensityWindow) -> tuple[NDArray[Any], str]:
    """The values of a volume in HU."""
    if assume_window is not None and assume_window != "hu":
        choice = parse_intensity_window(assume_window)
        if choice in ("auto", "percentile"):
            raise ProfileError(
                f"got the assumed window {assume_window!r}, expected hu, {', '.join(CT_WINDOWS)} or width,level"
            )
        if volume.image.min() < 0 or volume.image.max() > 255:
            raise ProfileError(f"got an assumed window for {volume.name}, whose values are not 0 to 255; leave it out")
        width, level = CT_WINDOWS[choice] if isinstance(choice, str) else choice
        low = level - width / 2
        image = volume.image.astype(np.float32) * np.float32(width / 255) + np.float32(low)
        return image, f"0 to 255 taken back to {low:g} to {low + width:g} HU; what was beyond is lost"
    if volume.units == "HU" or assume_window == "hu":
        return volume.image, "taken as HU"
    if volume.units == "0-255" or is_case_like(volume.image):
        raise ProfileError(
            f"got {volume.name} with values of 0 to 255 for the profile {profile.name}, expected HU; give the CT that "
            "it was made of, or --assume-window soft to take the window back with loss (hu if the values are HU)"
        )
    if volume.modality is not None:
        said = f"{volume.name} is {volume.modality}, but the profile {profile.name} is for CT: its values count as HU"
        warnings.warn(said, VolumeWarning, stacklevel=4)
        return volume.image, f"values of {volume.modality} taken as HU"
    if volume.image.min() <= _AIR_HU and _padding_of(volume.image)[0]:
        return volume.image, "taken as HU, for the minimum looks like air"
    said = f"{volume.name} does not say its units, and nothing in it looks like air: its values count as HU"
    warnings.warn(said, VolumeWarning, stacklevel=4)
    return volume.image, "taken as HU"

"""What Python's preparation makes of volumes, for the C++ library: one JSON, `cpp/tests/preparation.cpp` reads it."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gstk.cases.nifti import write_nifti
from gstk.core.geometry import Geometry
from gstk.core.intensities import prepare_intensities
from gstk.core.network_image import NetworkImage
from gstk.core.profile import InputProfile, Intensities, find_profile
from gstk.core.resampling import normalise
from gstk.core.volume import Volume
from gstk.errors import CaseError, ProfileError

STEPS = np.arange(6 * 7 * 9).reshape(6, 7, 9) % 100


def write_preparations(file: Path, seed: int = 0) -> None:
    """Writes inputs and what Python makes of each."""
    rng = np.random.default_rng(seed)
    images = [_network_image(rng, profile) for profile in _grid_profiles() for _ in range(9)]
    headers = [_header(rng) for _ in range(30)]
    file.write_text(json.dumps({"intensities": list(_intensities(rng)), "images": images, "headers": headers}))


def described_volume(volume: Volume) -> dict[str, Any]:
    """A volume as JSON."""
    geometry = volume.geometry
    return {
        "dtype": volume.image.dtype.str.lstrip("<|"),
        "shape": volume.image.shape,
        "values": volume.image.ravel().tolist(),
        "spacing": geometry.spacing_mm,
        "origin": geometry.origin_mm,
        "direction": geometry.direction,
        "has_orientation": volume.has_orientation,
        "units": volume.units or "",
        "modality": volume.modality or "",
    }


def _intensities(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Every rule of `gstk.core.intensities`, and numbers near the ends of what their types hold."""
    for image in [*_clinical(rng), *_extremes()]:
        for profile in _profiles():
            for modality, units, window, assumed in [
                (None, None, None, None),
                ("CT", "HU", None, None),
                ("MR", None, None, None),
                (None, "0-255", None, None),
                (None, None, "lung", None),
                ("CT", None, "percentile", None),
                (None, None, "350.5,40", None),
                (None, None, None, "soft"),
                (None, None, None, "1500,-600"),
                (None, None, None, "hu"),
            ]:
                if rng.random() < 0.25 or (modality, units) == (None, None):
                    geometry = Geometry(image.shape, (1, 1, 1))  # type: ignore[arg-type]
                    yield _prepared(Volume(image, geometry, modality, units), profile, window, assumed)
    image = next(_clinical(rng))
    for window, assumed in [("wide", None), ("0,5", None), ("nan,5", None), (None, "percentile"), (None, "auto")]:
        volume = Volume(image, Geometry(image.shape, (1, 1, 1)))  # type: ignore[arg-type]
        for profile in _profiles():
            yield _prepared(volume, profile, window, assumed)


def _clinical(rng: np.random.Generator) -> Iterator[NDArray[Any]]:
    ct = np.where(STEPS % 3 == 0, rng.normal(-1000, 20, STEPS.shape), rng.normal(40, 20, STEPS.shape))
    yield ct.astype(np.int16)
    padded = ct.copy()
    padded[:, -2:] = -2048
    yield padded.astype(np.int16)
    yield np.where(STEPS < 30, -1024, STEPS * 7).astype(np.float32)  # MR that was padded
    yield np.where(STEPS < 30, 0, STEPS * 7 + 30).astype(np.uint16)  # MR on an empty background
    yield rng.normal(500, 100, STEPS.shape).astype(np.float32)
    yield rng.normal(0, 3, STEPS.shape).round().astype(np.int8)
    yield STEPS.astype(np.uint8)
    yield STEPS.astype(np.int32)
    yield np.full((3, 4, 5), 7, np.int16)
    yield np.full((3, 4, 5), -1000.5, np.float32)
    spike = np.zeros((20, 20, 20), np.int16)
    spike[3, 3, 3] = 2000  # fewer than percentiles leave out
    yield spike
    yield np.array([-30000, 30000, 7, 9], np.int16).reshape(1, 2, 2)  # neighbours whose difference is no int16


def _extremes() -> Iterator[NDArray[Any]]:
    yield STEPS.astype(np.uint64) + np.uint64(2**64 - 100)
    yield STEPS.astype(np.int64) + np.int64(2**63 - 100)
    yield STEPS.astype(np.int64) + np.int64(-(2**63))
    yield (STEPS.astype(np.int64) - 50) * (2**63 // 50)
    yield STEPS * 1.7e306
    yield (STEPS - 50) * 3.5e306
    yield STEPS * 1e-310
    yield STEPS * 5e-324
    yield (STEPS + 2**31 - 100).astype(np.int32)
    yield (STEPS + 2**32 - 100).astype(np.uint32)
    yield 1e9 + STEPS * 1e-3


def _profiles() -> Iterator[InputProfile]:
    yield find_profile("tiny")
    yield find_profile("nv-segment-ct")
    yield replace(
        find_profile("tiny"), name="own percentiles", intensities=Intensities(source="file", percentiles=(10, 60))
    )
    yield replace(find_profile("tiny"), name="own range", intensities=Intensities(source="file", range=(-5.5, 700)))


def _prepared(volume: Volume, profile: InputProfile, window: str | None, assumed: str | None) -> dict[str, Any]:
    given = {
        "volume": described_volume(volume),
        "profile": profile.to_json(),
        "intensity_window": window or "",
        "assume_window": assumed or "",
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            prepared = prepare_intensities(volume, profile, window, assumed)
        except (CaseError, ProfileError) as error:
            return {**given, "error": type(error).__name__}
    assert prepared.low is not None
    assert prepared.high is not None
    return {
        **given,
        "words": prepared.words,
        "warnings": [str(warning.message) for warning in caught],
        "low": prepared.low,
        "high": prepared.high,
        "normalised": normalise(prepared.image, prepared.low, prepared.high).ravel().tolist(),
    }


def _grid_profiles() -> Iterator[InputProfile]:
    """Built-in ones with small patches, and what they leave out."""
    ct = replace(find_profile("nv-segment-ct"), patch=(16, 24, 8))
    yield ct
    yield replace(ct, crop_margin=None, orientation="stored")
    yield replace(find_profile("nv-segment-ctmr"), patch=(8, 16, 24))
    yield replace(find_profile("challenge"), patch=(16, 16, 24))
    yield replace(
        find_profile("nv-segment-ctmr"),
        axis_order="zyx",
        spacing_mm=2.7,
        crop_margin=1,
        patch=(16, 8, 8),
        projection="linear",
        intensities=Intensities("file", None, (3, 90), "foreground"),
    )


def _network_image(rng: np.random.Generator, profile: InputProfile) -> dict[str, Any]:
    """A volume in the network's axes and on its grid, oblique and flipped ones among them, and windows of it."""
    shape = tuple(int(n) for n in rng.integers(1, 26, 3))
    image = np.zeros(shape) if rng.random() < 0.1 else rng.normal(-20, 100, shape)
    low, high = np.sort([[rng.integers(n + 1) for n in shape] for _ in range(2)], axis=0)
    outside = np.ones(shape, bool)
    outside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = False
    if rng.random() < 0.6:
        image[outside] = -1000  # there is a foreground to crop to
    if profile.intensities.source == "case":
        image = np.clip(image, 0, 255)
    turned = _direction(rng)
    spacing = tuple(rng.choice([0.75, 1.0, 1.5, 3.0, 3.0, *rng.uniform(0.6, 5, 2)], 3).tolist())
    geometry = Geometry(shape, spacing, (4.0, -3.0, 20.0), turned)  # type: ignore[arg-type]
    dtype = rng.choice(["u1"] if profile.intensities.source == "case" else ["i2", "f4", "f8"])
    volume = Volume(image.astype(dtype), geometry, "CT", "HU", bool(rng.random() < 0.8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = NetworkImage.prepare(volume, profile)
    assert found.grid is not None
    windows = [_window(rng, found) for _ in range(2)]
    return {
        "volume": described_volume(volume),
        "profile": profile.to_json(),
        "order": found.axes.order,
        "flipped": found.axes.flipped,
        "low": found.low,
        "high": found.high,
        "grid_step": found.grid.step,
        "grid_low": found.grid.low,
        "grid_high": found.grid.high,
        "patch": found.patch_zyx,
        "windows": windows,
    }


def _direction(rng: np.random.Generator) -> tuple[float, ...]:
    """Axes in any order and of any sign, half of them oblique, and half of them rounded to float32, as in NIfTI."""
    turned = Rotation.from_euler("xyz", rng.uniform(-0.5, 0.5, 3) * rng.integers(0, 2)).as_matrix()
    axes = turned @ np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    return tuple((axes.astype(np.float32) if rng.random() < 0.5 else axes).ravel().tolist())


def _header(rng: np.random.Generator) -> dict[str, Any]:
    """A geometry, and the header of a NIfTI mask that came from no NIfTI file."""
    shape = (2, 3, int(rng.choice([4, 40000])))
    spacing = tuple(rng.uniform(0.5, 5, 3).tolist())
    geometry = Geometry(shape, spacing, tuple(rng.uniform(-99, 99, 3).tolist()), _direction(rng))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mask.nii")
        write_nifti(file, np.zeros(shape, np.uint8), geometry)
        header = file.read_bytes()[: 540 if max(shape) >= 2**15 else 348]
    described = described_volume(Volume(np.zeros(shape, np.uint8), geometry))
    return {"volume": {**described, "values": []}, "bytes": list(header)}


def _window(rng: np.random.Generator, image: NetworkImage) -> dict[str, Any]:
    """The training's window around a voxel, what the network is given of it, and the way back of an answer."""
    assert image.grid is not None
    voxel = [int(rng.integers(n)) for n in image.geometry.shape]
    window = image.training_window(voxel)
    assert window is not None
    given = image.sample(window)[0, 0]
    answer = rng.normal(size=given.shape).astype(np.float32)
    region, values = image.grid.nearest(window, image.to_window(answer))
    return {
        "voxel": voxel,
        "start": window.start,
        "step": window.step,
        "shape": window.shape,
        "given": given.ravel().tolist(),
        "point": image.points(window, np.array([voxel], np.float64))[0].tolist(),
        "answer": answer.ravel().tolist(),
        "region": [axis.start for axis in region] + [axis.stop for axis in region],
        "nearest": values.ravel().tolist(),
    }


if __name__ == "__main__":
    write_preparations(Path(sys.argv[1]))

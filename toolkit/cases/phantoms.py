"""Labelled volumes drawn from random numbers: training and tests need no download.

A phantom is a label map of random shapes, painted by domain randomisation: intensities, textures, contrast, partial
volume, bias field, noise and slice thickness are all drawn anew, so that a network that learns from many of them meets
real scans as one more draw (the idea of SynthSeg, Billot et al., doi:10.1016/j.media.2023.102789, and of SynthMorph,
Hoffmann et al., doi:10.1109/TMI.2021.3116879). NumPy and SciPy alone: the demonstration runs where torch is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from gstk.errors import TrainingError

__all__ = ["KINDS", "Phantom", "generate_phantom", "smooth_noise"]

Field = NDArray[np.float32]
Labels = NDArray[np.int32]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Phantom:
    """A generated volume.

    Attributes:
        image: uint8 (z,y,x), 0–255.
        labels: int32 (z,y,x), 0 background, 1..K one connected object each.
        spacing_mm: (z,y,x).
        kind: one of `KINDS`.
    """

    image: NDArray[np.uint8]
    labels: Labels
    spacing_mm: tuple[float, float, float]
    kind: str


@dataclass(frozen=True)
class _Scene:
    """A label map before painting: which object each voxel is, and which material each object is made of."""

    objects: Labels  # 0 is whatever lies between the objects
    materials: NDArray[np.float32]  # mean intensity of each object, index 0 included
    texture: NDArray[np.float32]  # amplitude of each object's texture
    rim: Field | None = None  # painted on top: membranes
    context: int = 0  # objects up to this one are surroundings and get no clicks
    noise_range: tuple[float, float] = (0.0, 0.10)
    blur_range: tuple[float, float] = (0.3, 1.1)


def smooth_noise(rng: np.random.Generator, shape: Shape, period: float | tuple[float, float, float]) -> Field:
    """A random field that varies over about `period` voxels: cubic B-splines on a grid of normal numbers.

    Returns:
        float32 of `shape`, mean 0, about unit variance over many draws.
    """
    periods = (period,) * 3 if np.isscalar(period) else period
    bases = [_spline_basis(n, float(p), float(rng.uniform())) for n, p in zip(shape, periods, strict=True)]  # type: ignore[arg-type]
    grid = rng.standard_normal([b.shape[1] for b in bases]).astype(np.float32)
    field = np.einsum("ck,ijk->ijc", bases[2], grid, optimize=True)
    field = np.einsum("bj,ijc->ibc", bases[1], field, optimize=True)
    field = np.tensordot(bases[0], field, axes=(1, 0))
    gain = 0.332  # of a cubic spline: (mean of the sum of w²)^1.5
    return np.ascontiguousarray(field / gain, dtype=np.float32)


def _spline_basis(size: int, period: float, phase: float) -> Field:
    position = np.arange(size) / period + phase
    n = int(np.floor(position[-1])) + 4
    distance = np.abs(position[:, None] + 1 - np.arange(n)[None])
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = (2 - distance) ** 3 / 6
    return np.where(distance < 1, inner, np.where(distance < 2, outer, 0)).astype(np.float32)


def _warped_grid(rng: np.random.Generator, shape: Shape, amplitude: float, period: float) -> list[Field]:
    """Voxel coordinates (z, y, x), each bent by smooth noise of `amplitude` voxels."""
    grid = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij")
    return [axis + amplitude * smooth_noise(rng, shape, period) for axis in grid]


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(q)


def _ellipsoid(
    rng: np.random.Generator, grid: list[Field], centre: NDArray[np.float64], radii: NDArray[np.float64]
) -> Field:
    """Implicit ellipsoid with a bumpy surface: below 1 is inside."""
    axes = _rotation(rng) / radii[:, None]
    offset = [g - np.float32(c) for g, c in zip(grid, centre, strict=True)]
    level = np.zeros(grid[0].shape, np.float32)
    for row in axes.astype(np.float32):
        level += (row[0] * offset[0] + row[1] * offset[1] + row[2] * offset[2]) ** 2
    return level


def _tube(rng: np.random.Generator, shape: Shape, grid: list[Field], radius: float) -> tuple[Field, Field]:
    """A bent tube through the volume: distance to its axis over `radius`, and the position along it (voxels)."""
    axis = int(rng.integers(3))
    others = [a for a in range(3) if a != axis]
    along = np.arange(shape[axis])
    level = np.zeros(shape, np.float32)
    for other in others:
        size = shape[other]
        bend = smooth_noise(rng, (shape[axis], 1, 1), (shape[axis] / rng.uniform(0.8, 2.5), 1, 1))[:, 0, 0]
        tilt = rng.uniform(-0.35, 0.35) * (along - shape[axis] / 2)
        path = size * rng.uniform(0.3, 0.7) + tilt + bend * size * rng.uniform(0.0, 0.12)
        aspect = rng.uniform(0.8, 1.25)
        view = [1, 1, 1]
        view[axis] = shape[axis]
        level += ((grid[other] - path.reshape(view).astype(np.float32)) / np.float32(radius * aspect)) ** 2
    return np.sqrt(level), grid[axis]


def _palette(rng: np.random.Generator, n: int, n_materials: int, ambient: float | None = None) -> tuple[Field, Field]:
    """Mean and texture amplitude of `n` objects (index 0: between them), drawn from a few shared materials."""
    means = rng.uniform(0, 1, n_materials)
    amplitudes = rng.choice([0.0, 0.03, 0.08, 0.15], n_materials, p=[0.3, 0.35, 0.25, 0.1])
    pick = rng.integers(n_materials, size=n)
    mean, amplitude = means[pick], amplitudes[pick]
    mean = mean + rng.normal(0, 0.02, n)
    if ambient is not None:
        mean[0] = ambient
    return mean.astype(np.float32), amplitude.astype(np.float32)


def _blobs(rng: np.random.Generator, shape: Shape) -> _Scene:
    """Space filled by interleaved blobs: the largest of several noise fields wins each voxel."""
    n = int(rng.integers(3, 9))
    period = float(rng.uniform(0.12, 0.55)) * max(shape)
    fields = np.stack([smooth_noise(rng, shape, period) for _ in range(n)])
    if rng.random() < 0.5:
        fields[0] += rng.uniform(0.3, 1.0)  # one of them becomes the background
    # Each has a grey of its own, else nothing in the image would say where one ends.
    mean, texture = _palette(rng, n, n)
    mean[:] = (rng.permutation(n) + rng.uniform(0.15, 0.85, n)) / n
    return _Scene(fields.argmax(0).astype(np.int32), mean, texture)


def _organs(rng: np.random.Generator, shape: Shape) -> _Scene:
    """A body in air with organs, vessels and bone: the likeness of an abdominal scan."""
    size = np.array(shape, float)
    grid = _warped_grid(rng, shape, amplitude=0.02 * max(shape) * rng.uniform(0.3, 1.5), period=0.35 * max(shape))
    objects = np.zeros(shape, np.int32)
    if rng.random() < 0.6:
        body = _ellipsoid(rng, grid, size / 2, size * rng.uniform(0.45, 0.75, 3)) < 1
    else:
        body = np.ones(shape, bool)
    objects[body] = 1
    count = int(rng.integers(6, 22))
    for index in range(count):
        radii = max(shape) * np.exp(rng.uniform(np.log(0.045), np.log(0.3))) * rng.uniform(0.5, 1.4, 3)
        centre = rng.uniform(0.12, 0.88, 3) * size
        if rng.random() < 0.2:
            level, _ = _tube(rng, shape, grid, float(max(shape) * rng.uniform(0.02, 0.08)))
            inside = level < 1
        else:
            inside = _ellipsoid(rng, grid, centre, radii) < 1
        objects[inside & body] = index + 2
    soft = float(rng.uniform(0.3, 0.6))
    mean = np.clip(soft + rng.normal(0, 0.13, count + 2), 0, 1).astype(np.float32)
    texture = rng.choice([0.0, 0.02, 0.05, 0.1], count + 2).astype(np.float32)
    ground = soft + rng.choice([-0.25, -0.12, 0.1]) * rng.uniform(0.3, 1)
    # Most organs differ from what they lie in; the borders of the others have to be guessed.
    faint = (np.abs(mean - ground) < 0.08) & (rng.random(count + 2) < 0.8)
    mean[faint] += np.where(mean[faint] < ground, -1, 1) * rng.uniform(0.06, 0.15, int(faint.sum())).astype(np.float32)
    special = rng.random(count + 2)
    mean[special < 0.12] = rng.uniform(0.85, 1.0)  # bone, contrast agent
    mean[special > 0.9] = rng.uniform(0.0, 0.12)  # gas
    mean[0], texture[0] = 0.0, 0.0
    mean[1] = ground
    return _Scene(objects, mean, texture, noise_range=(0.0, 0.08), context=1)


def _cells(rng: np.random.Generator, shape: Shape) -> _Scene:
    """Packed cells with painted membranes (confocal microscopy)."""
    size = np.array(shape, float)
    diameter = float(rng.uniform(0.16, 0.5)) * max(shape)
    stretch = rng.uniform(0.7, 1.4, 3)
    lattice = [np.arange(0.5, n / (diameter * s) + 1) for n, s in zip(shape, stretch, strict=True)]
    seeds = np.stack(np.meshgrid(*lattice, indexing="ij"), -1).reshape(-1, 3) * diameter * stretch
    seeds += rng.uniform(-0.42, 0.42, seeds.shape) * diameter
    grid = _warped_grid(rng, shape, amplitude=0.05 * diameter, period=0.5 * diameter)
    points = np.stack([g.ravel() for g in grid], -1)
    distance, nearest = cKDTree(seeds).query(points, k=2, workers=1)
    objects = (nearest[:, 0] + 1).reshape(shape).astype(np.int32)
    gap = (distance[:, 1] - distance[:, 0]).reshape(shape).astype(np.float32)
    width = float(rng.uniform(0.8, 2.5))
    mean, texture = _palette(rng, len(seeds) + 1, 1)
    mean[:] = rng.uniform(0.0, 0.5) + rng.normal(0, 0.04, len(mean))
    sign = 1.0 if rng.random() < 0.85 else -0.6
    strength = (0.25 + 0.45 * rng.random()) * np.clip(1 + 0.5 * smooth_noise(rng, shape, diameter), 0.15, 2)
    rim = (sign * strength * np.exp(-((gap / (2 * width)) ** 2))).astype(np.float32)
    if rng.random() < 0.4:  # a tissue that ends inside the volume
        inside = _ellipsoid(rng, grid, size * rng.uniform(0.3, 0.7, 3), size * rng.uniform(0.35, 0.7, 3)) < 1
        objects, rim = np.where(inside, objects, 0), np.where(inside, rim, 0)
    return _Scene(objects, mean, texture, rim=rim, noise_range=(0.0, 0.15))


def _nuclei(rng: np.random.Generator, shape: Shape) -> _Scene:
    """Many similar roundish objects on a common background, some touching."""
    diameter = float(rng.uniform(0.1, 0.3)) * max(shape)
    count = int(np.clip(rng.uniform(0.15, 0.6) * np.prod(shape) / diameter**3, 3, 60))
    size = np.array(shape, float)
    centres = rng.uniform(0, 1, (4 * count, 3)) * size
    grid = _warped_grid(rng, shape, amplitude=0.08 * diameter, period=0.7 * diameter)
    objects = np.zeros(shape, np.int32)
    placed: list[NDArray[np.float64]] = []
    for centre in centres:
        if len(placed) == count:
            break
        if all(np.linalg.norm(centre - other) > 0.85 * diameter for other in placed):
            placed.append(centre)
            low = np.maximum(centre - diameter, 0).astype(int)
            high = np.minimum(centre + diameter + 1, size).astype(int)
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            level = _ellipsoid(rng, [g[box] for g in grid], centre, diameter / 2 * rng.uniform(0.75, 1.2, 3))
            view = objects[box]
            view[(level < 1) & (view == 0)] = len(placed)
    mean, texture = _palette(rng, len(placed) + 1, 1)
    contrast = rng.uniform(0.12, 0.7) * (1 if rng.random() < 0.85 else -1)
    base = rng.uniform(0, 0.3) if contrast > 0 else rng.uniform(0.7, 1)
    mean[0], texture[0] = base, rng.choice([0.0, 0.05])
    mean[1:] = base + contrast * rng.uniform(0.6, 1.2, len(placed))
    return _Scene(objects, mean, texture, noise_range=(0.0, 0.15), blur_range=(0.5, 1.5))


def _hot_spots(rng: np.random.Generator, shape: Shape) -> _Scene:
    """A few bright lesions on a dim, uneven background of low resolution (PET)."""
    size = np.array(shape, float)
    grid = _warped_grid(rng, shape, amplitude=0.03 * max(shape), period=0.25 * max(shape))
    objects = np.zeros(shape, np.int32)
    objects[_ellipsoid(rng, grid, size / 2, size * rng.uniform(0.35, 0.6, 3)) < 1] = 1
    count = int(rng.integers(1, 7))
    for index in range(count):
        radii = max(shape) * np.exp(rng.uniform(np.log(0.04), np.log(0.22))) * rng.uniform(0.7, 1.3, 3)
        objects[_ellipsoid(rng, grid, rng.uniform(0.2, 0.8, 3) * size, radii) < 1] = index + 2
    mean, texture = _palette(rng, count + 2, 2, ambient=0.0)
    mean[1] = rng.uniform(0.03, 0.3)
    mean[2:] = rng.uniform(0.25, 1.0, count)
    texture[1:] = rng.uniform(0.0, 0.3) * mean[1:]
    return _Scene(objects, mean, texture, noise_range=(0.0, 0.06), blur_range=(1.0, 3.0), context=1)


def _nested_tubes(rng: np.random.Generator, shape: Shape) -> _Scene:
    """A tube inside a tube, the inner one cut into segments or holding a core (spinal cord, vessels)."""
    grid = _warped_grid(rng, shape, amplitude=0.01 * max(shape), period=0.2 * max(shape))
    radius = float(max(shape) * np.exp(rng.uniform(np.log(0.05), np.log(0.22))))
    level, along = _tube(rng, shape, grid, radius)
    objects = np.zeros(shape, np.int32)
    surroundings = _blobs(rng, shape)
    offset = len(surroundings.materials)
    objects[:] = surroundings.objects
    objects[level < rng.uniform(1.2, 2.2)] = offset
    inside = level < 1
    objects[inside] = offset + 1
    segments = int(rng.integers(1, 5))
    if segments > 1:
        cut = (along / (along.max() + 1) * segments).astype(np.int32).clip(0, segments - 1)
        objects[inside] = offset + 1 + cut[inside]
    core = offset + 1 + segments
    if rng.random() < 0.4:
        objects[level < rng.uniform(0.35, 0.6)] = core
    n = core + 1
    mean, texture = _palette(rng, n, 4)
    mean[:offset], texture[:offset] = surroundings.materials, surroundings.texture
    if rng.random() < 0.35:  # segments of one material differ by position alone
        mean[offset + 1 : core] = mean[offset + 1]
        texture[offset + 1 : core] = texture[offset + 1]
    return _Scene(objects, mean, texture)


def _sheets(rng: np.random.Generator, shape: Shape) -> _Scene:
    """Thin bent sheets in a speckled field (valve leaflets in ultrasound), and the chambers that they bound."""
    field = smooth_noise(rng, shape, float(rng.uniform(0.35, 0.7)) * max(shape))
    thickness = float(rng.uniform(0.06, 0.2))
    objects = np.where(field > 0, 1, 0).astype(np.int32)
    sheet = np.abs(field) < thickness
    objects[sheet & (smooth_noise(rng, shape, 0.4 * max(shape)) > rng.uniform(-1, 0.3))] = 2
    mean, texture = _palette(rng, 3, 3)
    mean[:] = [rng.uniform(0, 0.3), rng.uniform(0, 0.3), rng.uniform(0.4, 1.0)]
    texture[:] = rng.uniform(0.02, 0.12)
    return _Scene(objects, mean, texture, noise_range=(0.03, 0.15))


_MAKERS: dict[str, tuple[Callable[[np.random.Generator, Shape], _Scene], float]] = {
    "organs": (_organs, 0.28),
    "blobs": (_blobs, 0.2),
    "cells": (_cells, 0.12),
    "nuclei": (_nuclei, 0.12),
    "hot-spots": (_hot_spots, 0.12),
    "nested-tubes": (_nested_tubes, 0.13),
    "sheets": (_sheets, 0.03),
}
KINDS = tuple(_MAKERS)
"""The kinds of scene, each with a share of a training set."""


def generate_phantom(
    seed: int, shape: Shape = (96, 96, 96), kind: str | None = None, shares: Mapping[str, float] | None = None
) -> Phantom:
    """Draws one phantom; the same arguments give the same voxels.

    Args:
        seed: any non-negative integer.
        shape: (z,y,x), each side 16 or more.
        kind: one of `KINDS`; None draws one by its share.
        shares: weights of kinds, in any unit, in place of their own; 0 for those that are left out.

    Raises:
        TrainingError: a kind is unknown, weights are negative or all 0, or a side is too small.
    """
    for name in [*(shares or ()), *([kind] if kind is not None else [])]:
        if name not in _MAKERS:
            raise TrainingError(f"got phantom kind {name!r}, expected one of {', '.join(KINDS)}")
    if len(shape) != 3 or min(shape) < 16:
        raise TrainingError(f"got phantom shape {tuple(shape)}, expected three sides of 16 voxels or more")
    rng = np.random.default_rng(seed)
    weights = np.array([shares.get(name, 0.0) if shares else share for name, (_, share) in _MAKERS.items()])
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0):
        raise TrainingError(f"got weights {dict(shares or {})} of phantom kinds, expected 0 or more, and one above 0")
    drawn = str(rng.choice(KINDS, p=weights / weights.sum()))
    kind = kind or drawn
    scene = _MAKERS[kind][0](rng, shape)
    image, spacing_mm = _paint(rng, scene)
    return Phantom(image, _split_objects(scene.objects, scene.context), spacing_mm, kind)


def _paint(rng: np.random.Generator, scene: _Scene) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
    shape = scene.objects.shape
    image = scene.materials[scene.objects]
    texture = scene.texture[scene.objects]
    if texture.any():
        grain = smooth_noise(rng, shape, float(np.exp(rng.uniform(np.log(1.5), np.log(12)))))
        image = image + texture * grain
    if scene.rim is not None:
        image = image + scene.rim
    image = ndimage.gaussian_filter(image, rng.uniform(*scene.blur_range), truncate=3)
    image = image * (1 + rng.uniform(0, 0.2) * smooth_noise(rng, shape, 0.7 * max(shape)))
    noise = rng.uniform(*scene.noise_range) * rng.choice([0.3, 1.0])
    if noise > 0:
        grain = rng.standard_normal(shape, dtype=np.float32)
        if rng.random() < 0.4:  # correlated noise, as reconstruction leaves it
            grain = ndimage.gaussian_filter(grain, rng.uniform(0.4, 0.9), truncate=3)
            grain /= max(float(grain.std()), 1e-6)
        if rng.random() < 0.3:
            grain = grain * np.clip(image, 0.05, 1)  # speckle
        image = image + noise * grain
    image, spacing_mm = _thick_slices(rng, image)
    gamma = float(np.exp(rng.uniform(-0.4, 0.4)))
    low, high = np.percentile(image[::2, ::2, ::2], [0.5, 99.5])
    image = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) ** gamma
    return np.rint(255 * image).astype(np.uint8), spacing_mm


def _thick_slices(rng: np.random.Generator, image: Field) -> tuple[Field, tuple[float, float, float]]:
    """Averages over slices and interpolates back, so that one axis carries less detail than its voxels suggest."""
    spacing = float(rng.uniform(0.6, 2.0))
    if rng.random() > 0.35:
        return image, (spacing, spacing, spacing)
    factor = float(rng.uniform(1.5, 5))
    axis = int(rng.integers(3))
    n = image.shape[axis]
    coarse = ndimage.uniform_filter1d(image, max(2, round(factor)), axis=axis)
    position = np.clip(np.round(np.arange(n) / factor) * factor, 0, n - 1)
    if rng.random() < 0.5:  # linear between the slices instead of repeating them
        lower = np.clip(np.floor(np.arange(n) / factor) * factor, 0, n - 1)
        upper = np.clip(lower + factor, 0, n - 1)
        view = [1, 1, 1]
        view[axis] = n
        weight = ((np.arange(n) - lower) / factor).reshape(view).astype(np.float32)
        low: Field = np.take(coarse, np.rint(lower).astype(int), axis=axis)
        high: Field = np.take(coarse, np.rint(upper).astype(int), axis=axis)
        return low * (1 - weight) + high * weight, (spacing, spacing, spacing)
    return np.take(coarse, np.rint(position).astype(int), axis=axis), (spacing, spacing, spacing)


def _split_objects(objects: Labels, context: int, min_voxels: int = 60) -> Labels:
    """One id per connected part of each object but the surroundings; crumbs below `min_voxels` become background."""
    labels = np.zeros(objects.shape, np.int32)
    following = 1
    for index, box in enumerate(ndimage.find_objects(objects), start=1):
        if box is None or index <= context:
            continue
        parts, _ = ndimage.label(objects[box] == index)
        for part in np.flatnonzero(np.bincount(parts.ravel())[1:] >= min_voxels) + 1:
            labels[box][parts == part] = following
            following += 1
    return labels

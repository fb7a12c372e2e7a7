"""Patches to train on: a phantom, an object of it, a window around that object, the objects seen through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gstk.preprocess import intensity_range, normalise, resample
from gstk.training.phantoms import Phantom, generate_phantom
from gstk.training.recipe import DataRecipe

__all__ = ["Patch", "cut_patch", "phantom_patches"]

MIN_OBJECT_VOXELS = 20


class Patch(NamedTuple):
    """One step's data.

    Attributes:
        image: float32 (z,y,x), normalised by the whole volume's percentiles, perturbed.
        masks: bool (B,z,y,x), the objects to click on, the one that the window was made for first.
    """

    image: NDArray[np.float32]
    masks: NDArray[np.bool_]


def cut_patch(phantom: Phantom, recipe: DataRecipe, rng: np.random.Generator, growth: float = 1.0) -> Patch | None:
    """Cuts one patch; None where the phantom has no object that is large enough.

    Args:
        growth: how far the patch's size has grown, 0 to 1.
    """
    sizes = np.bincount(phantom.labels.ravel())
    ids = np.flatnonzero(sizes >= 3 * MIN_OBJECT_VOXELS)
    ids = ids[ids > 0]
    if not len(ids):
        return None
    target = int(ids[rng.integers(len(ids))])
    shape = _patch_shape(recipe, rng, growth)
    start, step = _window(phantom.labels == target, shape, recipe, rng)
    low, high = intensity_range(phantom.image)
    volume = normalise(phantom.image, low, high)
    image = resample(volume, start, step, shape)
    labels = _nearest(phantom.labels, start, step, shape)
    seen = np.bincount(labels.ravel(), minlength=target + 1)
    if seen[target] < MIN_OBJECT_VOXELS:
        return None
    others = np.flatnonzero(seen >= MIN_OBJECT_VOXELS)
    others = rng.permutation(others[(others > 0) & (others != target)])[: recipe.max_objects - 1]
    masks = labels[None] == np.array([target, *others])[:, None, None, None]
    return Patch(*_flip_and_turn(_perturb(image, recipe.intensity_probability, rng), masks, rng))


def _patch_shape(recipe: DataRecipe, rng: np.random.Generator, growth: float) -> tuple[int, int, int]:
    first, last = (n ** (1 / 3) for n in recipe.patch_voxels)
    side = first + (last - first) * growth
    if rng.random() < recipe.cube_share:
        cube = max((n for n in recipe.patch_sides if n <= side + 1e-6), default=min(recipe.patch_sides))
        return (cube, cube, cube)
    while True:
        z, y, x = (int(n) for n in rng.choice(recipe.patch_sides, 3))
        if 0.3 * side**3 <= z * y * x <= side**3 + 1:
            return (z, y, x)


def _window(
    mask: NDArray[np.bool_], shape: tuple[int, int, int], recipe: DataRecipe, rng: np.random.Generator
) -> tuple[list[float], list[float]]:
    """First face and step of a window that holds a voxel of the object, as in `gstk.preprocess.axis_weights`."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    extent = max(axis.stop - axis.start for axis in box)
    share = float(np.exp(rng.uniform(*np.log(recipe.object_extent))))
    step = np.clip(extent / (share * float(np.mean(shape))), 0.35, 2.5) * np.exp(rng.uniform(-0.15, 0.15, 3))
    voxels = np.argwhere(mask[box])
    centre = np.array([(axis.start + axis.stop) / 2 for axis in box])
    anchor = voxels[rng.integers(len(voxels))] + [axis.start for axis in box] + 0.5
    focus = np.where(rng.random() < 0.7, centre, anchor)
    focus = focus + rng.uniform(-0.25, 0.25, 3) * step * shape
    start = focus - step * np.array(shape) / 2
    # The voxel that the window is made for stays inside it.
    start = np.clip(start, anchor + step - step * np.array(shape), anchor - step)
    return list(start), list(step)


def _nearest(
    labels: NDArray[np.int32], start: list[float], step: list[float], shape: tuple[int, int, int]
) -> NDArray[np.int32]:
    index = [
        np.rint(s + (np.arange(n) + 0.5) * t - 0.5).astype(int) for s, t, n in zip(start, step, shape, strict=True)
    ]
    inside = [(i >= 0) & (i < n) for i, n in zip(index, labels.shape, strict=True)]
    clipped = [np.clip(i, 0, n - 1) for i, n in zip(index, labels.shape, strict=True)]
    seen = np.logical_and.outer(np.logical_and.outer(inside[0], inside[1]), inside[2])
    return np.where(seen, labels[np.ix_(*clipped)], np.int32(0))


def _perturb(image: NDArray[np.float32], probability: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """The paper's section 3.2: scale and shift by ±0.2, Gaussian noise of standard deviation up to 0.2."""
    if rng.random() < probability:
        image = image * np.float32(1 + rng.uniform(-0.2, 0.2))
    if rng.random() < probability:
        image = image + np.float32(rng.uniform(-0.2, 0.2))
    if rng.random() < probability:
        image = image + np.float32(rng.uniform(0, 0.2)) * rng.standard_normal(image.shape, dtype=np.float32)
    return image


def _flip_and_turn(
    image: NDArray[np.float32], masks: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Every orientation alike: generated scenes have no up."""
    axes = rng.permutation(3)
    image, masks = image.transpose(axes), masks.transpose(0, *(axes + 1))
    flips = tuple(int(a) for a in np.flatnonzero(rng.random(3) < 0.5))
    if flips:
        image, masks = np.flip(image, flips), np.flip(masks, tuple(a + 1 for a in flips))
    return np.ascontiguousarray(image), np.ascontiguousarray(masks)


class _PhantomStream(IterableDataset[Patch]):
    """Patches without end; patch k of a run is the same however many workers draw."""

    def __init__(self, recipe: DataRecipe, seed: int, first: int) -> None:
        super().__init__()
        self.recipe, self.seed, self.first = recipe, seed, first

    def __iter__(self) -> Iterator[Patch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        group = self.first // self.recipe.patches_per_phantom + worker
        while True:
            phantom_seed = int(np.random.SeedSequence([self.seed, group]).generate_state(1)[0])
            rng = np.random.default_rng([self.seed, group, 1])
            phantom = generate_phantom(phantom_seed, (self.recipe.phantom_side,) * 3)
            drawn = group * self.recipe.patches_per_phantom
            growth = min(1.0, drawn / self.recipe.growth_patches) if self.recipe.growth_patches else 1.0
            for _ in range(self.recipe.patches_per_phantom):
                patch = cut_patch(phantom, self.recipe, rng, growth)
                if patch is not None:
                    yield patch
            group += workers


def phantom_patches(recipe: DataRecipe, seed: int, first: int = 0, workers: int = 1) -> DataLoader[Patch]:
    """Patches of generated phantoms, drawn ahead by worker processes.

    Args:
        first: where in the stream to begin, so that a resumed run sees new phantoms.
    """
    stream = _PhantomStream(recipe, seed, first)
    return DataLoader(
        stream,
        batch_size=None,
        collate_fn=_as_is,
        num_workers=workers,
        prefetch_factor=6 if workers else None,
        worker_init_fn=_one_thread,
        multiprocessing_context="fork" if workers else None,
    )


def _as_is(patch: Any) -> Any:
    return patch


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)

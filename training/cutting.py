"""Patches of a labelled volume: crops at its own resolution, or windows as a session lays them around an object."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gstk.core.geometry import Geometry
from gstk.core.network_image import NetworkImage
from gstk.core.profile import InputProfile
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.resampling import intensity_range, normalise
from gstk.core.window import Window, WindowPolicy, frame
from gstk.session.window_selection import initial_extent
from gstk.training.grid_crop import crop_on_grid, network_image
from gstk.training.recipe import DataRecipe

__all__ = ["Patch", "Volume", "cut_patches"]

MIN_OBJECT_VOXELS = 20
"""Below this a window shows too little of an object to learn from."""
FIRST_SHARE, MASK_SHARE = 0.5, 0.2
"""Of the windows of a session: those around a first click, and around a mask that is not right; the rest have a box."""
WIDE_SHARE = 0.6
"""Of the windows around a first click: those that show what the largest would, on fewer voxels."""
LEAST_SEEN_VOXELS = 8
"""Of an object in a session's window, which often begins far wider than a small object."""
SKEW = 1.5
"""Exponent on the even number that says where between the least and the most voxels a window of a session lies."""

Shape = tuple[int, int, int]
Box = tuple[slice, ...]
Triple = tuple[float, float, float]


class Volume(NamedTuple):
    """A labelled volume.

    Attributes:
        image: (z,y,x), any real dtype.
        labels: integer (z,y,x), class ids, 0 background.
        spacing_mm: (z,y,x).
    """

    image: NDArray[np.generic]
    labels: NDArray[np.integer]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Patch(NamedTuple):
    """What one forward pass sees.

    Attributes:
        image: float32, in the network's axes: (z,y,x) where no profile says otherwise. 0 to 1; 0 outside the volume.
        labels: int32, the same axes, class ids, 0 background and outside.
        classes: ids of the objects to click on, all of them in `labels`, the one that the patch was cut for first.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int32]
    classes: tuple[int, ...]


def cut_patches(
    volume: Volume,
    recipe: DataRecipe,
    rng: np.random.Generator,
    growth: float = 1.0,
    profile: InputProfile | None = None,
) -> list[Patch]:
    """Cuts `recipe.patches_per_case` patches, each around an object drawn anew, every object as likely as any.

    Args:
        growth: how far the size of `zoom` patches has grown, 0 to 1.
        profile: of the network. None takes the volume's own axes and voxels, and its percentiles 1 and 99.

    Returns:
        The patches; fewer where too many windows showed too little of their object, none without any object.

    Raises:
        ProfileError: the volume's values are not those of the profile.
    """
    boxes = ndimage.find_objects(volume.labels.astype(np.int32, copy=False))
    counts = np.bincount(volume.labels.ravel(), minlength=len(boxes) + 1)
    least = 3 * MIN_OBJECT_VOXELS if recipe.cut == "zoom" else 1
    ids = [label for label, box in enumerate(boxes, start=1) if box is not None and counts[label] >= least]
    if not ids:
        return []
    source = None if profile is None else network_image(volume.image, volume.spacing_mm, profile)
    if source is None:
        values = intensity_range(volume.image)
    else:
        volume, values = volume._replace(image=source.volume), (source.low, source.high)
    patches: list[Patch] = []
    for _ in range(3 * recipe.patches_per_case):
        if len(patches) == recipe.patches_per_case:
            break
        target = ids[rng.integers(len(ids))]
        patch: Patch | None
        if source is not None and source.grid is not None:
            patch = _grid_crop(source, volume, target, boxes[target - 1], recipe, rng)
        elif recipe.cut == "crop":
            patch = _crop(volume, target, boxes[target - 1], values, recipe, rng)
        else:
            patch = _zoom(volume, target, boxes[target - 1], values, recipe, rng, growth)
        if patch is not None:
            patches.append(patch)
    return patches


def _grid_crop(
    source: NetworkImage, volume: Volume, target: int, box: Box, recipe: DataRecipe, rng: np.random.Generator
) -> Patch | None:
    """The label-aware crop at the network's resolution; None where the network would not see the object."""
    first, second, third = (int(n) for n in recipe.patch_size)
    voxel = _voxel_of(volume.labels, target, box, rng)
    image, labels = crop_on_grid(source, volume.labels, [int(i) for i in voxel], (first, second, third))
    if not (labels == target).any():
        return None
    return Patch(image, labels, _classes(labels, target, 1, recipe, rng))


def _crop(
    volume: Volume, target: int, box: Box, values: tuple[float, float], recipe: DataRecipe, rng: np.random.Generator
) -> Patch:
    """The paper's label-aware crop: around a voxel of the class, moved into the volume, padded where that is small."""
    z, y, x = (int(n) for n in recipe.patch_size)
    anchor = _voxel_of(volume.labels, target, box, rng)
    start = [int(a) - n // 2 for a, n in zip(anchor, (z, y, x), strict=True)]
    taken, put = [], []
    for first, side, size in zip(start, (z, y, x), volume.labels.shape, strict=True):
        low = min(max(0, first), max(0, size - side))
        length = min(side, size)
        before = (side - length) // 2
        taken.append(slice(low, low + length))
        put.append(slice(before, before + length))
    image, labels = np.zeros((z, y, x), np.float32), np.zeros((z, y, x), np.int32)
    image[tuple(put)] = normalise(volume.image[tuple(taken)], *values)
    labels[tuple(put)] = volume.labels[tuple(taken)]
    return Patch(image, labels, _classes(labels, target, 1, recipe, rng))


def _zoom(
    volume: Volume,
    target: int,
    box: Box,
    values: tuple[float, float],
    recipe: DataRecipe,
    rng: np.random.Generator,
    growth: float,
) -> Patch | None:
    least = MIN_OBJECT_VOXELS
    if recipe.session_share and rng.random() < recipe.session_share:
        least = LEAST_SEEN_VOXELS
        start, step, shape = _session_window(volume, target, box, recipe, rng)
    else:
        shape = _zoom_shape(recipe, rng, growth)
        start, step = _zoom_window(volume, target, box, shape, recipe, rng)
    labels = _nearest(volume.labels, start, step, shape)
    if np.count_nonzero(labels == target) < least:
        return None
    image = Window(start, step, shape).sample(volume.image, *values)
    return Patch(image, labels, _classes(labels, target, least, recipe, rng))


def _classes(
    labels: NDArray[np.int32], target: int, least: int, recipe: DataRecipe, rng: np.random.Generator
) -> tuple[int, ...]:
    others = np.flatnonzero(np.bincount(labels.ravel()) >= least)
    others = rng.permutation(others[(others > 0) & (others != target)])[: recipe.max_objects - 1]
    return (target, *(int(label) for label in others))


def _voxel_of(labels: NDArray[np.integer], target: int, box: Box, rng: np.random.Generator) -> NDArray[np.int64]:
    voxels = np.flatnonzero(labels[box] == target)
    local = np.unravel_index(voxels[rng.integers(len(voxels))], labels[box].shape)
    return np.array([int(i) + axis.start for i, axis in zip(local, box, strict=True)])


def _zoom_shape(recipe: DataRecipe, rng: np.random.Generator, growth: float) -> Shape:
    first, last = (n ** (1 / 3) for n in recipe.zoom_voxels)
    side = first + (last - first) * growth
    if rng.random() < recipe.cube_share:
        cube = max((n for n in recipe.zoom_sides if n <= side + 1e-6), default=min(recipe.zoom_sides))
        return (cube, cube, cube)
    least = min(0.3 * side**3, min(recipe.zoom_sides) ** 3)
    while True:
        z, y, x = (int(n) for n in rng.choice(recipe.zoom_sides, 3))
        if least <= z * y * x <= side**3 + 1:
            return (z, y, x)


def _zoom_window(
    volume: Volume, target: int, box: Box, shape: Shape, recipe: DataRecipe, rng: np.random.Generator
) -> tuple[Triple, Triple]:
    """First face and step of a window that holds a voxel of the object, as in `gstk.core.resampling.axis_weights`.

    Its voxels are isotropic in millimetres, but for a little stretch.
    """
    relative = np.array(volume.spacing_mm) / min(volume.spacing_mm)
    extent = max((axis.stop - axis.start) * r for axis, r in zip(box, relative, strict=True))
    share = float(np.exp(rng.uniform(*np.log(recipe.object_extent))))
    least, most = recipe.zoom_steps
    step = np.clip(extent / (share * float(np.mean(shape))), least, most) / relative
    step = step * np.exp(rng.uniform(-0.15, 0.15, 3))
    centre = np.array([(axis.start + axis.stop) / 2 for axis in box])
    anchor = _voxel_of(volume.labels, target, box, rng) + 0.5
    focus = np.where(rng.random() < 0.7, centre, anchor)
    focus = focus + rng.uniform(-0.25, 0.25, 3) * step * shape
    start = focus - step * np.array(shape) / 2
    # The voxel that the window is made for stays inside it.
    start = np.clip(start, anchor + step - step * np.array(shape), anchor - step)
    (z, y, x), (dz, dy, dx) = start.tolist(), step.tolist()
    return (z, y, x), (dz, dy, dx)


def _session_window(
    volume: Volume, target: int, box: Box, recipe: DataRecipe, rng: np.random.Generator
) -> tuple[Triple, Triple, Shape]:
    """First face, step and shape of a window that a session makes on its way to the object."""
    geometry = Geometry(volume.labels.shape, volume.spacing_mm)
    least, most = (float(n) for n in recipe.session_voxels)
    voxels = round(least * (most / least) ** (rng.random() ** SKEW))
    multiple = math.gcd(*recipe.zoom_sides)
    policy = WindowPolicy(voxels, multiple, 2 * multiple)
    low, high = (np.array([getattr(axis, end) for axis in box], np.float64) for end in ("start", "stop"))
    kind = rng.random()
    if kind < FIRST_SHARE:  # a click anywhere on it: nothing says how large it is
        voxel = _voxel_of(volume.labels, target, box, rng)
        click = Point((int(voxel[0]), int(voxel[1]), int(voxel[2])), True)
        # As much as the largest window shows, on fewer voxels: objects are as small in it as a session has them.
        shown = replace(policy, max_voxels=recipe.session_voxels[1]) if rng.random() < WIDE_SHARE else policy
        low, high = initial_extent(geometry, ObjectPrompts((click,)), shown)
    elif kind < FIRST_SHARE + MASK_SHARE:  # a mask that missed its end, or ran over it
        longest = float((high - low).max())
        low = low + rng.uniform(-0.5, 0.2, 3) * longest * (rng.random(3) < 0.5)
        high = np.maximum(high + rng.uniform(-0.2, 0.5, 3) * longest * (rng.random(3) < 0.5), low + 1)
    else:  # the user's box, a little off
        low = np.floor(low + rng.normal(0, 0.04, 3) * (high - low))
        high = np.maximum(np.ceil(high + rng.normal(0, 0.04, 3) * (high - low)), low + 1)
    shape = np.array(geometry.shape, np.float64)
    low = np.clip(low, 0, shape - 1)
    window = frame(geometry, low, np.clip(high, low + 1, shape), policy)
    return window.start, window.step, window.shape


def _nearest(labels: NDArray[np.integer], start: Triple, step: Triple, shape: Shape) -> NDArray[np.int32]:
    index = [
        np.rint(s + (np.arange(n) + 0.5) * t - 0.5).astype(int) for s, t, n in zip(start, step, shape, strict=True)
    ]
    inside = [(i >= 0) & (i < n) for i, n in zip(index, labels.shape, strict=True)]
    clipped = [np.clip(i, 0, n - 1) for i, n in zip(index, labels.shape, strict=True)]
    seen = np.logical_and.outer(np.logical_and.outer(inside[0], inside[1]), inside[2])
    return np.where(seen, labels[np.ix_(*clipped)], 0).astype(np.int32)

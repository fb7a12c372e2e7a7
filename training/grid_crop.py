"""Patches of networks that have a resolution: prepared as sessions do, cut out of the training's grid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.network_image import NetworkImage
from gstk.core.profile import InputProfile
from gstk.core.volume import Volume, VolumeWarning

__all__ = ["crop_on_grid", "network_image"]

Shape = tuple[int, int, int]


def network_image(
    image: NDArray[np.generic], spacing_mm: tuple[float, float, float], profile: InputProfile
) -> NetworkImage:
    """A case's image as a profile has it; a case does not say how the patient lies.

    Args:
        image: (z,y,x), any real dtype.
        spacing_mm: (z,y,x).

    Raises:
        ProfileError: its values are not those of the profile.
    """
    z, y, x = image.shape
    units = "0-255" if image.dtype == np.uint8 else None
    volume = Volume(image, Geometry((z, y, x), spacing_mm), units=units, has_orientation=False, name="the image")
    with warnings.catch_warnings():
        # That a case does not name its units is so of all of them, and `check_case_units` has looked at those.
        warnings.simplefilter("ignore", VolumeWarning)
        return NetworkImage.prepare(volume, profile)


def crop_on_grid(
    source: NetworkImage, labels: NDArray[np.integer], voxel_zyx: Sequence[int], patch: Shape
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """A patch around a voxel of the volume, moved into the grid, padded with zeros where that is smaller.

    Args:
        source: a case with a grid.
        labels: integer (z,y,x) of the volume.
        voxel_zyx: what it is cut for.
        patch: sides in the network's axes.

    Returns:
        Image, 0 to 1, and labels, both in the network's axes. Labels are of the nearest voxel, as MONAI's `Spacing`
        takes them.
    """
    grid = source.grid
    assert grid is not None
    sides = source.axes.sides_to_volume(patch)
    first = []
    for voxel, step, low, high, side in zip(voxel_zyx, grid.step, grid.low, grid.high, sides, strict=True):
        start = round(voxel / step) - side // 2
        first.append(low - (side - high + low) // 2 if side >= high - low else min(max(low, start), high - side))
    image = source.patch(grid.window(first, sides))
    index, inside = [], []
    for start, side, step, low, high, count in zip(
        first, sides, grid.step, grid.low, grid.high, labels.shape, strict=True
    ):
        voxels = np.arange(start, start + side)
        inside.append((voxels >= low) & (voxels < high))
        index.append(np.clip(np.rint(voxels * step).astype(np.int64), 0, count - 1))
    seen = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    cut = np.where(seen, labels[np.ix_(*index)], 0).astype(np.int32)
    return source.axes.to_network(image), source.axes.to_network(cut)

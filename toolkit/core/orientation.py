"""The directions of a volume's axes in the patient, and the map from them to the axes of a network's image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.profile import InputProfile

__all__ = ["AxisMap", "contiguous"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_BLOCK = 16
"""Voxels along a block's sides: what is read across memory comes in lines of 64 bytes."""


@dataclass(frozen=True)
class AxisMap:
    """A permutation of a volume's axes (z,y,x), some of them turned round.

    Attributes:
        order: for each axis of the network's image the axis of the volume that it is.
        flipped: for each axis of the network's image whether it runs against the volume's.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def of(cls, profile: InputProfile, geometry: Geometry, has_orientation: bool = True) -> AxisMap:
        """The map from a volume's axes to those that a profile asks for.

        Args:
            profile: of the network.
            geometry: of the volume.
            has_orientation: whether its direction is known; else its axes count as running right, front and head.
        """
        order, flipped = [2, 1, 0], [False] * 3  # (x, y, z)
        if profile.orientation == "RAS" and has_orientation:
            order, flipped = _closest_ras(np.reshape(geometry.direction, (3, 3)))
        if profile.axis_order == "zyx":
            order, flipped = order[::-1], flipped[::-1]
        return cls((order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2]))

    def to_network(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of an array (z,y,x) in the network's axes."""
        return array.transpose(self.order)[self._steps]

    def to_volume(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of an array in the network's axes as (z,y,x)."""
        return array[self._steps].transpose(*np.argsort(self.order).tolist())

    @property
    def _steps(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flipped else slice(None) for flipped in self.flipped)

    def sides_to_volume(self, sides: Sequence[int]) -> tuple[int, int, int]:
        """Sides in the network's axes as (z,y,x)."""
        z, y, x = (int(sides[axis]) for axis in np.argsort(self.order))
        return (z, y, x)

    def points_to_network(self, points_zyx: NDArray[np.floating], shape: Sequence[int]) -> NDArray[np.floating]:
        """Voxel coordinates (..., 3) of an array of `shape` (z,y,x) in the network's axes."""
        points = np.asarray(points_zyx)[..., list(self.order)]
        last = np.array([shape[axis] - 1 for axis in self.order], points.dtype)
        return np.where(self.flipped, last - points, points)


def contiguous(view: NDArray[Any]) -> NDArray[Any]:
    """A view of three axes, such as `AxisMap` gives, as an array that is contiguous; a copy unless it is that already.

    Where axes are transposed it is copied in blocks, in a third of the time that NumPy takes along lines.
    """
    if abs(view.strides[2]) == view.itemsize:
        return np.ascontiguousarray(view)
    copied = np.empty(view.shape, view.dtype)
    for first in range(0, view.shape[0], _BLOCK):
        for last in range(0, view.shape[2], _BLOCK):
            block = slice(first, first + _BLOCK), slice(None), slice(last, last + _BLOCK)
            copied[block] = view[block]
    return copied


def _closest_ras(direction_lps: NDArray[np.float64]) -> tuple[list[int], list[bool]]:
    """For right, front and head the volume's axis, as an index of (z,y,x), that runs along it, and whether against it.

    The rule of nibabel's `io_orientation`, which MONAI's `Orientation` takes: the rotation closest to the axes, each of
    them in the order of how clear it is.
    """
    axes = _LPS_TO_RAS @ direction_lps  # columns: the volume's x, y and z
    left, values, right = np.linalg.svd(axes / np.linalg.norm(axes, axis=0))
    kept = values > values.max() * 3 * np.finfo(np.float64).eps
    rotation = left[:, kept] @ right[kept]
    order, flipped = [0, 0, 0], [False] * 3
    for axis in np.argsort(np.min(-(rotation**2), axis=0)):
        along = int(np.argmax(np.abs(rotation[:, axis])))
        order[along], flipped[along] = 2 - int(axis), bool(rotation[along, axis] < 0)
        rotation[along] = 0
    return order, flipped

"""The geometry of a volume: where its voxels lie in the patient.

Arrays are indexed (z, y, x), the axis order of `SimpleITK.GetArrayFromImage`. Millimetres are LPS world coordinates
(x to the patient's left, y to posterior, z to superior), as in ITK and DICOM.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gstk.errors import GeometryError

__all__ = ["Geometry"]

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_LARGEST_SIDE = 2**31


@dataclass(frozen=True)
class Geometry:
    """Shape, spacing, origin and direction of a volume; immutable and comparable.

    Attributes:
        shape: voxels along (z, y, x), each at least 1.
        spacing_mm: voxel size along (z, y, x) in mm, each finite and above 0.
        origin_mm: LPS position (x, y, z) in mm of the centre of voxel (0, 0, 0). ITK's order, for an exact round trip.
        direction: 3x3 matrix, row by row, whose columns are the LPS directions of the x, y and z axes. ITK's order.

    Raises:
        GeometryError: a field has the wrong length, is not finite, or is not positive where it must be.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, float, float, float, float, float, float, float, float] = _IDENTITY

    def __post_init__(self) -> None:
        shape = _numbers("shape", self.shape, 3)
        if any(n != int(n) or not 1 <= n < _LARGEST_SIDE for n in shape):
            raise GeometryError(f"got the shape {_text(shape)}, expected three whole numbers (z, y, x) of at least 1")
        spacing = _numbers("spacing", self.spacing_mm, 3)
        if any(s <= 0 for s in spacing):
            raise GeometryError(f"got the spacing {_text(spacing)}, expected three numbers of mm (z, y, x) above 0")
        direction = _numbers("direction", self.direction, 9)
        if abs(float(np.linalg.det(np.reshape(direction, (3, 3))))) < 1e-6:
            raise GeometryError(f"got the direction {_text(direction)}, expected a 3x3 matrix that can be inverted")
        # Plain ints and floats, so that geometries from NumPy, ITK and literals compare equal and serialise.
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "origin_mm", _numbers("origin", self.origin_mm, 3))
        object.__setattr__(self, "direction", direction)

    @classmethod
    def from_sitk(cls, image: Any) -> "Geometry":
        """Take the geometry of a 3-D `SimpleITK.Image`.

        Raises:
            GeometryError: the image is not 3-D.
        """
        if image.GetDimension() != 3:
            raise GeometryError(f"got a {image.GetDimension()}-D image, expected a 3-D one")
        return cls(image.GetSize()[::-1], image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection())

    def apply_to(self, image: Any) -> None:
        """Set spacing, origin and direction of a 3-D `SimpleITK.Image` in place.

        Raises:
            GeometryError: the image has another shape.
        """
        if tuple(image.GetSize()[::-1]) != self.shape:
            raise GeometryError(f"got an image of shape {_text(image.GetSize()[::-1])}, expected {_text(self.shape)}")
        image.SetSpacing(self.spacing_mm[::-1])
        image.SetOrigin(self.origin_mm)
        image.SetDirection(self.direction)

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """float64 (4, 4): maps the homogeneous voxel index (z, y, x, 1) to LPS mm (x, y, z, 1)."""
        affine = np.eye(4)
        columns_xyz = np.reshape(self.direction, (3, 3))
        affine[:3, :3] = columns_xyz[:, ::-1] * np.asarray(self.spacing_mm)
        affine[:3, 3] = self.origin_mm
        return affine

    @property
    def volume_mm3(self) -> float:
        """Volume of one voxel in cubic millimetres."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    def voxel_to_mm(self, points_zyx: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map voxel indices to the patient.

        Args:
            points_zyx: (..., 3), continuous voxel indices (z, y, x); whole numbers are voxel centres.

        Returns:
            float64 (..., 3), LPS mm (x, y, z).

        Raises:
            GeometryError: the last axis does not have length 3.
        """
        affine = self.affine
        return _points(points_zyx) @ affine[:3, :3].T + affine[:3, 3]

    def mm_to_voxel(self, points_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map positions in the patient to voxel indices; the inverse of `voxel_to_mm`.

        Args:
            points_mm: (..., 3), LPS mm (x, y, z).

        Returns:
            float64 (..., 3), continuous voxel indices (z, y, x), also outside the volume.

        Raises:
            GeometryError: the last axis does not have length 3.
        """
        affine = self.affine
        return (_points(points_mm) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T

    def nearest_voxel(self, point_zyx: Iterable[float]) -> tuple[int, int, int] | None:
        """Round a continuous voxel index (z, y, x) to a voxel, halves up; None where that is outside the volume."""
        z, y, x = _numbers_or_nan(point_zyx)
        if not all(math.isfinite(v) for v in (z, y, x)):
            return None
        voxel = (math.floor(z + 0.5), math.floor(y + 0.5), math.floor(x + 0.5))
        return voxel if all(0 <= v < n for v, n in zip(voxel, self.shape, strict=True)) else None

    def contains(self, point_zyx: Iterable[float]) -> bool:
        """Whether the voxel nearest to the continuous index (z, y, x) is inside the volume; False for NaN."""
        return self.nearest_voxel(point_zyx) is not None


def _numbers(name: str, values: Iterable[Any], length: int) -> tuple[Any, ...]:
    try:
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError, OverflowError):
        raise GeometryError(f"got the {name} {values!r:.80}, expected {length} numbers") from None
    if len(numbers) != length or not all(math.isfinite(v) for v in numbers):
        raise GeometryError(f"got the {name} {_text(numbers):.200}, expected {length} finite numbers")
    return numbers


def _numbers_or_nan(point: Iterable[float]) -> tuple[float, float, float]:
    try:
        values = tuple(float(v) for v in point)
    except (TypeError, ValueError, OverflowError):
        raise GeometryError(f"got the point {point!r:.80}, expected three numbers (z, y, x)") from None
    if len(values) != 3:
        raise GeometryError(f"got a point with {len(values)} coordinates, expected 3 (z, y, x)")
    return values


def _points(points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != 3:
        raise GeometryError(f"got points of shape {array.shape}, expected (..., 3)")
    return array


def _text(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"

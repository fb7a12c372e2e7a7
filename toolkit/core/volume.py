"""A volume with its geometry and the meaning of its values, as needed to prepare it for a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.errors import GstkError, OneLine

__all__ = ["Volume", "VolumeWarning"]


class VolumeWarning(OneLine, UserWarning):
    """A volume was accepted, but is probably unlike what the network was trained on."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An image as `gstk.read_volume` reads it and `Session.set_image` takes it.

    Attributes:
        image: (z,y,x), any real dtype, finite, in the file's own units.
        geometry: shape, spacing, origin and direction.
        modality: DICOM modality such as "CT" or "MR", where the file says it.
        units: "HU" where the file says so; "0-255" for a challenge case, whose intensities were windowed already; None
            where nothing says what the values are.
        has_orientation: whether the file gives the patient's orientation; without it, axes count as RAS.
        name: for messages.

    Raises:
        GstkError: the image is not three-dimensional, is empty, holds NaN or infinity, or is not of the geometry.
    """

    image: NDArray[Any]
    geometry: Geometry
    modality: str | None = None
    units: str | None = None
    has_orientation: bool = True
    name: str = "the image"

    @classmethod
    def of(cls, image: Volume | NDArray[np.generic], spacing_mm: Sequence[float] | None = None) -> Volume:
        """A volume as it is, or an array with its spacing and no other metadata.

        Args:
            image: a volume, or (z,y,x) of any real dtype, finite.
            spacing_mm: (z,y,x) of an array; None is 1 each. A volume knows its own.

        Raises:
            GstkError: a spacing stands beside a volume, or is not > 0; the array is not as `Volume` wants it.
        """
        if isinstance(image, Volume):
            if spacing_mm is not None:
                raise GstkError("got a spacing beside a Volume, which knows its own; leave it out")
            return image
        image_zyx = np.asarray(image)
        if image_zyx.ndim != 3 or image_zyx.size == 0:
            raise GstkError(f"got an image {image_zyx.shape}, expected three axes (z, y, x) that are not empty")
        sides = (1.0, 1.0, 1.0) if spacing_mm is None else spacing_mm
        return cls(image_zyx, Geometry(image_zyx.shape, sides), has_orientation=False)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        image = self.image
        if image.ndim != 3 or image.size == 0 or image.dtype.kind not in "buif":
            raise GstkError(f"got an image {image.shape} of {image.dtype}, expected real numbers (z, y, x)")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise GstkError("got an image with NaN or infinity, expected finite numbers; replace them first")
        if image.shape != self.geometry.shape:
            raise GstkError(f"got an image {image.shape} with the geometry of {self.geometry.shape}, expected the same")

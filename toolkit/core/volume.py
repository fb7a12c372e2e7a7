"""A volume with what has to be known to prepare it for a network: where it lies, and what its values are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.errors import GstkError

__all__ = ["Volume", "VolumeWarning"]


class VolumeWarning(UserWarning):
    """A volume was taken, but something about it is probably not what the network was trained on."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An image as `gstk.read_volume` reads it and `Session.set_image` takes it.

    Attributes:
        image: (z,y,x), any real dtype, finite, in the file's own units.
        geometry: shape, spacing, origin and direction.
        modality: DICOM modality such as "CT" or "MR", where the file says it.
        units: "HU" where the file says so; "0-255" for a challenge case, whose intensities were windowed already; None
            where nothing says what the values are.
        has_orientation: whether the file says how the patient lies; without it the axes count as right, front, head.
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

    def __post_init__(self) -> None:
        image = self.image
        if image.ndim != 3 or image.size == 0 or image.dtype.kind not in "buif":
            raise GstkError(f"got an image {image.shape} of {image.dtype}, expected real numbers (z, y, x)")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise GstkError("got an image with NaN or infinity, expected finite numbers; replace them first")
        if image.shape != self.geometry.shape:
            raise GstkError(f"got an image {image.shape} with the geometry of {self.geometry.shape}, expected the same")

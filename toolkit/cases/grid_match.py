"""Label maps that lie on an image's grid, stored in another order, from the other side, or cut to a part of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.errors import CaseError

__all__ = ["lay_on_grid"]

_OFF_GRID_VOXELS = 0.1


def lay_on_grid(
    labels: NDArray[np.integer], geometry: Geometry, target: Geometry, what: str, *, whole: bool
) -> NDArray[np.integer]:
    """Brings a label map to the grid of an image, voxel for voxel, without resampling.

    Args:
        labels: integer, of the shape of `geometry`.
        geometry: of the label map. Its voxels are voxels of the image; its axes may be in another order or run the
            other way.
        target: the image's.
        what: the label map, for messages.
        whole: whether it must reach just as far as the image. Otherwise it may be smaller (3D Slicer can cut a
            segmentation to what is segmented) or larger.

    Returns:
        The labels, of the shape of `target`; 0 where the label map does not reach.

    Raises:
        CaseError: its voxels are not those of the image, or labels lie outside of the image, or it is not `whole`.
    """
    # Columns: how far one step along each axis of the label map goes in voxels of the target.
    corners = target.mm_to_voxel(geometry.voxel_to_mm(np.vstack([np.zeros(3), np.eye(3)])))
    steps = (corners[1:] - corners[0]).T
    unit = np.rint(steps)
    if not np.array_equal(np.abs(unit).sum(axis=0), np.ones(3)) or np.linalg.matrix_rank(unit) < 3:
        raise CaseError(f"{what} has other voxels or axes than the image; resample it to the image's grid")
    order = np.argmax(np.abs(unit), axis=1)  # the label map's axis along each axis of the target
    backwards = [int(unit[axis, order[axis]]) < 0 for axis in range(3)]
    first = np.rint(corners[0])
    if whole:
        first = np.array([n - 1.0 if back else 0.0 for n, back in zip(target.shape, backwards, strict=True)])
    off_voxels = np.abs(steps - unit) @ (np.array(labels.shape) - 1) + np.abs(corners[0] - first)
    if off_voxels.max() > _OFF_GRID_VOXELS:
        off_mm = float((off_voxels * target.spacing_mm).max())
        place = "away from the image" if whole else "off the image's voxels"
        raise CaseError(f"{what} lies up to {off_mm:.3g} mm {place}; resample it to the image's grid")
    turned = np.flip(labels.transpose(order), tuple(axis for axis in range(3) if backwards[axis]))
    lowest = first.astype(int) - [n - 1 if back else 0 for n, back in zip(turned.shape, backwards, strict=True)]
    inside = [
        (max(0, low), min(side, low + n))
        for low, n, side in zip(lowest.tolist(), turned.shape, target.shape, strict=True)
    ]
    part = turned[tuple(slice(a - low, max(b, a) - low) for (a, b), low in zip(inside, lowest.tolist(), strict=True))]
    lost = np.count_nonzero(turned) - np.count_nonzero(part)
    if lost:
        raise CaseError(f"{what} has {lost} voxels outside of the image; take the mask of this image")
    laid = np.zeros(target.shape, labels.dtype)
    laid[tuple(slice(a, max(a, b)) for a, b in inside)] = part
    return laid

"""Advice about a click that changed nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import Voxel
from gstk.core.regions import Region

__all__ = ["no_change"]


def no_change(
    mask: NDArray[np.bool_], voxel: Voxel, foreground: bool, geometry: Geometry, region: Region | None = None
) -> str:
    """One sentence about a click that left a mask unchanged.

    Args:
        mask: bool (z,y,x), the object's mask in the region.
        voxel: what was clicked, (z,y,x).
        foreground: whether the click was on the object.
        geometry: the image's.
        region: outside which the mask is empty, one voxel wider than the mask where the image goes on; None is all.
    """
    if region is not None:
        voxel = (voxel[0] - region[0].start, voxel[1] - region[1].start, voxel[2] - region[2].start)
    if not mask.any():
        if foreground:
            return "The network found no object at this click."
        return "Background clicks alone give no mask; click on the object first."
    is_inside = all(0 <= i < n for i, n in zip(voxel, mask.shape, strict=True)) and bool(mask[voxel])
    if is_inside == foreground:
        other = "inside" if foreground else "outside"
        away_mm = _distance_mm(~mask if foreground else mask, voxel, geometry)
        return f"The click was {other} the mask already, {away_mm:.1f} mm from its border."
    kind = "background" if foreground else "foreground"
    return f"An earlier {kind} click nearby says the opposite; undo that one, or click farther from it."


def _distance_mm(mask: NDArray[np.bool_], voxel: Voxel, geometry: Geometry) -> float:
    """From a voxel to the nearest voxel of a mask; infinite where the mask is empty."""
    best = np.inf
    spacing = np.array(geometry.spacing_mm)
    planes = sorted(np.flatnonzero(mask.any(axis=(1, 2))), key=lambda z: abs(int(z) - voxel[0]))
    for z in planes:
        along = (int(z) - voxel[0]) * spacing[0]
        if along**2 >= best:
            break
        offsets = (np.argwhere(mask[z]) - voxel[1:]) * spacing[1:]
        best = min(best, float((offsets**2).sum(axis=1).min()) + along**2)
    return float(np.sqrt(best))

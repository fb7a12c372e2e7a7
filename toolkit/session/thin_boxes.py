"""Boxes too thin for the network: on one slice, thinner than a voxel of its window, or of a few voxels.

The networks were trained on prompts for whole objects, and often answer such a box with nothing or a part. Users expect
what other tools do: an object that fills the box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts
from gstk.core.regions import Region, union
from gstk.core.window import Window
from gstk.session.click_update import fallback_mask, spread

__all__ = ["answer_thin_box", "is_thin"]

_FEW_VOXELS = 3
_AGREEMENT = 0.9
"""Dice of the network's mask and the ellipsoid in the box, within the box, from which the network's is taken."""


def is_thin(box: Box, window: Window) -> bool:
    """Whether a box is on one slice of any axis, thinner than a window's voxel, or of at most 3 voxels a side."""
    low, high = box.corners()
    sides = np.array(high) - low + 1
    return bool((sides == 1).any() or (sides < window.step).any() or (sides <= _FEW_VOXELS).all())


def answer_thin_box(
    box: Box, geometry: Geometry, region: Region, logits: NDArray[np.float32]
) -> tuple[Region, NDArray[np.float32]]:
    """The network's answer to a thin box, or the ellipsoid in the box where the two differ.

    Args:
        box: the only prompt.
        geometry: the volume's.
        region, logits: the network's answer, float32 (z,y,x) on the region.

    Returns:
        A region that holds the box, and logits on it.
    """
    inner, ellipsoid = fallback_mask(ObjectPrompts(box=box), geometry, None, None)
    whole = union(region, inner)
    wide = spread(region, logits, whole)
    within = tuple(slice(a.start - w.start, a.stop - w.start) for a, w in zip(inner, whole, strict=True))
    answer, expected = wide[within] > 0, ellipsoid > 0
    agreement = 2 * np.count_nonzero(answer & expected) / (np.count_nonzero(answer) + np.count_nonzero(expected))
    return (whole, wide) if agreement >= _AGREEMENT else (inner, ellipsoid)

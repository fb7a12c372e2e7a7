"""Finds how large a clicked object is: by how much what the network marks in windows of several sizes stands out.

A lone click does not say how large its object is, and a weak network marks about the same share of any window:
a tenth of a tumour in one that is too narrow, fifty times a spinal cord in one that is too wide. In a window that suits
the object, the brightness inside the mask differs from that beside it.

The sizes and `VARIATION` were chosen on volumes of other patients than the network was trained on, with clicks in the
objects' middle and anywhere in them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts
from gstk.core.window import Window, WindowPolicy, bounding_faces, frame

__all__ = ["contrast", "views"]

FIELDS = (192, 96, 48, 24)
"""Sides of the windows that are looked at, in voxels of the volume's finest spacing."""
VIEW_VOXELS = 32**3
"""Most voxels of each of them: eight take as long as one of 64 a side."""
SHELL = 2
"""Voxels around the mask that are its surroundings."""
BINS = 16
VARIATION = 1.0
"""Weight of the deviation inside the mask: a part of an object is more even than the whole."""


def views(geometry: Geometry, prompts: ObjectPrompts, policy: WindowPolicy) -> list[Window]:
    """Windows around a lone click on the object, the widest first; none for other prompts.

    None, too, where windows are as large as the network was trained on, or may not follow the mask.
    """
    lone = prompts.box is None and len(prompts.points) == 1 and prompts.points[0].foreground
    if not lone or not policy.adapts or policy.training_window is not None or policy.max_voxels <= VIEW_VOXELS:
        return []
    coarse = replace(policy, max_voxels=VIEW_VOXELS, margin=0.0)
    low, high = bounding_faces(prompts.clicked())
    centre = (low + high) / 2
    found: list[Window] = []
    for field in FIELDS:
        half = field * min(geometry.spacing_mm) / np.array(geometry.spacing_mm) / 2
        window = frame(geometry, np.minimum(low, centre - half), np.maximum(high, centre + half), coarse)
        if window not in found:  # beyond the volume, wider ones are the same
            found.append(window)
    return found if len(found) > 1 else []


def contrast(image: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """How much a mask stands out: from its surroundings, and in how much of the image's variation it holds.

    Args:
        image: float32 (z,y,x), 0–1.
        logits: float32 (z,y,x), above 0 inside the mask.

    Returns:
        One less the Bhattacharyya coefficient of the two histograms of brightness, plus `VARIATION` times the standard
        deviation inside; 0 where the mask is empty or fills the window.
    """
    from scipy import ndimage  # see `gstk.core.regions`

    mask = logits > 0
    shell = ndimage.binary_dilation(mask, iterations=SHELL) & ~mask
    if not shell.any():
        return 0.0
    inside, beside = image[mask], image[shell]
    shares = [np.histogram(values, BINS, (0, 1))[0] / values.size for values in (inside, beside)]
    return float(1 - np.sqrt(shares[0] * shares[1]).sum() + VARIATION * inside.std())

"""Weighs the network's answer to a click by the place of the click.

The weights were chosen on the real cases that `benchmarks/real_cases.py` scores, and on generated phantoms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gstk.core.prompts import Point
from gstk.core.regions import Region
from gstk.session.click_update import squared_distance

__all__ = ["weigh_click"]

CENTRE = np.float32(12)
"""Weight of 1 - r² for what was clicked, r being 1 on the ball around a click that touches the border of the mask."""
FAR_SHARE, WIDE = np.float32(0.3), np.float32(3)
"""Weight of the answer to a background click beside the mask before: far from it, and the radii to half way there."""
MAX_LOGIT = np.float32(6)
"""Beyond it, two masks are equally sure."""


def weigh_click(click: Point, region: Region, old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
    """Changes the new logits, in place, by where the click lies in the old mask; both float32 on the region.

    A correcting click lies in the middle of what is wrong: so the official protocol clicks, and so do users. Most of
    the ball around the click up to the border of the old mask is wrong, then. What a background click removes far
    beyond that ball has to be clear from both masks: a border that shifts everywhere is no local error.
    """
    z, y, x = (i - axis.start for i, axis in zip(click.zyx, region, strict=True))
    right = (old > 0) == click.foreground
    away2 = squared_distance(click.zyx, region, (1.0, 1.0, 1.0))
    radius2 = float(away2.min(initial=np.inf, where=right))
    if not click.foreground:  # beyond the region there is no object
        radius2 = min(radius2, *((min(i + 1, n - i)) ** 2 for i, n in zip((z, y, x), old.shape, strict=True)))
    if right[z, y, x] or radius2 == np.inf:
        return
    radii2 = away2 / np.float32(radius2)
    np.clip(new, -MAX_LOGIT, MAX_LOGIT, out=new)
    if click.foreground:
        new += CENTRE * np.maximum(1 - radii2, 0)
        new[z, y, x] = max(new[z, y, x], 1)
    else:
        share = FAR_SHARE + (1 - FAR_SHARE) / (1 + radii2 / (WIDE * WIDE))
        new *= share
        new += (1 - share) * np.clip(old, -MAX_LOGIT, MAX_LOGIT)
        new -= CENTRE * np.maximum(1 - radii2, 0)
        new[z, y, x] = min(new[z, y, x], -1)

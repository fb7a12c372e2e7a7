"""What the place of a click is worth beside the network's answer to it.

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
"""Share of the answer to a background click, beside the mask before, far from it; half way there at so many radii."""
MAX_LOGIT = np.float32(6)
"""Beyond it, two masks are equally sure."""


def weigh_click(click: Point, region: Region, old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
    """Makes the mask after a click, in place, what the click's place says of it too; both on the region, float32.

    Who corrects a mask clicks in the middle of what is wrong: so the official protocol does, and users. The ball around
    the click up to the border of the mask before is wrong, then, or most of it; and what a background click takes away
    from the mask far beyond that ball has to be plain from both masks: the same shift all around is no local error.
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

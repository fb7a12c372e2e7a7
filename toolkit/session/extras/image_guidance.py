"""The extra that lets the image correct the network: `"refine": true` in a bundle's manifest."""

from __future__ import annotations

import math
import time
import weakref
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.regions import Region
from gstk.core.resampling import resample
from gstk.core.window import Window
from gstk.session.costs import REFINE_S_PER_VOXEL, Rate
from gstk.session.deadline import Clock
from gstk.session.extras import ImagePatch
from gstk.session.extras.click_weight import weigh_click
from gstk.session.extras.image_refiner import ImageFields, fine_part, local_prompts, refine_logits
from gstk.session.extras.reprompting import is_wanted, points_from_mask
from gstk.session.window_selection import network_points

__all__ = ["FINE_BORDERS", "ImageGuidance"]

FINE_BORDERS = "borders at the volume's resolution"
"""The compromise where refinement stays on the window's grid."""


class ImageGuidance:
    """Refines logits by the image, prompts the network with points of the refined mask, and weighs clicks.

    An `Extra`; see `image_refiner`, `reprompting` and `click_weight` for what each step does.

    Attributes:
        refinement: seconds of refining a voxel.
    """

    def __init__(self) -> None:
        self.refinement = Rate(REFINE_S_PER_VOXEL)
        self._fields: dict[int, tuple[weakref.ref[NDArray[np.float32]], ImageFields]] = {}

    def more_points(
        self, image: ImagePatch, window: Window, logits: NDArray[np.float32], prompts: ObjectPrompts
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
        """See `Extra.more_points`: points deep inside the refined mask and deep beside it."""
        if not is_wanted(len(prompts.points), prompts.box is not None):
            return None
        local = local_prompts(window, prompts)
        patch = image(window)
        mask = refine_logits(patch, logits, local, self._fields_of(patch)) > 0
        coords, labels = network_points(prompts)
        points, kinds = points_from_mask(mask, local, window.to_window(coords).astype(np.float64), labels)
        if len(points) == len(coords):
            return None
        return (points[len(coords) :] + 0.5) * window.step + window.start - 0.5, kinds[len(coords) :]

    def refine(
        self,
        image: ImagePatch,
        geometry: Geometry,
        window: Window,
        logits: NDArray[np.float32],
        prompts: ObjectPrompts,
        clock: Clock,
    ) -> tuple[Window, NDArray[np.float32]]:
        """See `Extra.refine`: where the window is coarser than the volume, on a finer grid around the object."""
        low, high, finer = fine_part(geometry, window, local_prompts(window, prompts))
        grid = window.part(low, high, finer)
        if grid != window and not clock.allows(FINE_BORDERS, self.refinement.seconds(math.prod(grid.shape))):
            grid = window
        if grid != window:
            inner = logits[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
            logits = resample(inner, (0, 0, 0), (1 / finer,) * 3, grid.shape, outside="edge")
        began = time.perf_counter()
        patch = image(grid)
        refined = refine_logits(patch, logits, local_prompts(grid, prompts), self._fields_of(patch))
        self.refinement.measured(refined.size, time.perf_counter() - began)
        return grid, refined

    def _fields_of(self, patch: NDArray[np.float32]) -> ImageFields:
        """The fields of a patch of the image, kept as long as the patch itself is."""
        key = id(patch)
        kept = self._fields.get(key)
        if kept is not None and kept[0]() is patch:
            return kept[1]
        fields = ImageFields.of(patch)
        self._fields[key] = weakref.ref(patch, lambda _: self._fields.pop(key, None)), fields
        return fields

    def weigh_click(
        self,
        prompts: ObjectPrompts,
        click: Point,
        region: Region,
        before: NDArray[np.float32],
        after: NDArray[np.float32],
    ) -> None:
        """See `Extra.weigh_click`. Without a box, a first mask is often far too large: a click changes all of it."""
        if prompts.box is not None:
            weigh_click(click, region, before, after)

    def seconds(
        self, step: Literal["more_points", "refine"], geometry: Geometry, window: Window, prompts: ObjectPrompts
    ) -> float:
        """See `Extra.seconds`."""
        if step == "more_points":
            if not is_wanted(len(prompts.points), prompts.box is not None):
                return 0.0
            return self.refinement.seconds(math.prod(window.shape))
        grid = window.part(*fine_part(geometry, window, local_prompts(window, prompts)))
        return self.refinement.seconds(math.prod(grid.shape))

"""From the network's answer to a mask on the volume: what the image corrects, and what a click may change."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.regions import Region
from gstk.core.resampling import resample
from gstk.core.window import Window
from gstk.session.click_update import ClickScope, apply_click, enforce_clicks, keep_clicked_components
from gstk.session.deadline import Deadline
from gstk.session.image_refiner import LocalPrompts, fine_part, refine_logits
from gstk.session.state import ImageState, ObjectState
from gstk.session.tiling import Chain

__all__ = ["MaskProjector", "local_prompts", "voxels_of"]

_RESAMPLE_S_PER_VOXEL = 1.5e-7
"""Seconds that a voxel of the volume takes on the mask's way back, until that was measured."""
_REFINE_S_PER_VOXEL = 2e-7
"""Seconds that a voxel takes to refine, image included, until that was measured."""
_MEASURED_VOXELS = 10**5


class MaskProjector:
    """Takes the network's answers in windows to the volume, and learns how long that takes.

    Attributes:
        refines: whether the image corrects the answers.
        resample_s_per_voxel, refine_s_per_voxel: seconds a voxel, on the way back and to refine.
    """

    def __init__(self, image_patch: Callable[[ImageState, Window], NDArray[np.float32]], refines: bool) -> None:
        self._image_patch = image_patch
        self.refines = refines
        self.resample_s_per_voxel, self.refine_s_per_voxel = _RESAMPLE_S_PER_VOXEL, _REFINE_S_PER_VOXEL

    def project(
        self,
        image: ImageState,
        known: ObjectState,
        click: Point | None,
        window: Window,
        logits: NDArray[np.float32],
        chain: Chain | None,
        deadline: Deadline,
        notes: list[str],
    ) -> ObjectState:
        """The network's answer on the volume's voxels, where the click asked for it."""
        shape = image.geometry.shape
        grid = window
        if self.refines:
            grid, logits = self._refined(image, window, known.prompts, logits, chain, deadline, notes)
        elif chain is not None:
            grid, logits = chain.grid, chain.blended(window, shape)
        began = time.perf_counter()
        # The region holds what was clicked on the object, be the network's answer there or not.
        part, values = grid.above_zero(logits, known.prompts.clicked(foreground_only=True))
        region = part.inside(shape)
        if deadline.is_set and self.resample_s_per_voxel * voxels_of(region) > deadline.left_s:
            notes.append("smooth borders: the mask is as coarse as its window")
            coarse = part.nearest(values, shape)
            enforce_clicks(coarse, region, known.prompts)
            return ObjectState(known.prompts, window, region, coarse, chain=chain)
        placed = keep_clicked_components(part.back(values, shape), region, known.prompts)
        enforce_clicks(placed, region, known.prompts)
        if click is not None and known.region is not None and known.logits is not None:
            opposite = [p.zyx for p in known.prompts.points if p.foreground != click.foreground]
            if known.prompts.box is not None and not click.foreground:
                opposite.append(known.prompts.box.centre())
            # Without a box, a first mask is often far too large, and a click has to change all of it.
            weighed = self.refines and known.prompts.box is not None
            reach = ClickScope(click, opposite, image.geometry.spacing_mm, weighed)
            region, placed = apply_click(reach, known.region, known.logits, region, placed)
            enforce_clicks(placed, region, known.prompts)  # a click on a voxel that said the opposite before
        if placed.size >= _MEASURED_VOXELS:
            self.resample_s_per_voxel = (time.perf_counter() - began) / placed.size
        return ObjectState(known.prompts, window, region, placed, chain=chain)

    def _refined(
        self,
        image: ImageState,
        window: Window,
        prompts: ObjectPrompts,
        logits: NDArray[np.float32],
        chain: Chain | None,
        deadline: Deadline,
        notes: list[str],
    ) -> tuple[Window, NDArray[np.float32]]:
        """Logits that heed the image; on a finer grid around the object where the window is coarser than the volume."""
        local = local_prompts(window, prompts)
        low, high, finer = fine_part(image.geometry, window, local)
        grid = window.part(low, high, finer) if chain is None else chain.grid
        if grid != window and deadline.is_set and self.refine_s_per_voxel * math.prod(grid.shape) > deadline.left_s:
            notes.append("borders at the volume's resolution")
            grid = window
        if grid != window and chain is not None:
            logits, local = chain.blended(window, image.geometry.shape), local_prompts(grid, prompts)
        elif grid != window:
            inner = logits[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
            logits = resample(inner, (0, 0, 0), (1 / finer,) * 3, grid.shape, outside="edge")
            local = local_prompts(grid, prompts)
        began = time.perf_counter()
        refined = refine_logits(self._image_patch(image, grid)[0, 0], logits, local)
        if refined.size >= _MEASURED_VOXELS:
            self.refine_s_per_voxel = (time.perf_counter() - began) / refined.size
        return grid, refined

    def seconds(self, image: ImageState, window: Window, prompts: ObjectPrompts, known: ObjectState) -> float:
        """Seconds from the network's answer to a mask on the volume, about: its refinement, and the way back.

        Args:
            known: the object so far.
        """
        region, refined = known.region, 0
        if self.refines and known.chain is not None:
            refined = math.prod(known.chain.grid.shape)
        elif self.refines:
            refined = math.prod(window.part(*fine_part(image.geometry, window, local_prompts(window, prompts))).shape)
        if region is not None:
            voxels = float(voxels_of(region))
        elif prompts.box is not None:
            low, high = prompts.box.corners()
            voxels = math.prod(b - a + 1.0 for a, b in zip(low, high, strict=True))
        else:
            voxels = voxels_of(window.inside(image.geometry.shape)) / (1 + 2 * image.policy.margin) ** 3
        return self.refine_s_per_voxel * refined + self.resample_s_per_voxel * voxels


def local_prompts(window: Window, prompts: ObjectPrompts) -> LocalPrompts:
    """What was said, in voxel coordinates of a window."""
    faces = None
    if prompts.box is not None:
        low, high = np.array(prompts.box.corners(), np.float64)
        faces = window.to_window(np.stack([low - 0.5, high + 0.5])).astype(np.float64)
    foreground = np.array([p.foreground for p in prompts.points], bool)
    return LocalPrompts(window.to_window(prompts.clicked()).astype(np.float64), foreground, faces)


def voxels_of(region: Region) -> int:
    return math.prod(axis.stop - axis.start for axis in region)

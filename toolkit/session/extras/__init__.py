"""Extras: optional corrections beside the network, for networks that are weak by themselves.

A session has at most one `Extra`, and imports nothing of this package without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.regions import Region
from gstk.core.window import Window
from gstk.session.deadline import Clock

__all__ = ["Extra", "ImagePatch"]

ImagePatch = Callable[[Window], NDArray[np.float32]]
"""The image on a window's grid, float32 (z,y,x), 0–1."""


class Extra(Protocol):
    """Corrects one object's logits between the network's answer and the mask on the volume."""

    def more_points(
        self, image: ImagePatch, window: Window, logits: NDArray[np.float32], prompts: ObjectPrompts
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
        """Points for a second decode, beside the user's.

        Args:
            image: samples the image.
            window: what the network saw.
            logits: float32 (z,y,x) on its grid, the network's first answer, above 0 inside the object.
            prompts: the user's.

        Returns:
            Voxels of the volume, float64 (K,3) (z,y,x), and their labels, int64 (K,), 1 on the object and 0 beside it;
            None where the first answer is good enough.
        """

    def refine(
        self,
        image: ImagePatch,
        geometry: Geometry,
        window: Window,
        logits: NDArray[np.float32],
        prompts: ObjectPrompts,
        clock: Clock,
    ) -> tuple[Window, NDArray[np.float32]]:
        """Better logits, on the same window or on a finer grid inside it where `clock` has time for that.

        Args:
            image, window, logits, prompts: as in `more_points`, the logits from all points.
            geometry: the volume's.
            clock: takes notes of skipped steps.

        Returns:
            A grid that holds every foreground click, and logits on it, float32 (z,y,x).
        """

    def weigh_click(
        self,
        prompts: ObjectPrompts,
        click: Point,
        region: Region,
        before: NDArray[np.float32],
        after: NDArray[np.float32],
    ) -> None:
        """Changes the logits after a click by their distance from it, in place, before the click is applied.

        Args:
            prompts: the object's, `click` among them.
            click: the newest.
            region: voxels of the volume that both masks are given on.
            before, after: float32 (z,y,x), logits before the click and after it; `after` is changed.
        """

    def seconds(
        self, step: Literal["more_points", "refine"], geometry: Geometry, window: Window, prompts: ObjectPrompts
    ) -> float:
        """Seconds that a step is expected to take on a window, without the decode after it; 0 where it is not done."""

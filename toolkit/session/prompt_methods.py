"""The prompts that a user gives a session one at a time, each turned into the points and the box of an object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.regions import Region
from gstk.session.prompt_checks import image_voxel
from gstk.session.strokes import lasso_points, plane_box_points, scribble_points

__all__ = ["OnRefined", "PromptMethods"]

OnRefined = Callable[[Region], None]
"""Called in the background with the region of the volume where finer masks differ."""


class PromptMethods(ABC):
    """One method for each kind of prompt. Voxel indices are (z,y,x) of the image; object ids are 1 to 65535."""

    @abstractmethod
    def _change_prompts(
        self,
        change: Callable[[Geometry, ObjectPrompts], ObjectPrompts],
        object_id: int,
        on_refined: OnRefined | None = None,
    ) -> Region:
        """Replaces the prompts of an object by what `change` makes of the image's geometry and of them."""

    def add_point(
        self,
        zyx: Sequence[float],
        foreground: bool = True,
        object_id: int = 1,
        *,
        novel: bool = False,
        on_refined: OnRefined | None = None,
    ) -> Region:
        """Adds a click and updates the mask.

        Args:
            zyx: voxel index, rounded to the nearest voxel.
            foreground: True for a click on the object, False for a click beside it.
            object_id: the object, from 1 to 65535.
            novel: the object is of no class that the network was trained on (zero-shot); it stays so until `reset`.
            on_refined: asks for a first mask from a window of half the resolution, where the object has no window yet
                and that saves time. The final mask, the same as without `on_refined`, follows in the background; then
                this is called there with the slices (z,y,x) of the volume that changed, if any did. A prompt in the
                meantime is answered first. None waits for the final mask; see `Session.refined`.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: the point lies outside the image.
            Interrupted: by `cancel`; nothing has changed.
        """
        return self._change_prompts(
            lambda geometry, before: replace(
                before,
                points=(*before.points, Point(image_voxel(zyx, geometry), foreground)),
                novel=before.novel or novel,
            ),
            object_id,
            on_refined,
        )

    def add_box(
        self, box: Box | Sequence[Sequence[float]], object_id: int = 1, *, on_refined: OnRefined | None = None
    ) -> Region:
        """Sets the object's box and updates the mask.

        Args:
            box: a `gstk.core.prompts.Box`, or its two corner voxels ((z,y,x), (z,y,x)), both inside it.
            on_refined: as in `add_point`.

        Returns, raises: as `add_point`.
        """
        box = box if isinstance(box, Box) else Box.from_corners(box)
        return self._change_prompts(lambda geometry, before: replace(before, box=box), object_id, on_refined)

    def add_plane_box(self, corners: Sequence[Sequence[int]], foreground: bool = True, object_id: int = 1) -> Region:
        """Adds a box that was drawn on one slice, along any axis; the object's depth stays open.

        Args:
            corners: its first and last voxel ((z,y,x), (z,y,x)), both inside the box.
            foreground: whether the object fills it on that slice; if not, its middle is background.

        Returns, raises: as `add_point`.
        """
        (z0, y0, x0), (z1, y1, x1) = corners
        low, high = (int(z0), int(y0), int(x0)), (int(z1), int(y1), int(x1))
        return self._add_points(lambda geometry: plane_box_points(low, high, geometry, foreground), object_id)

    def add_scribble(self, scribble: NDArray[np.generic], foreground: bool = True, object_id: int = 1) -> Region:
        """Adds a line that was drawn along the object, or along the background.

        Args:
            scribble: (z,y,x), of the image's shape; the line is where it is not 0.
            foreground: whether the line lies in the object.

        Returns, raises: as `add_point`.
        """
        drawn = np.asarray(scribble) != 0
        return self._add_points(lambda geometry: scribble_points(drawn, geometry, foreground), object_id)

    def add_lasso(self, lasso: NDArray[np.generic], foreground: bool = True, object_id: int = 1) -> Region:
        """Adds an outline that was drawn around the object on one slice.

        Args:
            lasso: (z,y,x), of the image's shape; the outline, or all that it encloses, is where it is not 0.
            foreground: whether the object is inside the outline; if not, background is.

        Returns, raises: as `add_point`.
        """
        drawn = np.asarray(lasso) != 0
        return self._add_points(lambda geometry: lasso_points(drawn, geometry, foreground), object_id)

    def set_prompts(self, prompts: ObjectPrompts, object_id: int = 1) -> Region:
        """Replaces all prompts of an object in one step; returns and raises as `add_point`."""
        return self._change_prompts(lambda geometry, before: prompts, object_id)

    def _add_points(self, points: Callable[[Geometry], tuple[Point, ...]], object_id: int) -> Region:
        """Adds the clicks that a prompt stands for, in one step."""
        return self._change_prompts(
            lambda geometry, before: replace(before, points=(*before.points, *points(geometry))), object_id
        )

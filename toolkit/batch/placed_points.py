"""Clicks in patient coordinates (mm), which the geometry of the image converts to voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from gstk.cases.npz import Case
from gstk.core.prompts import ObjectPrompts, Point
from gstk.errors import PromptError

__all__ = ["PlacedPoint", "add_placed_points"]


class PlacedPoint(NamedTuple):
    """A click in patient coordinates, LPS mm (x, y, z)."""

    lps_mm: tuple[float, float, float]
    foreground: bool = True


def add_placed_points(
    prompts: dict[int, ObjectPrompts], points_mm: Mapping[int, Sequence[PlacedPoint]], case: Case
) -> dict[int, ObjectPrompts]:
    """Returns the prompts with the clicks in patient coordinates added."""
    found = dict(prompts)
    for object_id, places in points_mm.items():
        before = found.get(object_id, ObjectPrompts())
        points = list(before.points)
        for place in places:
            voxel = case.geometry.nearest_voxel(case.geometry.mm_to_voxel(place.lps_mm))
            if voxel is None:
                x, y, z = place.lps_mm
                raise PromptError(
                    f"got a click at RAS {-x:g}, {-y:g}, {z:g} mm, which lies outside of {case.name}; gstk inspect "
                    "says where the image reaches"
                )
            points.append(Point(voxel, place.foreground))
        found[object_id] = replace(before, points=tuple(points))
    return found

"""Parses clicks and boxes of the command line."""

import math
from typing import TYPE_CHECKING

import typer

from gstk.errors import PromptError

if TYPE_CHECKING:
    from gstk.batch.placed_points import PlacedPoint
    from gstk.core.prompts import ObjectPrompts

__all__ = ["parse_point_option", "read_names", "read_places", "read_prompts"]


def parse_point_option(text: str, numbers: int = 3, form: str = "z,y,x") -> tuple[int, tuple[float, ...]]:
    """Parses `[ID:]a,b,c`, the form of clicks and boxes on the command line.

    Args:
        numbers: how many numbers are expected: 3 for a click, 6 for a box.
        form: names of a click's numbers, for the error message.

    Returns:
        The object id (1 where none is given) and the numbers.

    Raises:
        PromptError: the text does not have this form.
    """
    from gstk.core.prompts import whole_object_id

    head, colon, tail = text.rpartition(":")
    try:
        object_id = whole_object_id(float(head)) if colon else 1
        values = tuple(float(v) for v in tail.split(","))
    except ValueError:
        values = ()
    if len(values) != numbers:
        form, example = (form, "40,128,96") if numbers == 3 else ("z0,y0,x0,z1,y1,x1", "30,100,80,50,150,120")
        raise PromptError(f"got {text!r}, expected {form} or ID:{form}, as in {example} or 2:{example}")
    return object_id, values


def read_names(texts: list[str]) -> dict[int, str]:
    """The objects' names from the command line's options, `[ID:]NAME`, by object id (1 where none is given)."""
    from gstk.core.prompts import whole_object_id

    found: dict[int, str] = {}
    for text in texts:
        head, colon, tail = text.partition(":")
        is_numbered = bool(colon) and head.strip().isdecimal()
        object_id = whole_object_id(int(head)) if is_numbered else 1
        name = (tail if is_numbered else text).strip()
        if not name:
            raise PromptError(f"got {text!r}, expected NAME or ID:NAME, as in liver or 2:spleen")
        if object_id in found:
            raise PromptError(
                f"got two names for object {object_id}, {found[object_id]} and {name}, expected one; write ID: in "
                "front for another object"
            )
        found[object_id] = name
    return found


def read_places(points: list[str], background: list[str], lps: bool) -> "dict[int, list[PlacedPoint]]":
    """The clicks in mm from the command line's options, by object id."""
    from gstk.batch.placed_points import PlacedPoint

    found: dict[int, list[PlacedPoint]] = {}
    for texts, foreground in ((points, True), (background, False)):
        for text in texts:
            object_id, (x, y, z) = parse_point_option(text, form="x,y,z")
            if not all(map(math.isfinite, (x, y, z))):
                raise PromptError(f"got {text!r}, expected three finite numbers of mm")
            found.setdefault(object_id, []).append(PlacedPoint((x, y, z) if lps else (-x, -y, z), foreground))
    return found


def read_prompts(points: list[str], background: list[str], boxes: list[str]) -> "dict[int, ObjectPrompts]":
    """The prompts from the command line's options, by object id."""
    from dataclasses import replace

    from gstk.core.prompts import Box, ObjectPrompts, Point, whole_voxel

    found: dict[int, ObjectPrompts] = {}
    for texts, foreground in ((points, True), (background, False)):
        for text in texts:
            object_id, zyx = parse_point_option(text)
            if any(value != int(value) for value in zyx if math.isfinite(value)):
                rounded = ",".join(map(str, whole_voxel(zyx)))
                typer.echo(f"warning: {text} is rounded to the voxel {rounded}; indices are whole numbers", err=True)
            before = found.get(object_id, ObjectPrompts())
            point = Point(whole_voxel(zyx), foreground)
            if replace(point, foreground=not foreground) in before.points:
                raise PromptError(f"got {point.zyx} on and beside object {object_id}, expected one of the two")
            found[object_id] = ObjectPrompts((*before.points, point), before.box)
    for text in boxes:
        object_id, corners = parse_point_option(text, numbers=6)
        before = found.get(object_id, ObjectPrompts())
        if before.box is not None:
            raise PromptError(
                f"got two boxes for object {object_id}, expected one; write ID: in front for another object"
            )
        found[object_id] = ObjectPrompts(before.points, Box.from_corners((corners[:3], corners[3:])))
    return found

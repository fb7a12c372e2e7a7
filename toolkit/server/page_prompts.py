"""What a page says of an object, from JSON to a change of its session."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.cases.label_names import LabelName
from gstk.core.geometry import Geometry
from gstk.core.prompts import Point
from gstk.server.service import BadRequest
from gstk.server.workspace import Workspace
from gstk.session.strokes import lasso_points, plane_box_points, scribble_points

__all__ = ["MOST_OBJECTS", "class_ids_of", "names_of", "object_id_of", "prompt_of"]

MOST_OBJECTS = 255
"""A page keeps labels as bytes."""
MOST_CLASSES = 20
"""That become objects at once: each keeps its mask."""


def prompt_of(workspace: Workspace, body: dict[str, Any]) -> Callable[[int], bool]:
    """What a prompt does to an object; says whether it did anything."""
    kind, geometry = body.get("kind"), workspace.geometry
    if kind == "undo":
        return lambda object_id: workspace.undo()
    if kind == "redo":
        return lambda object_id: workspace.redo()
    if kind == "reset":
        return workspace.forget
    if kind == "class":
        return _class_prompt(workspace, body.get("name"))
    foreground, coarse_first = body.get("foreground"), body.get("coarse_first") is True
    novel = body.get("novel", False)
    if not isinstance(foreground, bool):
        raise BadRequest("got no foreground, expected true or false")
    if not isinstance(novel, bool):
        raise BadRequest(f"got novel {novel!r:.40}, expected true or false")
    points: Sequence[Point]
    if kind == "point":
        points = [Point(_voxel(body.get("voxel"), geometry), foreground)]
    elif kind == "box":
        low, high = _voxel(body.get("low"), geometry), _voxel(body.get("high"), geometry)
        points = plane_box_points(low, high, geometry, foreground)
    elif kind in ("scribble", "lasso"):
        lower = scribble_points if kind == "scribble" else lasso_points
        points = lower(_drawing(body, geometry), geometry, foreground)
    else:
        raise BadRequest(
            f"got the prompt {kind!r:.40}, expected point, box, scribble, lasso, class, undo, redo or reset"
        )

    def add(object_id: int) -> bool:
        workspace.add(points, object_id, novel=novel, coarse_first=coarse_first)
        return True

    return add


def class_ids_of(workspace: Workspace, name: object) -> tuple[int, ...]:
    """The ids of a class or of a group of classes; raises `PromptError` where it is unknown."""
    ids = workspace.session.profile.classes.expand([name if isinstance(name, str) else ""])
    if len(ids) > MOST_CLASSES:
        raise BadRequest(
            f"got {name!r:.40}, which is {len(ids)} classes, expected at most {MOST_CLASSES} at a time; "
            "gstk infer --classes segments them all"
        )
    return ids


def _class_prompt(workspace: Workspace, name: object) -> Callable[[int], bool]:
    ids = class_ids_of(workspace, name)

    def segment(object_id: int) -> bool:
        def windows(done: int, total: int) -> None:
            workspace.progress = done, total

        try:
            workspace.session.segment_classes(ids, as_objects=True, on_progress=windows)
        finally:
            workspace.progress = None
        return True

    return segment


def _drawing(body: dict[str, Any], geometry: Geometry) -> NDArray[np.bool_]:
    """A line through voxels (z,y,x), filled between them; a lasso's ends are joined."""
    path = body.get("path")
    if not isinstance(path, list) or not 1 <= len(path) <= 4000:
        raise BadRequest("got no path, expected 1 to 4000 voxels")
    voxels = [_voxel(voxel, geometry) for voxel in path]
    if body.get("kind") == "lasso":
        voxels.append(voxels[0])
    drawing = np.zeros(geometry.shape, bool)
    drawing[voxels[0]] = True
    for start, end in itertools.pairwise(voxels):
        steps = max(abs(a - b) for a, b in zip(start, end, strict=True)) + 1
        line = np.rint(np.linspace(start, end, steps)).astype(int)
        drawing[tuple(line.T)] = True
    return drawing


def _voxel(values: object, geometry: Geometry) -> tuple[int, int, int]:
    if not isinstance(values, list) or len(values) != 3 or any(type(v) is not int for v in values):
        raise BadRequest(f"got the voxel {values!r:.80}, expected three whole numbers (z, y, x)")
    voxel = (values[0], values[1], values[2])
    if not geometry.contains(voxel):
        raise BadRequest(f"got the voxel {voxel}, expected it inside the image of {geometry.shape}")
    return voxel


def object_id_of(body: dict[str, Any]) -> int:
    object_id = body.get("object", 1)
    if type(object_id) is not int or not 1 <= object_id <= MOST_OBJECTS:
        raise BadRequest(f"got the object {object_id!r:.40}, expected 1 to {MOST_OBJECTS}")
    return object_id


def names_of(objects: object) -> dict[int, LabelName]:
    if not isinstance(objects, list) or len(objects) > MOST_OBJECTS:
        raise BadRequest(f"got no objects, expected a list of at most {MOST_OBJECTS}")
    names = {}
    for entry in objects:
        colour = entry.get("colour") if isinstance(entry, dict) else None
        if not isinstance(colour, str) or not re.fullmatch(r"#[0-9a-f]{6}", colour):
            raise BadRequest("got an object without a colour, expected one such as #ffb000")
        name = str(entry.get("name", ""))[:100]
        names[object_id_of({"object": entry.get("id")})] = LabelName(
            name, (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))
        )
    return names

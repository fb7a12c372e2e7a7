"""The names and colours of a label map's ids, in a JSON file beside it."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from pathlib import Path

from gstk.batch.results import ObjectResult
from gstk.core.files import atomic_path

__all__ = ["write_class_names"]


def write_class_names(path: Path, objects: Sequence[ObjectResult]) -> None:
    """Names the labels of a label map: JSON with an entry an id, its name, voxels and a colour for viewers (0-255)."""
    entries = {
        str(one.object_id): {"name": one.name, "voxels": one.voxels, "color_rgb": _color(one.object_id)}
        for one in objects
    }
    with atomic_path(path) as partial_file:
        partial_file.write_text(json.dumps({"labels": entries}, indent=1) + "\n", encoding="utf-8")


def _color(class_id: int) -> list[int]:
    """A colour that stays the same for a class, and differs from that of its neighbours in the list."""
    hue = (class_id * 0.61803398875) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (class_id % 2), 0.95)
    return [round(255 * value) for value in (red, green, blue)]

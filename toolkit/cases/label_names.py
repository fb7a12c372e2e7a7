"""What the ids of a label map are called and how they are shown: names and colours, and a JSON file that holds them."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gstk.core.files import atomic_path

__all__ = ["LabelName", "clean_name", "object_colour", "write_label_names"]

_COLOURS = ((255, 176, 0), (100, 143, 255), (220, 38, 127), (0, 190, 150), (254, 97, 0), (150, 110, 255))
_GOLDEN_RATIO = 0.61803398875


class LabelName(NamedTuple):
    """How an object is called and shown: `colour` is RGB, 0..255."""

    name: str
    colour: tuple[int, int, int]


def object_colour(object_id: int) -> tuple[int, int, int]:
    """RGB of an object, 0..255, always the same for its id; neighbours in number differ.

    The first six also differ to the colour-blind.
    """
    if object_id <= len(_COLOURS):
        return _COLOURS[(object_id - 1) % len(_COLOURS)]
    hue = (object_id * _GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (object_id % 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def clean_name(name: str, label: int) -> str:
    """A name in one line without control characters; "object N" where nothing is left of it."""
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return " ".join(printable.split()) or f"object {label}"


def write_label_names(path: Path, names: Mapping[int, LabelName], voxels: Mapping[int, int]) -> None:
    """Writes JSON in UTF-8, whole or not at all: `{"labels": {"3": {"name": ..., "color_rgb": [...], "voxels": ...}}}`.

    Args:
        path: the file to write.
        names: by label id.
        voxels: how many voxels have each id; ids without an entry have none.

    Raises:
        OutputError: the file cannot be written.
    """
    entries = {
        str(label): {
            "name": clean_name(one.name, label), "color_rgb": list(one.colour), "voxels": voxels.get(label, 0)
        }
        for label, one in sorted(names.items())
    }  # fmt: skip
    with atomic_path(path) as partial:
        partial.write_text(json.dumps({"labels": entries}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

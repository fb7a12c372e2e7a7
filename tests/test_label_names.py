"""Colours and names of labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gstk.cases.label_names import LabelName, clean_name, object_colour, write_label_names


def test_neighbours_differ() -> None:
    colours = np.array([object_colour(k) for k in range(1, 200)])
    assert colours.min() >= 0
    assert colours.max() <= 255
    assert np.abs(np.diff(colours, axis=0)).max(axis=1).min() > 40
    assert len({tuple(one) for one in colours}) == len(colours)


def test_json_holds_any_name(tmp_path: Path) -> None:
    names = {70: LabelName("", (0, 0, 0)), 3: LabelName('"Leber" [é]\n肝\x00', (1, 2, 3))}
    write_label_names(tmp_path / "a_labels.json", names, {3: 12})
    text = (tmp_path / "a_labels.json").read_text(encoding="utf-8")
    assert "肝" in text
    assert json.loads(text)["labels"] == {
        "3": {"name": '"Leber" [é] 肝', "color_rgb": [1, 2, 3], "voxels": 12},
        "70": {"name": "object 70", "color_rgb": [0, 0, 0], "voxels": 0},
    }
    assert clean_name("\t", 5) == "object 5"

"""Ticks: round, from 0 on, and never so near that their texts collide."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gstk.cases.overlay import CAPTION_PIXELS, GAP_PIXELS, LEFT_PIXELS, draw_overlay
from gstk.cases.ticks import TEXT, draw_tick, tick_indices
from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point


@pytest.mark.parametrize(
    ("count", "pixels", "expected"),
    [
        (512, 240, [0, 100, 200, 300, 400, 500]),
        (101, 240, [0, 20, 40, 60, 80, 100]),
        (45, 90, [0, 20, 40]),
        (20, 18, [0]),
        (1, 240, [0]),
        (100_000, 240, [0]),
        (20, 72, [0, 10]),
    ],
)
def test_indices(count: int, pixels: int, expected: list[int]) -> None:
    assert list(tick_indices(count, pixels, 36)) == expected


def test_a_text_stays_below_the_highest_pixel() -> None:
    picture = Image.new("RGB", (60, 40))
    draw_tick(ImageDraw.Draw(picture), 50, 20, (("123", TEXT), ("456", TEXT)), is_below=False, highest=18)
    rows = np.flatnonzero(np.asarray(picture)[:, :44].any(axis=(1, 2)))
    assert rows.min() >= 18


@pytest.mark.parametrize("flipped", [False, True])
def test_an_overlays_ticks_are_indices_of_the_array(flipped: bool) -> None:
    """A bright row of voxels at a tick's index lies at the tick, whichever way the axis is stored."""
    sign = -1 if flipped else 1
    geometry = Geometry((60, 60, 60), (1, 1, 1), direction=(1, 0, 0, 0, sign, 0, 0, 0, 1))
    volume = np.zeros(geometry.shape, np.uint8)
    volume[:, 20] = 255
    picture = draw_overlay(volume, geometry, volume * 0, {1: ObjectPrompts((Point((30, 50, 50)),))})
    top = GAP_PIXELS + CAPTION_PIXELS
    pixels = np.asarray(picture)[top : top + 300].astype(int)
    bright = np.flatnonzero(pixels[:, GAP_PIXELS + LEFT_PIXELS + 100].min(axis=1) > 200)
    ticks = np.flatnonzero((pixels[:, GAP_PIXELS + LEFT_PIXELS - 2] == TEXT).all(axis=1))
    assert len(ticks) == 6  # 0, 10, 20, 30, 40, 50
    ordered = ticks[::-1] if flipped else ticks
    assert abs(ordered[2] - bright.mean()) <= 1

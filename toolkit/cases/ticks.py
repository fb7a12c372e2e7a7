"""Ticks beside a slice, to read the voxel of a place off a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

__all__ = ["LINE_PIXELS", "TEXT", "WORD_PIXELS", "draw_tick", "tick_indices"]

LINE_PIXELS = 11
"""From one line of a tick's text to the next."""
WORD_PIXELS = 36
"""From the middle of a text below a slice to the middle of the next."""
TEXT = (235, 235, 235)
_MOST_TICKS = 6
_TICK_PIXELS = 4
_STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000)


def tick_indices(count: int, pixels: float, least_pixels: float) -> range:
    """Round indices of an axis, from 0 on, whose texts do not run into each other.

    Args:
        count: voxels along the axis.
        pixels: the axis's length in the picture.
        least_pixels: from one tick to the next.
    """
    fitting = (step for step in _STEPS if count / step <= _MOST_TICKS and step * pixels / count >= least_pixels)
    return range(0, count, next(fitting, max(1, count)))


def draw_tick(
    pen: ImageDraw,
    x: float,
    y: float,
    lines: Sequence[tuple[str, tuple[int, int, int]]],
    *,
    is_below: bool,
    highest: float = 0,
) -> None:
    """Draws a tick and its text.

    Args:
        pen: of the picture.
        x, y: pixel on the slice's lower or left edge.
        lines: texts one below the other, each with its colour.
        is_below: below the slice, not to its left.
        highest: pixel that no text lies above.
    """
    if is_below:
        pen.line((x, y, x, y + _TICK_PIXELS), fill=TEXT)
        top = y + _TICK_PIXELS
    else:
        pen.line((x - _TICK_PIXELS, y, x, y), fill=TEXT)
        top = max(highest, y - LINE_PIXELS * len(lines) / 2)
    for number, (text, colour) in enumerate(lines):
        length = pen.textlength(text)
        left = x - length / 2 if is_below else x - _TICK_PIXELS - 2 - length
        pen.text((left, top + number * LINE_PIXELS), text, fill=colour)

"""A picture of a result: three orthogonal slices through each object's prompt, with mask, clicks, box and ticks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.cases.label_names import clean_name, object_colour
from gstk.cases.ticks import LINE_PIXELS, TEXT, WORD_PIXELS, draw_tick, tick_indices
from gstk.core.files import StrPath, atomic_path
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point, Voxel
from gstk.core.resampling import intensity_range, normalise

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["MAX_ROWS", "draw_overlay", "middle_voxel", "save_overlay", "upright"]

PANEL_PIXELS = 300
GAP_PIXELS = 8
CAPTION_PIXELS = 20
LEFT_PIXELS, RIGHT_PIXELS, BOTTOM_PIXELS = 34, 20, 18
"""Around each panel, for ticks and the letters of the axes."""
MIN_PANEL_PIXELS = 24
"""A slice smaller than this, such as one across two voxels, lies in the middle of a panel of this size."""
MAX_ROWS = 8
_VIEWS = (("axial", 0), ("coronal", 1), ("sagittal", 2))
_FOREGROUND, _BACKGROUND = (60, 230, 90), (255, 70, 70)
_MOST_LETTERS = 28
_BOX, _AROUND = (255, 255, 255), (18, 18, 22)


def save_overlay(
    path: StrPath,
    volume: NDArray[np.generic],
    geometry: Geometry,
    mask: NDArray[np.integer],
    prompts: Mapping[int, ObjectPrompts],
    centres: Mapping[int, Voxel] | None = None,
    names: Mapping[int, str] | None = None,
) -> Path:
    """Writes `draw_overlay`'s picture as a PNG, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    picture = draw_overlay(volume, geometry, mask, prompts, centres, names)
    with atomic_path(path) as partial:
        picture.save(partial, format="PNG", optimize=True)
    return Path(path)


def draw_overlay(
    volume: NDArray[np.generic],
    geometry: Geometry,
    mask: NDArray[np.integer],
    prompts: Mapping[int, ObjectPrompts],
    centres: Mapping[int, Voxel] | None = None,
    names: Mapping[int, str] | None = None,
) -> Image:
    """Draws one row an object (the first `MAX_ROWS` that have prompts or a centre): axial, coronal and sagittal.

    Slices are named and turned by the geometry's direction, whatever the order of storage: the patient's left on the
    right, anterior up in the axial slice, superior up in the others. An oblique volume is shown along its own axes.
    Ticks are voxel indices of the array, as `--point z,y,x` takes them.

    Args:
        volume: (z,y,x), any real dtype.
        geometry: the volume's; pixels are made square in millimetres.
        mask: integer (z,y,x), object ids.
        prompts: by object id. Clicks and the box are drawn where they lie in the slice shown.
        centres: by object id, the voxel (z,y,x) whose slices are shown of objects without prompts.
        names: what objects are called, by object id; "object N" stands for those without a name.

    Returns:
        An RGB `PIL.Image`.
    """
    from PIL import Image, ImageDraw

    crossings = {**(centres or {}), **{k: _centre(p) for k, p in prompts.items() if p.points or p.box}}
    said_of = [(k, prompts.get(k, ObjectPrompts())) for k in sorted(crossings)]
    shown, left_out = said_of[:MAX_ROWS], len(said_of[MAX_ROWS:])
    low, high = intensity_range(volume)
    font = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    axes, flipped = upright(geometry)
    backwards = tuple(k for k in range(3) if flipped[k])
    volume, mask = np.flip(volume.transpose(axes), backwards), np.flip(mask.transpose(axes), backwards)
    spacing_mm = [geometry.spacing_mm[axis] for axis in axes]

    def turn(zyx: Voxel) -> Voxel:
        z, y, x = (geometry.shape[a] - 1 - zyx[a] if flip else zyx[a] for a, flip in zip(axes, flipped, strict=True))
        return z, y, x

    ruler = _Ruler(tuple(axes), tuple(flipped))
    rows = []
    for object_id, said in shown:
        there, centre = _turned(said, turn), turn(crossings[object_id])
        rows.append([_panel(volume, mask, spacing_mm, there, centre, axis, low, high, ruler) for _, axis in _VIEWS])
    captions = [
        [f"{called}   {view} {'zyx'[axes[k]]} = {crossings[object_id][axes[k]]}" for view, k in _VIEWS]
        for object_id, called in ((k, _caption(k, names)) for k, _ in shown)
    ]
    if left_out:
        captions[-1][-1] += f"   ({left_out} more not shown)"
    text_widths = [[2 + ceil(font.textlength(text)) for text in texts] for texts in captions]
    panel_widths = [[panel.width for panel in row] for row in rows]
    widths = [max(column) for column in zip(*text_widths, *panel_widths, strict=True)]
    heights = [max(panel.height for panel in row) + CAPTION_PIXELS for row in rows]
    size = (sum(widths) + 4 * GAP_PIXELS, sum(heights) + (len(rows) + 1) * GAP_PIXELS)
    picture = Image.new("RGB", size, _AROUND)
    pen = ImageDraw.Draw(picture)
    top = GAP_PIXELS
    for (object_id, _), row, texts, height in zip(shown, rows, captions, heights, strict=True):
        left = GAP_PIXELS
        for text, panel, width in zip(texts, row, widths, strict=True):
            pen.text((left + 2, top + 3), text, fill=object_colour(object_id))
            picture.paste(panel, (left, top + CAPTION_PIXELS))
            left += width + GAP_PIXELS
        top += height + GAP_PIXELS
    return picture


def _caption(object_id: int, names: Mapping[int, str] | None) -> str:
    """The name in one line, shortened to what fits above a panel."""
    called = clean_name((names or {}).get(object_id, ""), object_id)
    return called if len(called) <= _MOST_LETTERS else f"{called[: _MOST_LETTERS - 3]}..."


def middle_voxel(mask: NDArray[np.bool_]) -> Voxel:
    """A voxel (z,y,x) of a mask, in the slice that it fills most, nearest to its middle there.

    Args:
        mask: bool (z,y,x), not empty.
    """
    z = int(np.argmax(np.count_nonzero(mask, axis=(1, 2))))
    places = np.argwhere(mask[z])
    y, x = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
    return z, int(y), int(x)


def _centre(prompts: ObjectPrompts) -> Voxel:
    """Where the slices cross: the first foreground click, else the box's middle, else any click."""
    for point in sorted(prompts.points, key=lambda p: not p.foreground):
        if point.foreground or prompts.box is None:
            return point.zyx
    box = prompts.box
    assert box is not None, "rows are drawn for objects with prompts"
    return box.centre()


def upright(geometry: Geometry) -> tuple[list[int], list[bool]]:
    """Which array axis runs along the patient's z, y and x (LPS), and whether backwards."""
    # Rows z, y, x of the patient; columns z, y, x of the array.
    along = np.reshape(geometry.direction, (3, 3))[::-1, ::-1]
    axes = max(permutations(range(3)), key=lambda order: sum(abs(along[k, order[k]]) for k in range(3)))
    return list(axes), [bool(along[k, axes[k]] < 0) for k in range(3)]


def _turned(prompts: ObjectPrompts, turn: Callable[[Voxel], Voxel]) -> ObjectPrompts:
    points = tuple(Point(turn(point.zyx), point.foreground) for point in prompts.points)
    if prompts.box is None:
        return ObjectPrompts(points)
    corners = np.sort([turn(corner) for corner in prompts.box.corners()], axis=0).tolist()
    return ObjectPrompts(points, Box.from_corners(corners))


class _Ruler(NamedTuple):
    """Which axis of the array a picture's axes are, and whether they run against it."""

    axes: tuple[int, ...]
    flipped: tuple[bool, ...]

    def letter(self, axis: int) -> str:
        """Of the array's axis along the picture's: z, y or x."""
        return "zyx"[self.axes[axis]]

    def ticks(self, axis: int, count: int, pixels: int, least_pixels: int) -> list[tuple[int, int]]:
        """Round indices of the array along an axis of the picture, each with its place there; see `tick_indices`."""
        indices = tick_indices(count, pixels, least_pixels)
        return [(index, count - 1 - index if self.flipped[axis] else index) for index in indices]


def _panel(
    volume: NDArray[np.generic],
    mask: NDArray[np.generic],
    spacing: Sequence[float],
    prompts: ObjectPrompts,
    centre: Voxel,
    axis: int,
    low: float,
    high: float,
    ruler: _Ruler,
) -> Image:
    from PIL import Image, ImageDraw
    from scipy import ndimage

    rows, columns = (a for a in range(3) if a != axis)
    grey = np.rint(255 * normalise(np.take(volume, centre[axis], axis), low, high)).astype(np.uint8)
    labels = np.take(mask, centre[axis], axis)
    height_mm, width_mm = grey.shape[0] * spacing[rows], grey.shape[1] * spacing[columns]
    scale = PANEL_PIXELS / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    pixels = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")).astype(np.float32)
    for object_id in np.unique(labels[labels > 0]):
        inside = Image.fromarray((labels == object_id).astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        covered = np.asarray(inside) > 127
        rim = covered & ~ndimage.binary_erosion(covered, iterations=2)
        colour = np.array(object_colour(int(object_id)), np.float32)
        pixels[covered] = 0.75 * pixels[covered] + 0.25 * colour
        pixels[rim] = colour
    flip = axis != 0  # coronal and sagittal slices stand upright: the last slice is on top
    if flip:
        pixels = pixels[::-1]
    panel = Image.new("RGB", (max(MIN_PANEL_PIXELS, size[0]), max(MIN_PANEL_PIXELS, size[1])), _AROUND)
    left, top = (panel.width - size[0]) // 2, (panel.height - size[1]) // 2
    panel.paste(Image.fromarray(np.rint(pixels).astype(np.uint8)), (left, top))

    def to_pixel(row: float, column: float) -> tuple[float, float]:
        x, y = (column + 0.5) * size[0] / grey.shape[1], (row + 0.5) * size[1] / grey.shape[0]
        return left + x, top + (size[1] - y if flip else y)

    _draw_prompts(ImageDraw.Draw(panel), prompts, centre, axis, to_pixel)
    framed = Image.new("RGB", (panel.width + LEFT_PIXELS + RIGHT_PIXELS, panel.height + BOTTOM_PIXELS), _AROUND)
    framed.paste(panel, (LEFT_PIXELS, 0))
    pen = ImageDraw.Draw(framed)
    bottom = top + size[1]
    for index, place in ruler.ticks(columns, grey.shape[1], size[0], WORD_PIXELS):
        x = LEFT_PIXELS + to_pixel(0, place)[0]
        draw_tick(pen, x, bottom, ((str(index), TEXT),), is_below=True)
    for index, place in ruler.ticks(rows, grey.shape[0], size[1], LINE_PIXELS):
        draw_tick(pen, LEFT_PIXELS + left - 1, to_pixel(place, 0)[1], ((str(index), TEXT),), is_below=False)
    pen.text((LEFT_PIXELS + left + size[0] + 11, bottom + 4), ruler.letter(columns), fill=TEXT)
    pen.text((2, bottom + 4), ruler.letter(rows), fill=TEXT)
    return framed


def _draw_prompts(
    pen: ImageDraw,
    prompts: ObjectPrompts,
    centre: Voxel,
    axis: int,
    to_pixel: Callable[[float, float], tuple[float, float]],
) -> None:
    rows, columns = (a for a in range(3) if a != axis)
    if prompts.box is not None:
        low, high = prompts.box.corners()
        if low[axis] <= centre[axis] <= high[axis]:
            (x0, y0), (x1, y1) = (
                to_pixel(low[rows] - 0.5, low[columns] - 0.5),
                to_pixel(high[rows] + 0.5, high[columns] + 0.5),
            )
            y0, y1 = sorted((y0, y1))
            # The last pixel inside: a box that ends where the volume does would lie outside the panel.
            pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_BOX)
    for point in prompts.points:
        if point.zyx[axis] != centre[axis]:
            continue
        x, y = to_pixel(point.zyx[rows], point.zyx[columns])
        colour = _FOREGROUND if point.foreground else _BACKGROUND
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour, outline=(0, 0, 0))
        pen.line((x - 3, y, x + 3, y), fill=(0, 0, 0))
        if point.foreground:
            pen.line((x, y - 3, x, y + 3), fill=(0, 0, 0))

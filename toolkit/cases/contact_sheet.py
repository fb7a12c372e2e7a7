"""A contact sheet: slices of a volume in patient orientation, with ticks in voxels and in mm to read a click off."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.cases.overlay import upright
from gstk.cases.ticks import LINE_PIXELS, TEXT, WORD_PIXELS, draw_tick, tick_indices
from gstk.core.files import StrPath, atomic_path
from gstk.core.geometry import Geometry
from gstk.core.resampling import intensity_range, normalise

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_contact_sheet", "orientation_words", "save_contact_sheet"]

COLUMNS = 5
PANEL_PIXELS = 240
_LEFT, _BOTTOM, _TOP, _GAP = 52, 30, 18, 10
_BACK, _MM = (18, 18, 22), (255, 215, 106)
_VIEWS = (("axial", 0), ("coronal", 1), ("sagittal", 2))
_TOWARDS = (("I", "S"), ("A", "P"), ("R", "L"))  # low and high end of LPS z, y and x


class _Axis(NamedTuple):
    """An axis of the array as it is drawn: `patient` is 0, 1 or 2 for the patient's z, y or x."""

    array: int
    patient: int
    reversed: bool


def orientation_words(geometry: Geometry) -> str:
    """Where each axis of the array runs, such as "z to S, y to P, x to L"."""
    axes, flipped = upright(geometry)
    words = {axis: _TOWARDS[k][0 if flipped[k] else 1] for k, axis in enumerate(axes)}
    return ", ".join(f"{'zyx'[axis]} to {words[axis]}" for axis in range(3))


def save_contact_sheet(path: StrPath, volume: NDArray[np.generic], geometry: Geometry) -> None:
    """Writes `draw_contact_sheet`'s picture as a PNG, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    picture = draw_contact_sheet(volume, geometry)
    with atomic_path(path) as partial:
        picture.save(partial, format="PNG", optimize=True)


def draw_contact_sheet(volume: NDArray[np.generic], geometry: Geometry) -> Image:
    """Draws slices at even distances: a row of axial, one of coronal and one of sagittal slices.

    Ticks are voxel indices of the array, as `--point z,y,x` takes them, and below them mm to the right or left (R, L),
    front or back (A, P) and head or feet (S, I) of the scan's origin, as 3D Slicer shows them.
    The patient's right is on the left, and anterior or superior is up.

    Args:
        volume: (z,y,x), any real dtype.
        geometry: the volume's; pixels are square in millimetres.
    """
    from PIL import Image

    low, high = intensity_range(volume)
    axes, flipped = upright(geometry)
    rows = []
    for name, patient in _VIEWS:
        through = axes[patient]
        count = min(COLUMNS, volume.shape[through])
        places = np.unique(np.rint((np.arange(count) + 0.5) * volume.shape[through] / count - 0.5).astype(int))
        down, right = ((1, 2), (0, 2), (0, 1))[patient]
        # In the axial slice anterior is up, which is where y is low; in the others superior is up, where z is high.
        down_axis = _Axis(axes[down], down, flipped[down] != (patient != 0))
        right_axis = _Axis(axes[right], right, flipped[right])
        rows.append(
            [
                _panel(
                    volume,
                    geometry,
                    (low, high),
                    f"{name}  {'zyx'[through]} = {place}",
                    through,
                    int(place),
                    down_axis,
                    right_axis,
                )
                for place in places
            ]
        )
    width = max(sum(panel.width + _GAP for panel in row) for row in rows) + _GAP
    height = sum(max(panel.height for panel in row) + _GAP for row in rows) + _GAP
    sheet = Image.new("RGB", (width, height), _BACK)
    top = _GAP
    for row in rows:
        left = _GAP
        for panel in row:
            sheet.paste(panel, (left, top))
            left += panel.width + _GAP
        top += max(panel.height for panel in row) + _GAP
    return sheet


def _panel(
    volume: NDArray[np.generic],
    geometry: Geometry,
    limits: tuple[float, float],
    title: str,
    through: int,
    place: int,
    down: _Axis,
    right: _Axis,
) -> Image:
    from PIL import Image, ImageDraw

    part = np.moveaxis(volume, (down.array, right.array), (0, 1))[:, :, place]
    part = part[:: -1 if down.reversed else 1, :: -1 if right.reversed else 1]
    grey = np.rint(255 * normalise(part, *limits)).astype(np.uint8)
    height_mm, width_mm = (n * geometry.spacing_mm[a.array] for n, a in zip(part.shape, (down, right), strict=True))
    scale = PANEL_PIXELS / max(height_mm, width_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    panel = Image.new("RGB", (size[0] + _LEFT + 24, size[1] + _TOP + _BOTTOM), _BACK)
    panel.paste(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB"), (_LEFT, _TOP))
    pen = ImageDraw.Draw(panel)
    pen.text((_LEFT, 3), title, fill=TEXT)
    voxel = [(n - 1) / 2 for n in geometry.shape]
    voxel[through] = place
    for axis, pixels in ((right, size[0]), (down, size[1])):
        n = geometry.shape[axis.array]
        for index in tick_indices(n, pixels, WORD_PIXELS if axis is right else 2 * LINE_PIXELS):
            along = (n - 1 - index if axis.reversed else index) + 0.5
            at = along * pixels / n
            there = [*voxel]
            there[axis.array] = index
            mm = geometry.voxel_to_mm(there)[2 - axis.patient]
            side = _TOWARDS[axis.patient][int(mm >= 0)]
            lines = ((str(index), TEXT), (f"{side}{abs(mm):.0f}", _MM))
            x, y = (_LEFT + at, _TOP + size[1]) if axis is right else (_LEFT - 1, _TOP + at)
            draw_tick(pen, x, y, lines, is_below=axis is right)
    pen.text((_LEFT + size[0] + 14, _TOP + size[1] + 1), "zyx"[right.array], fill=TEXT)
    pen.text((4, 3), "zyx"[down.array], fill=TEXT)
    return panel

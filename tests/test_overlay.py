"""The picture of a result: what is drawn must be where it is in the volume, measured in the picture's pixels."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gstk.cases.label_names import object_colour
from gstk.cases.overlay import (
    BOTTOM_PIXELS,
    CAPTION_PIXELS,
    GAP_PIXELS,
    LEFT_PIXELS,
    MAX_ROWS,
    MIN_PANEL_PIXELS,
    PANEL_PIXELS,
    RIGHT_PIXELS,
    draw_overlay,
    middle_voxel,
    save_overlay,
)
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.errors import OutputError

GREEN, RED, WHITE = (60, 230, 90), (255, 70, 70), (255, 255, 255)
NOTHING = ObjectPrompts()


def panels(picture: Image.Image, geometry: Geometry, row: int = 0) -> list[np.ndarray]:
    """The three slices of one row, float (height, width, 3), cut out by the spacing and the layout's constants."""
    extent_mm = np.array(geometry.shape) * geometry.spacing_mm
    sizes = []
    for rows, columns in ((1, 2), (0, 2), (0, 1)):
        scale = PANEL_PIXELS / max(extent_mm[rows], extent_mm[columns])
        sizes.append((round(extent_mm[rows] * scale), round(extent_mm[columns] * scale)))
    height = max(h for h, _ in sizes)
    assert min(min(size) for size in sizes) >= 150, "captions and small slices would move the panels"
    top = GAP_PIXELS + CAPTION_PIXELS + row * (height + CAPTION_PIXELS + BOTTOM_PIXELS + GAP_PIXELS)
    pixels, left, found = np.asarray(picture).astype(float), GAP_PIXELS, []
    for h, w in sizes:
        left += LEFT_PIXELS
        found.append(pixels[top : top + h, left : left + w])
        left += w + RIGHT_PIXELS + GAP_PIXELS
    return found


def pixel(geometry: Geometry, panel: np.ndarray, zyx: tuple[float, ...], view: int) -> tuple[int, int]:
    """Where a voxel's centre is in one of the three panels; the last slice of the upright ones is on top."""
    rows, columns = [(1, 2), (0, 2), (0, 1)][view]
    y = (zyx[rows] + 0.5) / geometry.shape[rows] * panel.shape[0]
    x = (zyx[columns] + 0.5) / geometry.shape[columns] * panel.shape[1]
    return round(panel.shape[0] - y if view else y), round(x)


def count(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: float = 0) -> int:
    return int(np.count_nonzero((np.abs(pixels - colour) <= tolerance).all(axis=-1)))


@pytest.fixture
def scene() -> tuple[np.ndarray, Geometry, np.ndarray]:
    geometry = Geometry((20, 50, 40), (4, 1.6, 2))  # 80 mm along each axis
    volume = np.random.default_rng(0).integers(0, 256, geometry.shape).astype(np.uint8)
    mask = np.zeros(geometry.shape, np.uint16)
    mask[4:10, 10:30, 15:35] = 1
    return volume, geometry, mask


def test_size_and_rows(scene) -> None:
    volume, geometry, mask = scene
    said = {3: ObjectPrompts((Point((4, 5, 6)),)), 1: ObjectPrompts((Point((8, 9, 10)),)), 2: NOTHING}
    picture = draw_overlay(volume, geometry, mask, said)
    assert picture.mode == "RGB"
    assert picture.width == 3 * (LEFT_PIXELS + PANEL_PIXELS + RIGHT_PIXELS) + 4 * GAP_PIXELS
    assert picture.height == 2 * (PANEL_PIXELS + CAPTION_PIXELS + BOTTOM_PIXELS) + 3 * GAP_PIXELS
    captions = np.asarray(picture)[GAP_PIXELS : GAP_PIXELS + CAPTION_PIXELS].astype(float)
    assert count(captions, object_colour(1), 100) > 20  # in order of the ids, their edges blend into the ground
    assert count(captions, object_colour(3), 60) == 0


def test_no_more_rows_than_fit(scene) -> None:
    volume, geometry, mask = scene
    said = {k: ObjectPrompts((Point((1, 2, 3)),)) for k in range(1, 20)}
    picture = draw_overlay(volume, geometry, mask, said)
    assert picture.height == MAX_ROWS * (PANEL_PIXELS + CAPTION_PIXELS + BOTTOM_PIXELS + GAP_PIXELS) + GAP_PIXELS


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2), (0, 1, 2)])
def test_the_order_of_storage_does_not_show(scene, order: tuple[int, ...], flipped: tuple[int, ...]) -> None:
    volume, geometry, mask = scene
    zyx, corners = (6, 20, 18), np.array([(4, 10, 15), (9, 29, 34)])
    plain = draw_overlay(volume, geometry, mask, {1: ObjectPrompts((Point(zyx),), Box.from_corners(corners.tolist()))})

    def store(array: np.ndarray) -> np.ndarray:
        return np.flip(array.transpose(order), flipped)

    def place(voxel) -> tuple[int, ...]:
        at = [int(voxel[axis]) for axis in order]
        return tuple(geometry.shape[order[k]] - 1 - v if k in flipped else v for k, v in enumerate(at))

    columns = np.zeros((3, 3))  # x, y, z of the patient against the array axes (0, 1, 2)
    for k, axis in enumerate(order):
        columns[2 - axis, k] = -1 if k in flipped else 1
    stored = Geometry(
        tuple(geometry.shape[axis] for axis in order),
        tuple(geometry.spacing_mm[axis] for axis in order),
        direction=tuple(columns[:, ::-1].ravel()),
    )
    box = Box.from_corners(np.sort([place(c) for c in corners], axis=0).tolist())
    turned = draw_overlay(store(volume), stored, store(mask), {1: ObjectPrompts((Point(place(zyx)),), box)})
    for expected, got in zip(panels(plain, geometry), panels(turned, geometry), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_objects_that_do_not_fit_are_counted(scene) -> None:
    volume, geometry, mask = scene

    def last_caption(objects: int) -> int:
        said = {k: ObjectPrompts((Point((1, 2, 3)),)) for k in range(1, objects + 1)}
        picture = np.asarray(draw_overlay(volume, geometry, mask, said)).astype(float)
        top = GAP_PIXELS + (MAX_ROWS - 1) * (PANEL_PIXELS + CAPTION_PIXELS + BOTTOM_PIXELS + GAP_PIXELS)
        return count(picture[top : top + CAPTION_PIXELS], object_colour(MAX_ROWS), 100)

    assert last_caption(MAX_ROWS + 3) > last_caption(MAX_ROWS) + 20


def test_objects_without_prompts_are_shown_at_their_middle(scene) -> None:
    volume, geometry, mask = scene
    inside = mask == 1
    middle = middle_voxel(inside)
    assert inside[middle]
    np.testing.assert_allclose(middle[1:], (19.5, 24.5), atol=1)
    picture = draw_overlay(np.zeros_like(volume), geometry, mask, {}, {1: middle})
    clicked = draw_overlay(np.zeros_like(volume), geometry, mask, {1: ObjectPrompts((Point(middle),))})
    for shown, beside in zip(panels(picture, geometry), panels(clicked, geometry), strict=True):
        assert count(shown, GREEN) == 0 < count(beside, GREEN)
        assert count(shown, object_colour(1)) == count(beside, object_colour(1)) > 100


def test_nothing_said_is_an_empty_picture(scene) -> None:
    picture = draw_overlay(*scene, {1: NOTHING})
    assert count(np.asarray(picture).astype(float), GREEN) == 0


@pytest.mark.parametrize("zyx", [(6, 20, 20), (0, 3, 39), (19, 49, 2), (13, 1, 1)])
@pytest.mark.parametrize("foreground", [True, False])
def test_a_click_is_where_it_was_made(scene, zyx: tuple[int, int, int], foreground: bool) -> None:
    volume, geometry, mask = scene
    picture = draw_overlay(volume, geometry, mask, {1: ObjectPrompts((Point(zyx, foreground),))})
    colour = GREEN if foreground else RED
    for view, panel in enumerate(panels(picture, geometry)):
        y, x = pixel(geometry, panel, zyx, view)
        dot = panel[max(0, y - 6) : y + 7, max(0, x - 6) : x + 7]
        assert count(dot, colour) > 15
        assert count(panel, colour) == count(dot, colour)  # and nowhere else
        drawn = np.argwhere((panel == colour).all(axis=-1))
        if 6 <= y < panel.shape[0] - 6 and 6 <= x < panel.shape[1] - 6:
            np.testing.assert_allclose((drawn.min(axis=0) + drawn.max(axis=0)) / 2, (y, x), atol=1)


def test_slices_cross_in_the_first_foreground_click(scene) -> None:
    volume, geometry, mask = scene
    points = (Point((2, 30, 5), False), Point((6, 20, 20)), Point((6, 40, 8), False), Point((12, 8, 30)))
    picture = draw_overlay(volume, geometry, mask, {1: ObjectPrompts(points)})
    axial, coronal, sagittal = panels(picture, geometry)
    for panel in (axial, coronal, sagittal):
        assert 15 < count(panel, GREEN) < 110  # the other foreground click is in other slices
    assert count(axial, RED) > 15  # the background click of the same slice
    assert count(coronal, RED) == count(sagittal, RED) == 0


def test_the_mask_is_where_the_object_is(scene) -> None:
    volume, geometry, mask = scene
    black = np.zeros_like(volume)
    picture = draw_overlay(black, geometry, mask, {1: ObjectPrompts((Point((6, 20, 20)),))})
    colour = np.array(object_colour(1))
    for view, panel in enumerate(panels(picture, geometry)):
        rows, columns = [(1, 2), (0, 2), (0, 1)][view]
        seen = np.argwhere(panel.any(axis=-1) & ~(panel == GREEN).all(axis=-1))
        low, high = ((4, 10, 15), (9, 29, 34))
        first, last = pixel(geometry, panel, low, view), pixel(geometry, panel, high, view)
        half = [0.5 * panel.shape[i] / geometry.shape[a] for i, a in enumerate((rows, columns))]
        ends = np.sort([first, last], axis=0)
        np.testing.assert_allclose(seen.min(axis=0), ends[0] - half, atol=1.5)
        np.testing.assert_allclose(seen.max(axis=0), ends[1] + half, atol=1.5)
        assert count(panel, tuple(colour)) > 100  # its rim
        inside = panel[ends[0][0] + 2, ends[0][1] + 2]
        np.testing.assert_allclose(inside, 0.25 * colour, atol=1)


def test_other_objects_are_shown_in_their_own_colours(scene) -> None:
    volume, geometry, mask = scene
    mask[6, 40:48, 20] = 2
    mask[6, 40:48, 2:6] = 7
    picture = draw_overlay(np.zeros_like(volume), geometry, mask, {1: ObjectPrompts((Point((6, 20, 20)),))})
    axial = panels(picture, geometry)[0]
    for object_id, zyx in ((1, (6, 20, 15)), (2, (6, 44, 20)), (7, (6, 44, 2))):
        y, x = pixel(geometry, axial, zyx, 0)
        around = axial[y - 3 : y + 4, max(0, x - 5) : x + 6]
        assert count(around, object_colour(object_id)) > 0


def test_voxels_are_square_in_millimetres(scene) -> None:
    """A ball in millimetres is as wide as it is high, however its voxels are shaped."""
    _, geometry, _ = scene
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)
    centre = (10, 25, 20)
    ball = (((grid - centre) * geometry.spacing_mm) ** 2).sum(axis=-1) <= 26**2
    picture = draw_overlay(
        np.zeros(geometry.shape), geometry, ball.astype(np.uint8), {1: ObjectPrompts((Point(centre),))}
    )
    for panel in panels(picture, geometry):
        seen = np.argwhere(panel.any(axis=-1))
        height, width = np.ptp(seen, axis=0) + 1
        assert height == pytest.approx(width, abs=4 / 80 * PANEL_PIXELS)  # within a voxel
        assert height == pytest.approx(52 / 80 * PANEL_PIXELS, abs=4 / 80 * PANEL_PIXELS)


def test_an_object_with_a_box_only(scene) -> None:
    volume, geometry, mask = scene
    box = Box(4, 9, 6, 15, 10, 34, 29)
    picture = draw_overlay(np.zeros_like(volume), geometry, mask * 0, {1: ObjectPrompts(box=box)})
    low, high = box.corners()
    for view, panel in enumerate(panels(picture, geometry)):
        lines = (panel == WHITE).all(axis=-1)
        seen = np.argwhere(lines)
        rows, columns = [(1, 2), (0, 2), (0, 1)][view]
        half = [0.5 * panel.shape[i] / geometry.shape[a] for i, a in enumerate((rows, columns))]
        ends = np.sort([pixel(geometry, panel, low, view), pixel(geometry, panel, high, view)], axis=0)
        np.testing.assert_allclose(seen.min(axis=0), ends[0] - half, atol=2)
        np.testing.assert_allclose(seen.max(axis=0), ends[1] + half, atol=2)
        (top, left), (bottom, right) = seen.min(axis=0), seen.max(axis=0)
        assert lines[top, left : right + 1].all()
        assert lines[bottom, left : right + 1].all()
        assert lines[top : bottom + 1, [left, right]].all()
        assert not lines[top + 1 : bottom, left + 1 : right].any()


def test_a_box_of_the_whole_volume_is_seen_on_all_sides(scene) -> None:
    volume, geometry, mask = scene
    box = Box(0, 19, 10, 0, 0, 39, 49)
    picture = draw_overlay(volume, geometry, mask, {1: ObjectPrompts(box=box)})
    for panel in panels(picture, geometry):
        for line in (panel[0], panel[-1], panel[:, 0], panel[:, -1]):
            assert (line == WHITE).all()


def test_a_box_is_not_drawn_in_slices_beside_it(scene) -> None:
    volume, geometry, mask = scene
    said = ObjectPrompts((Point((15, 20, 20)),), Box(4, 9, 6, 15, 10, 34, 29))
    axial, coronal, _ = panels(draw_overlay(volume // 2, geometry, mask, {1: said}), geometry)
    assert not (axial[:-1] == WHITE).all(axis=-1).all(axis=1).any()
    assert count(axial, WHITE) < count(coronal, WHITE)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("spacing_mm", [0.3, 5.0])
def test_two_slices(axis: int, spacing_mm: float) -> None:
    shape, spacing = [60, 60, 60], [1.0, 1, 1]
    shape[axis], spacing[axis] = 2, spacing_mm
    geometry = Geometry(shape, spacing)
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(0, min(n, 30)) for n in shape)] = 1
    centre = tuple(min(n - 1, 20) for n in shape)
    box = Box(*(0, shape[0] - 1, 0), 0, 0, shape[2] - 1, shape[1] - 1)
    said = ObjectPrompts((Point(centre), Point(tuple(min(n - 1, 50) for n in shape), False)), box)
    picture = draw_overlay(np.random.default_rng(0).random(shape), geometry, mask, {1: said})
    heights = [[60, 2 * spacing_mm][a == axis] for a in (1, 0, 0)]
    widths = [[60, 2 * spacing_mm][a == axis] for a in (2, 2, 1)]
    sizes = [(h / max(h, w), w / max(h, w)) for h, w in zip(heights, widths, strict=True)]
    panel = max(max(MIN_PANEL_PIXELS, round(h * PANEL_PIXELS)) for h, _ in sizes)
    assert picture.height == 2 * GAP_PIXELS + CAPTION_PIXELS + panel + BOTTOM_PIXELS
    pixels = np.asarray(picture).astype(float)
    assert count(pixels, GREEN) > 45  # a whole dot in each of the three, however thin its slice
    assert count(pixels, object_colour(1)) > 100


def test_captions_do_not_run_into_each_other() -> None:
    """Slices far narrower than their captions: each caption still has its own place."""
    geometry = Geometry((60, 4, 4), (1, 1, 1))
    said = {1: ObjectPrompts((Point((30, 2, 2)),))}
    picture = draw_overlay(np.zeros(geometry.shape), geometry, np.zeros(geometry.shape, np.uint8), said)
    caption = np.asarray(picture)[GAP_PIXELS : GAP_PIXELS + CAPTION_PIXELS].astype(float)
    inked = np.flatnonzero((np.abs(caption - (18, 18, 22)).sum(axis=-1) > 30).any(axis=0))
    gaps = np.sort(np.diff(inked))[::-1]
    assert (gaps[:2] >= GAP_PIXELS).all()  # between three captions
    assert inked[-1] < picture.width - 1


def test_captions_name_objects(scene) -> None:
    volume, geometry, mask = scene
    said = {1: ObjectPrompts((Point((10, 25, 20)),)), 2: ObjectPrompts((Point((10, 5, 5)),))}

    def drawn(names: dict[int, str] | None) -> np.ndarray:
        return np.asarray(draw_overlay(volume, geometry, mask, said, names=names)).astype(float)

    plain, named = drawn(None), drawn({1: "liver"})
    assert plain.shape == named.shape
    rows = np.flatnonzero((plain != named).any(axis=(1, 2)))
    assert GAP_PIXELS <= rows[0] <= rows[-1] < GAP_PIXELS + CAPTION_PIXELS  # the first row's caption alone
    np.testing.assert_array_equal(drawn({1: "", 2: "object 2"}), plain)
    assert drawn({1: "w" * 200}).shape[1] < 2 * plain.shape[1]


def test_every_dtype_and_a_constant_volume() -> None:
    geometry = Geometry((8, 8, 8), (1, 1, 1))
    said = {1: ObjectPrompts((Point((4, 4, 4)),))}
    for volume in (np.full(geometry.shape, 7, np.int16), np.zeros(geometry.shape, bool), np.ones(geometry.shape, "f8")):
        assert draw_overlay(volume, geometry, np.zeros(geometry.shape, np.uint8), said).width > 3 * MIN_PANEL_PIXELS


def test_inputs_are_left_alone(scene) -> None:
    volume, geometry, mask = scene
    before = volume.copy(), mask.copy()
    draw_overlay(volume, geometry, mask, {1: ObjectPrompts((Point((6, 20, 20)),), Box(4, 9, 6, 15, 10, 34, 29))})
    np.testing.assert_array_equal(volume, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_it_is_written_whole(scene, tmp_path: Path) -> None:
    said = {1: ObjectPrompts((Point((6, 20, 20)),))}
    file = tmp_path / "overlay.png"
    file.write_bytes(b"old")
    assert save_overlay(str(file), *scene, said) == file
    assert [p.name for p in tmp_path.iterdir()] == ["overlay.png"]
    with Image.open(file) as written:
        assert written.format == "PNG"
        np.testing.assert_array_equal(np.asarray(written), np.asarray(draw_overlay(*scene, said)))


def test_what_cannot_be_written(scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {1: ObjectPrompts((Point((6, 20, 20)),))}
    with pytest.raises(OutputError, match="cannot write"):
        save_overlay(tmp_path / "missing" / "overlay.png", *scene, said)
    file = tmp_path / "overlay.png"
    file.write_bytes(b"old")

    def full(self: Image.Image, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_overlay(file, *scene, said)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point, list_prompts, parse_prompts, whole_object_id, whole_voxel
from gstk.errors import PromptError

GEOMETRY = Geometry((10, 20, 30), (5, 1, 1))
BOX = {
    "z_min": 1, "z_max": 9, "z_mid": 5,
    "z_mid_x_min": 2, "z_mid_y_min": 3, "z_mid_x_max": 29, "z_mid_y_max": 19,
}  # fmt: skip

voxels = st.tuples(st.integers(0, 9), st.integers(0, 19), st.integers(0, 29))
points = st.lists(st.builds(Point, voxels, st.booleans()), max_size=6).map(tuple)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    low, high = draw(voxels), draw(voxels)
    (z0, z1), (y0, y1), (x0, x1) = (sorted(pair) for pair in zip(low, high, strict=True))
    return Box(z0, z1, draw(st.integers(z0, z1)), x0, y0, x1, y1)


@given(st.lists(st.builds(ObjectPrompts, points, st.none() | boxes()), min_size=1, max_size=4))
def test_round_trip(classes: list[ObjectPrompts]) -> None:
    prompts = dict(enumerate(classes, start=1))
    lists = list_prompts(prompts)
    parsed = parse_prompts(lists.get("boxes", []), lists.get("clicks", []), lists.get("clicks_order", []), GEOMETRY)
    assert parsed == (prompts if lists else {})


def test_box() -> None:
    box = Box.from_dict(BOX)
    assert box.corners() == ((1, 3, 2), (9, 19, 29))
    assert box.to_dict() == BOX
    numpy_numbers = {key: np.float32(value + 0.4) for key, value in BOX.items()}
    assert Box.from_dict(numpy_numbers | {"other": "key"}) == box


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_min": None}, "got None for z_min, expected a whole number"),
        ({"z_min": "3"}, "got '3' for z_min"),
        ({"z_min": True}, "got True for z_min"),
        ({"z_min": float("nan")}, "got nan for z_min"),
        ({"z_min": 10**400}, "expected a whole number"),
        ({"z_max": 0}, "expected min <= max"),
        ({"z_mid": 0}, "with z_mid 0"),
        ({"z_mid_x_min": 30}, "expected min <= max"),
        ({"z_max": 10}, "expected it inside"),
        ({"z_mid_y_min": -1}, "expected it inside"),
        ({"z_mid_x_max": 30}, "expected it inside"),
    ],
)
def test_wrong_boxes(change: dict[str, object], message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        parse_prompts([None, BOX | change], [], [], GEOMETRY)
    assert "class 2 in the volume (10, 20, 30)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_box_with_a_number_missing() -> None:
    with pytest.raises(PromptError, match="got a box without z_min, z_mid, expected the numbers z_min, z_max"):
        Box.from_dict({key: value for key, value in BOX.items() if key not in ("z_min", "z_mid")})
    with pytest.raises(PromptError, match="got 7 as the box of class 1"):
        parse_prompts([7], [], [], GEOMETRY)


def test_click_order() -> None:
    clicks = [{"fg": [[1, 1, 1], [2, 2, 2]], "bg": [[3, 3, 3]]}]
    first, second, third = Point((1, 1, 1)), Point((2, 2, 2)), Point((3, 3, 3), False)
    assert parse_prompts([], clicks, [], GEOMETRY)[1].points == (first, second, third)
    for order in (["fg", "bg", "fg"], ("fg", "bg", "fg"), ["fg", None, "bg", "fg"], np.array(["fg", "bg", "fg"])):
        assert parse_prompts([], clicks, [order], GEOMETRY)[1].points == (first, third, second)


def test_lists_of_different_lengths_and_missing_kinds() -> None:
    prompts = parse_prompts([BOX], [{"fg": []}, {"bg": np.array([[0, 0, 0]])}, {}], [], GEOMETRY)
    assert prompts == {
        1: ObjectPrompts(box=Box.from_dict(BOX)),
        2: ObjectPrompts((Point((0, 0, 0), False),)),
        3: ObjectPrompts(),
    }
    assert parse_prompts([BOX, BOX], [], [["fg"]], GEOMETRY)[2].points == ()


def test_fractions_are_rounded_halves_up() -> None:
    clicks = [{"fg": [[0.5, 1.4, 28.5], np.array([-0.5, 2.5, 3.5]), (np.int64(1), np.float32(2), 3)], "bg": []}]
    got = [point.zyx for point in parse_prompts([], clicks, [], GEOMETRY)[1].points]
    assert got == [(1, 1, 29), (0, 3, 4), (1, 2, 3)]
    assert all(type(n) is int for zyx in got for n in zyx)


@pytest.mark.parametrize(
    ("entry", "order", "message"),
    [
        (None, None, "got None as the clicks of class 1"),
        ({"fg": 7}, None, "got 7 as the 'fg' clicks"),
        ({"fg": np.array(7)}, None, "as the 'fg' clicks"),
        ({"fg": [[1, 2]]}, None, r"got the click \[1, 2\] for class 1 .* expected three numbers"),
        ({"fg": [[1, 2, "3"]]}, None, "expected three numbers"),
        ({"fg": [[1, 2, True]]}, None, "expected three numbers"),
        ({"fg": [[1, 2, 10**400]]}, None, "expected three numbers"),
        ({"fg": [7]}, None, "expected three numbers"),
        ({"bg": [[10, 0, 0]]}, None, r"got the click \(z, y, x\) \(10, 0, 0\) for class 1 .* expected it inside"),
        ({"bg": [[0, 0, -1]]}, None, "expected it inside"),
        ({"bg": [[0, 0, float("nan")]]}, None, "expected it inside"),
        ({"fg": [[1, 2, 3]]}, [], r"got the clicks_order \[\] for class 1 .*, expected 1 'fg' and 0 'bg'"),
        ({"fg": [[1, 2, 3]]}, ["bg"], "expected 1 'fg' and 0 'bg'"),
        ({"fg": [[1, 2, 3]]}, ["fg", "?"], "expected 1 'fg' and 0 'bg'"),
        ({"fg": [[1, 2, 3]]}, "fg", "expected 1 'fg' and 0 'bg'"),
    ],
)
def test_wrong_clicks(entry: object, order: object, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        parse_prompts([], [entry], [] if order is None else [order], GEOMETRY)
    assert "class 1 in the volume (10, 20, 30)" in str(caught.value)


def test_wrong_number_of_orders() -> None:
    with pytest.raises(PromptError, match="got clicks_order for 1 classes, expected it for the 2 of 'clicks'"):
        parse_prompts([], [{}, {}], [[]], GEOMETRY)


def test_messages_stay_short() -> None:
    wide: object = "x" * 1000
    for _ in range(10):
        wide = [wide] * 1000
    with pytest.raises(PromptError) as caught:
        parse_prompts([], [{"fg": [wide]}], [], GEOMETRY)
    assert len(str(caught.value)) < 300


@given(st.lists(st.sampled_from([10.0, 10.4, 10.5, 10.6, 11.5, 12.5]), min_size=3, max_size=3))
def test_one_rule_rounds_every_prompt(zyx: list[float]) -> None:
    geometry = Geometry((20, 20, 20), (1, 1, 1))
    voxel = whole_voxel(zyx)
    assert voxel == geometry.nearest_voxel(zyx) == tuple(int(v + 0.5) for v in zyx)
    assert parse_prompts([], [{"fg": [zyx]}], [], geometry)[1].points[0].zyx == voxel
    assert Box.from_corners((zyx, zyx)).corners() == (voxel, voxel)


@pytest.mark.parametrize("zyx", [(float("nan"), 1, 1), (1, float("inf"), 1), (1, 2), "abc", None, (1, 2, "3"), 5])
def test_wrong_voxels(zyx: object) -> None:
    with pytest.raises(PromptError, match=r"got the click .*, expected three finite numbers \(z, y, x\)$"):
        whole_voxel(zyx)  # type: ignore[arg-type]


def test_object_ids_are_whole() -> None:
    for value in (7, 7.0, np.int64(7), np.float32(7)):
        got = whole_object_id(value)
        assert (got, type(got)) == (7, int)
    for wrong in (1.5, 0, -1, 65536, "1", None, True, float("nan"), float("inf"), [1]):
        with pytest.raises(PromptError, match=r"got object id .*, expected a whole number from 1 to 65535$"):
            whole_object_id(wrong)

"""Clicks and boxes as they are written on the command line."""

from __future__ import annotations

import pytest

from gstk.batch.placed_points import PlacedPoint
from gstk.cli.prompt_options import parse_point_option, read_names, read_places
from gstk.errors import PromptError


@pytest.mark.parametrize(
    ("text", "numbers", "expected"),
    [
        ("1,2,3", 3, (1, (1.0, 2.0, 3.0))),
        ("4:1,2.6,3", 3, (4, (1.0, 2.6, 3.0))),
        ("2:0,1,2,3,4,5", 6, (2, (0.0, 1.0, 2.0, 3.0, 4.0, 5.0))),
    ],
)
def test_points_and_boxes_are_read(text: str, numbers: int, expected: tuple[int, tuple[float, ...]]) -> None:
    assert parse_point_option(text, numbers) == expected


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "a,b,c", "0:1,2,3", "-1:1,2,3", "1:2:3,4,5", "x:1,2,3"])
def test_points_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PromptError, match="expected"):
        parse_point_option(text)


def test_places_on_the_command_line_are_ras_unless_said_otherwise() -> None:
    assert read_places(["10,20,30"], ["2:1,2,3"], lps=False) == {
        1: [PlacedPoint((-10, -20, 30), True)],
        2: [PlacedPoint((-1, -2, 3), False)],
    }
    assert read_places(["10,20,30"], [], lps=True) == {1: [PlacedPoint((10, 20, 30), True)]}
    for text in ("1,2", "nan,1,2", "a,b,c"):
        with pytest.raises(PromptError, match="got"):
            read_places([text], [], lps=False)


def test_names_of_objects_are_read() -> None:
    assert read_names(["liver", "2: left kidney ", "12:T1:lesion"]) == {1: "liver", 2: "left kidney", 12: "T1:lesion"}
    assert read_names(["node:left"]) == {1: "node:left"}  # what is before the colon is no number
    for text in ("3:", " ", "0:a"):
        with pytest.raises(PromptError, match="got"):
            read_names([text])
    with pytest.raises(PromptError, match="two names for object 1"):
        read_names(["a", "1:b"])

"""Texts of other libraries, as they come: coloured, long, of several lines, empty."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.core.foreign_text import reason_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n  \x1b[31mWeights only\x1b[0m load failed.\nmore", "Weights only load failed."),
        ("a\tb\rc\x00d", "a b c d"),
        ("\x1b]0;title\x07said", "said"),
        ("", "ValueError"),
        ("one two three four", "one two ..."),
    ],
)
def test_first_line(text: str, expected: str) -> None:
    assert reason_of(ValueError(text), 15 if text.startswith("one") else 300) == expected


@given(st.text() | st.text(alphabet="\x1b[]m0;a \n", max_size=40), st.integers(10, 60))
def test_any_text_is_one_printable_line_that_is_not_too_long(text: str, length: int) -> None:
    reason = reason_of(text, length)
    assert len(reason) <= length
    assert "\n" not in reason
    assert "\x1b" not in reason

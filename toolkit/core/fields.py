"""Reads parsed JSON or TOML field by field: each value is checked, and an error names the field and its remedy.

msgspec was tried in its place, for the input profiles: as many lines, and its errors say neither the value that was got
nor the ones that are allowed ("Invalid enum value 'yzx'").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gstk.errors import GstkError

__all__ = ["Fields", "FieldsSource"]


@dataclass(frozen=True)
class FieldsSource:
    """What error messages say about a file.

    Attributes:
        name: of the file or document, as in "the manifest".
        remedy: what to do about a wrong field.
        error: class of the errors.
    """

    name: str
    remedy: str
    error: Callable[[str], GstkError]


class Fields:
    """One object of a document and its place in it.

    Attributes:
        values: the parsed object.
    """

    def __init__(self, values: object, source: FieldsSource, place: str = "") -> None:
        """Takes a parsed value.

        Raises:
            GstkError: of the source's class, where it is no object.
        """
        if not isinstance(values, dict):
            raise source.error(f"got {place or source.name} = {_shorten(values)}, expected an object; {source.remedy}")
        self.values: dict[str, Any] = values
        self.source = source
        self._place = place

    def wrong(self, key: str, expected: str) -> GstkError:
        """An error about a field."""
        got = _shorten(self.values[key]) if key in self.values else "nothing"
        return self.source.error(
            f"got {got} for {self._name(key)} in {self.source.name}, expected {expected}; {self.source.remedy}"
        )

    def only(self, *known: str) -> None:
        """Refuses fields of other names, which would be ignored silently otherwise."""
        unknown = sorted(set(self.values) - set(known))
        if unknown:
            raise self.source.error(
                f"got the field {self._name(unknown[0])} in {self.source.name}, expected {', '.join(known)}; "
                f"{self.source.remedy}"
            )

    def sub(self, key: str) -> Fields:
        """The object under a key."""
        if key not in self.values:
            raise self.wrong(key, "an object")
        return Fields(self.values[key], self.source, self._name(key))

    def text(self, key: str) -> str:
        """A string that is not empty."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "a string")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of some strings."""
        value = self.values.get(key)
        if value not in choices:
            raise self.wrong(key, f"one of {', '.join(choices)}")
        return str(value)

    def integer(self, key: str, *, minimum: int) -> int:
        """An integer of at least the minimum."""
        value = self.values.get(key)
        if not _is_integer(value, minimum):
            raise self.wrong(key, f"an integer of {minimum} or more")
        return int(value)  # type: ignore[arg-type]

    def number(self, key: str, low: float, high: float) -> float:
        """A number from `low`, inside, to `high`, outside."""
        value = self.values.get(key)
        if not _is_number(value) or not low <= value < high:  # type: ignore[operator]
            raise self.wrong(key, f"a number from {low:g} to below {high:g}")
        return float(value)  # type: ignore[arg-type]

    def flag(self, key: str, *, absent: bool | None = None) -> bool:
        """True or false."""
        value = self.values.get(key, absent)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def integers(self, key: str, *, minimum: int) -> tuple[int, ...]:
        """A list of integers of at least the minimum."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(_is_integer(v, minimum) for v in value):
            raise self.wrong(key, f"a list of integers of {minimum} or more")
        return tuple(value)

    def rising_pair(self, key: str) -> tuple[float, float]:
        """Two finite numbers, the second above the first."""
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)) or value[0] >= value[1]:
            raise self.wrong(key, "two rising numbers")
        return value[0], value[1]

    def ids(self, key: str) -> dict[int, str]:
        """The object under a key whose own keys are ids: id → its key."""
        ids = {}
        for text in self.sub(key).values:
            if not text.isdecimal() or len(text) > 5 or str(int(text)) != text or not 1 <= int(text) <= 65535:
                raise self.sub(key).wrong(text, "class ids from 1 to 65535, which label maps hold, as keys")
            ids[int(text)] = text
        return ids

    def _name(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key


def _is_integer(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

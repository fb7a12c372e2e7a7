"""A backend's own settings: a frozen dataclass each, read from text or values."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from gstk.errors import EngineError

__all__ = ["NoOptions", "accepted", "option", "parse_assignments", "read_options", "show_value"]

T = TypeVar("T")
_BOOLS = {"on": True, "true": True, "1": True, "yes": True, "off": False, "false": False, "0": False, "no": False}


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """A backend without settings of its own."""


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of an options dataclass: bool, int, str, Path or a tuple of ints, or one of these or None.

    Args:
        default: its value where the user gives none.
        help: what it does, in a line.
        choices: the words that a text may be.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def read_options(kind: type[T], values: Mapping[str, object], backend: str) -> T:
    """Settings from values, or from text as a command line has it.

    Text: `on` and `off` for bool, `128,128,96` or `128` (which stands for three) for a tuple, `none` for None.

    Args:
        kind: the backend's dataclass.
        values: by name.
        backend: its name, for the message.

    Raises:
        EngineError: an option that the backend does not have, or a value that is none of its kind.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            has = ", ".join(fields) or "none"
            raise EngineError(f"got option {name!r}, but the options of the {backend} engine are: {has}")
    read = {
        name: _read(name, value, hints[name], fields[name].metadata.get("choices", ()))
        for name, value in values.items()
    }
    return kind(**read)


def accepted(hint: Any, choices: tuple[str, ...] = ()) -> str:
    """What values an option takes, in words."""
    return " or ".join(choices) if choices else _EXPECTED[_kind(hint)]


def show_value(value: object) -> str:
    """A value as `read_options` takes it in text."""
    if value is None:
        return "-"
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def parse_assignments(texts: list[str]) -> dict[str, str]:
    """`name=value` texts of a command line as a mapping.

    Raises:
        EngineError: a text without `=`, or a name twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (equals and name):
            raise EngineError(f"got engine option {text!r}, expected name=value")
        if name in found:
            raise EngineError(f"got engine option {name!r} twice, expected it once")
        found[name] = value.strip()
    return found


def _read(name: str, value: object, hint: Any, choices: tuple[str, ...]) -> Any:
    optional = isinstance(hint, types.UnionType)
    if optional and (value is None or value == "none"):
        return None
    try:
        if choices and value not in choices:
            raise ValueError
        return _READERS[_kind(hint)](value)
    except (ValueError, TypeError, KeyError):
        raise EngineError(f"got {name}={value}, expected {accepted(hint, choices)}") from None


def _kind(hint: Any) -> Any:
    """The type behind `X | None` or `tuple[...]`."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(k for k in kinds if k is not type(None))
    return typing.get_origin(kind) or kind


def _read_bool(value: object) -> bool:
    return value if isinstance(value, bool) else _BOOLS[str(value).lower()]


def _read_int(value: object) -> int:
    if isinstance(value, bool | float):
        raise ValueError
    found = int(str(value))
    if found < 1:
        raise ValueError
    return found


def _read_sides(value: object) -> tuple[int, ...]:
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else list(value)  # type: ignore[call-overload]
    sides = tuple(_read_int(part) for part in parts)
    if len(sides) not in (1, 3):
        raise ValueError
    return sides * (3 // len(sides))


def _read_path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError
    return Path(value).expanduser()


_READERS: dict[Any, Any] = {bool: _read_bool, int: _read_int, tuple: _read_sides, Path: _read_path, str: str}
_EXPECTED: dict[Any, str] = {
    bool: "on or off",
    int: "a whole number, 1 or more",
    tuple: "one or three sides in voxels, such as 128,128,96",
    Path: "a folder",
    str: "text",
}

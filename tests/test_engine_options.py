"""Settings of backends: read from text and values, refused by name where they are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_runs import Run

from gstk.engines import describe_options
from gstk.engines.options import NoOptions, option, parse_assignments, read_options
from gstk.errors import EngineError


@dataclass(frozen=True)
class Settings:
    fast: bool = option(False, "be fast")
    pinned: bool | None = option(None, "stay")
    megabytes: int | None = option(None, "no more")
    kind: str = option("a", "which", ("a", "b"))
    roi: tuple[int, ...] | None = option(None, "a region")
    folder: Path | None = option(None, "a place")


def test_nothing_said_is_the_default() -> None:
    assert read_options(Settings, {}, "x") == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fast", "on", True),
        ("fast", "False", False),
        ("fast", True, True),
        ("pinned", "none", None),
        ("pinned", "off", False),
        ("megabytes", "512", 512),
        ("megabytes", None, None),
        ("kind", "b", "b"),
        ("roi", "64", (64, 64, 64)),
        ("roi", "64, 32,16", (64, 32, 16)),
        ("roi", (64, 32, 16), (64, 32, 16)),
        ("roi", 48, (48, 48, 48)),
        ("folder", "/tmp/x", Path("/tmp/x")),
    ],
)
def test_values_and_texts(name: str, value: object, expected: object) -> None:
    assert getattr(read_options(Settings, {name: value}, "x"), name) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fast", "maybe", "got fast=maybe, expected on or off"),
        ("fast", None, "got fast=None, expected on or off"),
        ("megabytes", "0", "got megabytes=0, expected a whole number, 1 or more"),
        ("megabytes", 1.5, "got megabytes=1.5"),
        ("megabytes", True, "got megabytes=True"),
        ("kind", "c", "got kind=c, expected a or b"),
        ("roi", "64,32", "got roi=64,32, expected one or three sides"),
        ("roi", "-64", "got roi=-64"),
        ("folder", "", "got folder=, expected a folder"),
        ("slow", "on", "got option 'slow', but the options of the x engine are: fast, pinned"),
    ],
)
def test_wrong_values_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        read_options(Settings, {name: value}, "x")


def test_a_backend_without_settings_says_so() -> None:
    with pytest.raises(EngineError, match="options of the x engine are: none"):
        read_options(NoOptions, {"fast": "on"}, "x")


def test_assignments() -> None:
    assert parse_assignments(["conv-search=default", " a = b=c "]) == {"conv_search": "default", "a": "b=c"}
    for texts, message in ((["a"], "expected name=value"), (["=b"], "expected name=value"), (["a=1", "a=2"], "twice")):
        with pytest.raises(EngineError, match=message):
            parse_assignments(texts)


def test_every_setting_is_described(run: Run) -> None:
    rows = describe_options()
    assert ("openvino", "core_type", "any", "any or performance or efficiency") in [row[:4] for row in rows]
    assert ("torch", "compile", "off", "on or off") in [row[:4] for row in rows]
    assert all(row[4] for row in rows)
    outcome = run("engines", "--options")
    assert outcome.code == 0
    assert all(row[1][:10] in outcome.out for row in rows)

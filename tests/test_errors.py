"""Messages of errors and warnings: one line that any terminal prints, whatever they quote."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path

import pytest

from gstk.cases.npz import CaseWarning
from gstk.core.manifest import Manifest
from gstk.errors import BundleError, CaseError, GeometryError, GstkError

TINY = Path(__file__).resolve().parents[1] / "toolkit" / "bundles" / "tiny" / "manifest.json"


@pytest.mark.parametrize("kind", [CaseError, GeometryError, BundleError])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("got 'a b', expected é", "got 'a b', expected é"),
        ("two\nlines\tand\x1b[31m red", "two lines and?[31m red"),
        ("\x7f\x9b2J", "??2J"),
        ("name\udcff.nii", "name?.nii"),
    ],
)
def test_a_message_is_one_line_that_can_be_printed(kind: type[GstkError], text: str, shown: str) -> None:
    assert str(kind(text)) == shown
    assert str(pickle.loads(pickle.dumps(kind(text)))) == shown  # noqa: S301
    shown.encode("utf-8")


def test_what_a_manifest_says_does_not_reach_a_terminal_as_it_is() -> None:
    values = json.loads(TINY.read_text(encoding="utf-8"))
    values["profile"]["resolution\x1b[2J\n"] = values["profile"].pop("resolution")
    with pytest.raises(BundleError) as raised:
        Manifest.from_json(values)
    assert str(raised.value).isprintable()


def test_warnings_are_one_line_too() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warnings.warn("a series \x1b]0;title\x07\nof slices", CaseWarning, stacklevel=1)
    assert str(said[0].message) == "a series ?]0;title? of slices"

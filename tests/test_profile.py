"""Input profiles: the published facts about each set of weights, and a TOML file of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gstk.cli.inspect import _list_classes
from gstk.core.fields import Fields, FieldsSource
from gstk.core.profile import InputProfile, builtin_profiles, find_profile
from gstk.errors import ProfileError, PromptError

SOURCE = FieldsSource("the test", "mend it", ProfileError)


@pytest.mark.parametrize("name", ["challenge", "nv-segment-ct", "nv-segment-ctmr", "tiny"])
def test_builtin_profile_survives_json(name: str) -> None:
    profile = find_profile(name)
    assert profile.name == name
    assert InputProfile.from_fields(Fields(json.loads(json.dumps(profile.to_json())), SOURCE)) == profile
    assert dict(profile.lines())["profile"].startswith(name)


def test_nv_segment_ct_is_what_its_configuration_says() -> None:
    """configs/inference.json of NV-Segment-CT 0.6.0."""
    profile = find_profile("nv-segment-ct")
    assert profile.intensities.range == (-963.8247715525971, 1053.678477684517)
    assert (profile.orientation, profile.axis_order, profile.spacing_mm, profile.crop_margin) == ("RAS", "xyz", 1.5, 10)
    assert profile.branches == ("points", "classes")
    everything = {*range(1, 133)} - {2, 16, 18, 20, 21, 23, 24, 25, 26, 27, 128, 129, 130, 131, 132}
    assert set(profile.classes.expand(["everything"])) == everything
    assert profile.classes.expand(["kidney"]) == (14, 5)
    assert profile.classes.expand(["Lung"]) == profile.classes.expand([20]) == (28, 29, 30, 31, 32)
    assert set(profile.classes.expand(["bone"])) == {*range(33, 57), *range(63, 98), 114, 120, 122}
    assert profile.classes.special == (23, 24, 25, 26, 27, 57, 128)


def test_weights_without_classes_say_so() -> None:
    with pytest.raises(PromptError, match="without classes"):
        find_profile("tiny").classes.expand(["liver"])


def test_classes_are_expanded_once_and_in_order() -> None:
    table = find_profile("nv-segment-ct").classes
    assert table.expand(["spleen", "3", 14, "kidney"]) == (3, 14, 5)
    assert table.name_of(3) == "spleen"
    assert table.name_of(500) == "class 500"


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        (["livr"], "got the class 'livr'.*near names: liver"),
        (["hepatic"], "near names: .*hepatic vessel"),
        ([16], "no trained weights"),
        ([500], "expected one of 127 names"),
        ([], "got no class"),
    ],
)
def test_wrong_class_names_near_ones(prompts: list[str | int], match: str) -> None:
    with pytest.raises(PromptError, match=match):
        find_profile("nv-segment-ct").classes.expand(prompts)


def test_unknown_profile_lists_all() -> None:
    with pytest.raises(ProfileError, match=r"got the profile 'vista'.*challenge \(.*nv-segment-ctmr \(.*tiny \("):
        find_profile("vista")


OWN = """
name = "mine"
summary = "MR at 2 mm"
[intensities]
source = "file"
percentiles = [0.5, 99.5]
scope = "foreground"
[axes]
orientation = "RAS"
order = "zyx"
[resolution]
spacing_mm = 2
crop_margin = 0
projection = "linear"
[windows]
patch = [96, 96, 64]
overlap = 0.5
padding = "zero"
[prompts]
branches = ["points"]
[classes]
untrained = []
special = []
last_supported = 132
[classes.names]
[classes.groups]
[classes.sets]
"""


def test_toml_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(OWN)
    profile = find_profile(tmp_path / "mine.toml")
    assert (profile.spacing_mm, profile.crop_margin, profile.patch) == (2.0, 0, (96, 96, 64))
    assert profile.intensities.percentiles == (0.5, 99.5)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('order = "zyx"', 'order = "yxz"', "axes.order .*one of zyx, xyz"),
        ("crop_margin = 0", "", "crop_margin .*since percentiles are of the foreground"),
        ("spacing_mm = 2", 'spacing_mm = "native"', "none without a spacing in mm"),
        ("spacing_mm = 2", "spacing_mm = -2", "a number from 0.05"),
        ("spacing_mm = 2", 'spacing_mm = "nativ"', "native, session, or mm"),
        ("patch = [96, 96, 64]", "patch = [96]", "three sides"),
        ('branches = ["points"]', 'branches = ["text"]', "one or more of points, classes"),
        ('branches = ["points"]', 'branches = ["classes"]', "names, since the branch"),
        ("percentiles", "range = [0, 1]\npercentiles", "either a range or percentiles"),
        ("overlap = 0.5", "overlap = 0.5\nblend = 1", "got the field windows.blend"),
        ("[classes.sets]", "[classes.sets]\nall = [7]", "trained classes that `names` has"),
        ("[classes.names]", "[classes.names]\n65536 = 'spleen'", "class ids from 1 to 65535, which label maps hold"),
        ('name = "mine"', "name = ", "is not TOML"),
    ],
)
def test_wrong_toml_is_named(tmp_path: Path, old: str, new: str, match: str) -> None:
    assert OWN.count(old)
    (tmp_path / "mine.toml").write_text(OWN.replace(old, new, 1))
    with pytest.raises(ProfileError, match=match) as caught:
        find_profile(tmp_path / "mine.toml")
    assert "\n" not in str(caught.value)


def test_every_builtin_profile_says_whose_it_is() -> None:
    profiles: dict[str, Any] = builtin_profiles()
    assert all(profile.summary for profile in profiles.values())
    assert all(profile.licence for name, profile in profiles.items() if name != "tiny")


def test_inspect_lists_classes(capsys: pytest.CaptureFixture[str]) -> None:
    _list_classes(find_profile("nv-segment-ct"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  1  liver"
    assert "  2  kidney  stands for left kidney, right kidney" in lines
    assert lines[-1] == "everything: 117 classes"
    with pytest.raises(ProfileError, match="has no class prompts"):
        _list_classes(find_profile("tiny"))

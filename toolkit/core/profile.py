"""Input profiles: what a network's input is, and which prompts it was trained on.

All published VISTA3D weights are one architecture, and differ in intensities, axes and resolution of their input.
Nothing in the weights tells them apart, and a mask that is made with another profile is wrong without an error. So a
bundle carries its profile, and whatever makes masks with it prepares volumes by that alone.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from gstk.core.class_table import ClassTable
from gstk.core.fields import Fields, FieldsSource
from gstk.errors import ProfileError

__all__ = [
    "BRANCHES",
    "InputProfile",
    "Intensities",
    "builtin_profiles",
    "find_profile",
    "list_profiles",
    "profile_of_schema_1",
]

BRANCHES = ("points", "classes")
_SOURCES = ("case", "hounsfield", "file")
_SCOPES = ("volume", "foreground")
_ORIENTATIONS = ("stored", "RAS")
_ORDERS = ("zyx", "xyz")
_PROJECTIONS = ("linear", "nearest")
_PADDINGS = ("zero", "replicate")
_FIELDS = ("name", "summary", "licence", "intensities", "axes", "resolution", "windows", "prompts", "classes")


@dataclass(frozen=True)
class Intensities:
    """How intensities become 0 to 1; beyond both ends they are clipped.

    Attributes:
        source: what the values are: `case`, 0 to 255 as in the challenge's cases, where a file with other values is
            first brought as the paper did (`gstk.core.intensities`); `hounsfield`; or `file`, whatever units it has.
        range: the values that become 0 and 1; None takes them from the percentiles.
        percentiles: the percentiles that become 0 and 1, where there is no range.
        scope: over which voxels percentiles are taken: the whole `volume` as it is stored, or the `foreground`, which
            is the resampled volume after its crop.
    """

    source: str = "case"
    range: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (1, 99)
    scope: str = "volume"


@dataclass(frozen=True)
class InputProfile:
    """What a network's input is.

    Attributes:
        name: of the profile.
        summary: one sentence that helps a user to choose.
        licence: of the weights that are published for it; empty where it stands for no published weights.
        intensities: see `Intensities`.
        orientation: `stored`, the axes as the file has them, or `RAS`, flipped and permuted so that indices rise to the
            patient's right, front and head.
        axis_order: order of the network image's axes: `zyx` or `xyz`.
        spacing_mm: side of the network's voxels in mm; `native` takes the volume's own; `session` is isotropic and as
            the object needs it.
        crop_margin: voxels of the resampled volume around the box of its voxels above 0, outside which nothing is
            segmented; None does not crop.
        patch: sides of the training window in voxels, in the network's axes.
        overlap: share of a patch that neighbouring windows of class prompts have in common, along each axis.
        padding: what lies beyond the volume in windows of class prompts: `zero`, or `replicate`, the nearest voxel.
        projection: how masks come back to the volume's grid: `linear` interpolation of logits, or `nearest`.
        branches: what was trained: `points`, `classes`, or both.
        classes: see `ClassTable`.
    """

    name: str
    summary: str
    licence: str = ""
    intensities: Intensities = field(default_factory=Intensities)
    orientation: str = "stored"
    axis_order: str = "zyx"
    spacing_mm: float | str = "session"
    crop_margin: int | None = None
    patch: tuple[int, int, int] = (128, 128, 128)
    overlap: float = 0.25
    padding: str = "zero"
    projection: str = "linear"
    branches: tuple[str, ...] = ("points",)
    classes: ClassTable = field(default_factory=ClassTable)

    def has_input_of(self, other: InputProfile) -> bool:
        """Whether both profiles prepare images alike: intensities, axes, resolution and crop."""
        kept = ("intensities", "orientation", "axis_order", "spacing_mm", "crop_margin")
        return all(getattr(self, name) == getattr(other, name) for name in kept)

    @property
    def tells_novel_objects(self) -> bool:
        """Whether clicks may say that an object is of no trained class: its network knows classes, and takes clicks."""
        return set(BRANCHES) <= set(self.branches)

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON-ready values, in the layout of its TOML files."""
        given = self.intensities
        ends = {"range": list(given.range)} if given.range else {"percentiles": list(given.percentiles)}
        return {
            "name": self.name,
            "summary": self.summary,
            "licence": self.licence,
            "intensities": {"source": given.source, **ends, "scope": given.scope},
            "axes": {"orientation": self.orientation, "order": self.axis_order},
            "resolution": {
                "spacing_mm": self.spacing_mm,
                **({} if self.crop_margin is None else {"crop_margin": self.crop_margin}),
                "projection": self.projection,
            },
            "windows": {"patch": list(self.patch), "overlap": self.overlap, "padding": self.padding},
            "prompts": {"branches": list(self.branches)},
            "classes": self.classes.to_json(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> InputProfile:
        """The profile from parsed JSON or TOML. Fields that it does not know are an error: they would be ignored.

        Raises:
            GstkError: of the fields' source: a field is unknown, missing, wrong, or does not go with another.
        """
        fields.only(*_FIELDS)
        axes, resolution, windows = fields.sub("axes"), fields.sub("resolution"), fields.sub("windows")
        axes.only("orientation", "order")
        resolution.only("spacing_mm", "crop_margin", "projection")
        windows.only("patch", "overlap", "padding")
        spacing = resolution.values.get("spacing_mm")
        if isinstance(spacing, str) and spacing not in ("native", "session"):
            raise resolution.wrong("spacing_mm", "native, session, or mm from 0.05 to below 100")
        if not isinstance(spacing, str):
            spacing = resolution.number("spacing_mm", 0.05, 100)
        margin = resolution.integer("crop_margin", minimum=0) if "crop_margin" in resolution.values else None
        intensities = _intensities(fields.sub("intensities"))
        if intensities.scope == "foreground" and margin is None:
            raise resolution.wrong("crop_margin", "one, since percentiles are of the foreground")
        if margin is not None and isinstance(spacing, str):
            raise resolution.wrong("crop_margin", "none without a spacing in mm: its voxels are those of that spacing")
        patch = windows.integers("patch", minimum=1)
        if len(patch) != 3:
            raise windows.wrong("patch", "three sides in voxels, in the network's axes")
        prompts = fields.sub("prompts")
        prompts.only("branches")
        branches = prompts.values.get("branches")
        if not isinstance(branches, list) or not branches or any(branch not in BRANCHES for branch in branches):
            raise prompts.wrong("branches", f"one or more of {', '.join(BRANCHES)}")
        classes = ClassTable.from_fields(fields.sub("classes"))
        if "classes" in branches and not classes.names:
            raise fields.sub("classes").wrong("names", "names, since the branch `classes` is trained")
        if "classes" in branches and spacing == "session":
            raise resolution.wrong("spacing_mm", "native or mm, since class prompts need windows of one resolution")
        return cls(
            name=fields.text("name"),
            summary=fields.text("summary"),
            licence=fields.text("licence") if fields.values.get("licence", "") != "" else "",
            intensities=intensities,
            orientation=axes.choice("orientation", _ORIENTATIONS),
            axis_order=axes.choice("order", _ORDERS),
            spacing_mm=spacing,
            crop_margin=margin,
            patch=(patch[0], patch[1], patch[2]),
            overlap=windows.number("overlap", 0, 0.9),
            padding=windows.choice("padding", _PADDINGS),
            projection=resolution.choice("projection", _PROJECTIONS),
            branches=tuple(branches),
            classes=classes,
        )

    def lines(self) -> list[tuple[str, str]]:
        """The profile as pairs of label and text, for `gstk inspect`."""
        given, table = self.intensities, self.classes
        units = {"case": "0 to 255 as in the challenge's cases", "hounsfield": "HU", "file": "the file's units"}
        ends = f"{given.range[0]:g} to {given.range[1]:g}" if given.range else ""
        low, high = given.percentiles
        of_what = "whole volume" if given.scope == "volume" else "resampled and cropped volume"
        ends = ends or f"percentiles {low:g} and {high:g} of the {of_what}"
        spacing = (
            f"{self.spacing_mm:g} mm"
            if isinstance(self.spacing_mm, float)
            else {"native": "the volume's own voxels", "session": "isotropic, as fine as the object allows"}[
                self.spacing_mm
            ]
        )
        crop = "" if self.crop_margin is None else f", cropped to voxels above 0 and {self.crop_margin} around"
        prompts = {"points": "points and boxes", "classes": f"{len(table.names)} classes by name"}
        return [
            ("profile", f"{self.name}: {self.summary}"),
            ("intensities", f"{units[given.source]}, {ends} to 0 and 1, clipped"),
            ("axes", f"{self.orientation}, order ({', '.join(self.axis_order)})"),
            ("resolution", f"{spacing}{crop}"),
            ("patch", f"{'×'.join(map(str, self.patch))} voxels"),
            ("prompts", ", ".join(prompts[branch] for branch in self.branches)),
        ]


def builtin_profiles() -> dict[str, InputProfile]:
    """The profiles that ship with gstk, by name."""
    shelf = Path(str(resources.files("gstk"))) / "core" / "profiles"
    return {file.stem: _load(file) for file in sorted(shelf.glob("*.toml"))}


def find_profile(name_or_path: str | os.PathLike[str]) -> InputProfile:
    """A built-in profile by its name, or one's own TOML file.

    Raises:
        ProfileError: neither of the two, or the file is no profile.
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml"):
        return _load(Path(text))
    profiles = builtin_profiles()
    if text not in profiles:
        raise ProfileError(f"got the profile {text!r}, expected a .toml file or one of: {list_profiles()}")
    return profiles[text]


def list_profiles() -> str:
    """Names of the built-in profiles with a sentence each, on one line."""
    return "; ".join(f"{profile.name} ({profile.summary})" for profile in builtin_profiles().values())


def profile_of_schema_1(
    percentiles: tuple[float, float], patch: tuple[int, int, int], special: tuple[int, ...]
) -> InputProfile:
    """The profile of bundles older than profiles: stored axes, windows of the session's choice."""
    return InputProfile(
        "schema-1",
        "a bundle of an older gstk: stored axes, percentiles, windows of the session's choice",
        intensities=Intensities(percentiles=percentiles),
        patch=patch,
        classes=ClassTable(special=special),
    )


def _intensities(fields: Fields) -> Intensities:
    fields.only("source", "range", "percentiles", "scope")
    if ("range" in fields.values) == ("percentiles" in fields.values):
        raise fields.wrong("range", "either a range or percentiles")
    ends: Mapping[str, Any] = {}
    if "range" in fields.values:
        ends = {"range": fields.rising_pair("range")}
    else:
        percentiles = fields.rising_pair("percentiles")
        if percentiles[0] < 0 or percentiles[1] > 100:
            raise fields.wrong("percentiles", "two numbers in 0..100")
        ends = {"percentiles": percentiles}
    return replace(Intensities(source=fields.choice("source", _SOURCES), scope=fields.choice("scope", _SCOPES)), **ends)


def _load(file: Path) -> InputProfile:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"cannot read {file}: {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{file} is not TOML ({error}); see the built-in profiles for the layout") from None
    source = FieldsSource(file.name, "see the page on input profiles and weights for its fields", ProfileError)
    return InputProfile.from_fields(Fields(values, source))

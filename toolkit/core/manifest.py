"""`manifest.json` as dataclasses, and the check of every field: a manifest is input, it may come from anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from gstk.errors import BundleError

__all__ = [
    "GRAPH_KINDS",
    "MANIFEST_NAME",
    "SCHEMA",
    "GraphFile",
    "Manifest",
    "Preprocessing",
    "RoiRules",
    "checked_name",
]

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
GRAPH_KINDS = ("encoder", "prompt_decoder")


@dataclass(frozen=True)
class GraphFile:
    """One file of a bundle, as the manifest vouches for it.

    Attributes:
        sha256: 64 lower-case hexadecimal digits.
        size_bytes: length of the file (`bytes` in the JSON).
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Preprocessing:
    """How a volume becomes a network image.

    Attributes:
        percentiles: the intensities at these percentiles map to the ends of `range`.
        scope: over which voxels the percentiles are taken; `volume` is the whole volume, before any crop.
        range: (low, high) of the network image.
        clip: whether intensities beyond the percentiles are clipped to `range`.
    """

    percentiles: tuple[float, float] = (1, 99)
    scope: str = "volume"
    range: tuple[float, float] = (0, 1)
    clip: bool = True


@dataclass(frozen=True)
class RoiRules:
    """Which regions the graphs take, in voxels.

    Attributes:
        multiple: every side is a multiple of it.
        minimum: the smallest side; below it the deepest level has one voxel, over which no instance norm is defined.
        default: (z, y, x) sides of the region the network was trained on.
        max_voxels: the largest region; beyond it a tensor of one object has 2³¹ elements, which TensorRT's convolutions
            do not take.
    """

    multiple: int
    minimum: int
    default: tuple[int, int, int]
    max_voxels: int = 2**31 - 1


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        name: name of the model.
        licence: licence of the weights.
        created_by: program and version that wrote the bundle.
        architecture: the network's spec (`gstk.training.spec.VISTA3DSpec.to_dict`).
        roi: see `RoiRules`.
        graphs: kind (`encoder`, `prompt_decoder`) → precision (`fp32`, ...) → file name.
        files: file name → `GraphFile`; every graph is among them, and so is a graph's external data.
        preprocessing: see `Preprocessing`.
        refine: whether sessions let the image correct the network's logits (`session.image_refiner`): worth it for a
            network that
            is weak by itself. Absent in the JSON where it is false.
        special_classes: class ids whose points carry labels 2/3 in place of 0/1.
        vectors: name of the file of test vectors (`gstk.export.vectors`), listed under `files`; empty where there is
            none.
        parity: agreement with torch, as `gstk.export.parity` measured it.
        reports: what was found about the other precisions: `fp16` the ranges of values, `int8` what it costs in Dice.
        training: free metadata: recipe, seed, steps.
    """

    name: str
    licence: str
    created_by: str
    architecture: Mapping[str, Any]
    roi: RoiRules
    graphs: Mapping[str, Mapping[str, str]]
    files: Mapping[str, GraphFile] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    refine: bool = False
    special_classes: tuple[int, ...] = ()
    vectors: str = ""
    parity: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON-ready values."""
        steps = self.preprocessing
        return {
            "schema": SCHEMA,
            "name": self.name,
            "licence": self.licence,
            "created_by": self.created_by,
            "architecture": dict(self.architecture),
            "preprocessing": {
                "percentiles": list(steps.percentiles),
                "scope": steps.scope,
                "range": list(steps.range),
                "clip": steps.clip,
            },
            **({"refine": True} if self.refine else {}),
            "roi": {
                "multiple": self.roi.multiple,
                "minimum": self.roi.minimum,
                "default": list(self.roi.default),
                "max_voxels": self.roi.max_voxels,
            },
            "special_classes": list(self.special_classes),
            "graphs": {kind: dict(files) for kind, files in self.graphs.items()},
            "files": {name: {"sha256": file.sha256, "bytes": file.size_bytes} for name, file in self.files.items()},
            "vectors": self.vectors,
            "parity": dict(self.parity),
            "reports": dict(self.reports),
            "training": dict(self.training),
        }

    @classmethod
    def from_json(cls, values: object) -> Manifest:
        """The manifest from parsed JSON; fields it does not know are ignored.

        Raises:
            BundleError: the schema is unknown, or a field is missing, of the wrong type or out of its range.
        """
        top = _Fields(values, "")
        schema = top.values.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise BundleError(
                f"got manifest schema {schema!r}, expected {SCHEMA}; use the gstk that wrote it, or export again"
            )
        files = {checked_name(name): _file(top.sub("files").sub(name)) for name in top.sub("files").values}
        return cls(
            name=top.text("name"),
            licence=top.text("licence"),
            created_by=top.text("created_by"),
            architecture=top.sub("architecture").values,
            roi=_roi(top.sub("roi")),
            graphs=_graphs(top.sub("graphs"), files),
            files=files,
            preprocessing=_preprocessing(top.sub("preprocessing")),
            refine=top.flag("refine", absent=False),
            special_classes=top.integers("special_classes", minimum=0),
            vectors=_vectors(top, files),
            parity=top.sub("parity").values,
            reports=top.sub("reports").values,
            training=top.sub("training").values,
        )


def checked_name(name: str) -> str:
    """A file name of a manifest, which must be a plain relative path with forward slashes.

    Raises:
        BundleError: the name is absolute, climbs out with `..`, or is no portable name.
    """
    path = PurePosixPath(name)
    plain = bool(name) and not re.search(r'[\\:<>"|?*\x00-\x1f]', name) and str(path) == name
    if not plain or path.is_absolute() or ".." in path.parts or name in (".", MANIFEST_NAME):
        raise BundleError(f"got the file name {name!r} in a manifest, expected a relative path inside the bundle")
    return name


def _file(fields: _Fields) -> GraphFile:
    digest = fields.text("sha256")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise fields.wrong("sha256", "64 hexadecimal digits")
    return GraphFile(digest, fields.integer("bytes", minimum=0))


def _graphs(fields: _Fields, files: Mapping[str, GraphFile]) -> dict[str, dict[str, str]]:
    graphs = {}
    for kind in (*GRAPH_KINDS, *(set(fields.values) - set(GRAPH_KINDS))):
        precisions = fields.sub(kind)
        graphs[kind] = {precision: precisions.text(precision) for precision in precisions.values}
        for precision, name in graphs[kind].items():
            if name not in files:
                raise precisions.wrong(precision, "a name listed under `files`")
        if not graphs[kind]:
            raise fields.wrong(kind, "one precision or more")
    return graphs


def _vectors(top: _Fields, files: Mapping[str, GraphFile]) -> str:
    name = top.values.get("vectors")
    if not isinstance(name, str) or (name and name not in files):
        raise top.wrong("vectors", "a name listed under `files`, or an empty one")
    return name


def _roi(fields: _Fields) -> RoiRules:
    multiple = fields.integer("multiple", minimum=1)
    minimum = fields.integer("minimum", minimum=1)
    if minimum % multiple:
        raise fields.wrong("minimum", f"a multiple of {multiple}")
    default = fields.integers("default", minimum=minimum)
    if len(default) != 3 or any(side % multiple for side in default):
        raise fields.wrong("default", f"three multiples of {multiple}, (z, y, x)")
    most = fields.integer("max_voxels", minimum=math.prod(default))
    return RoiRules(multiple, minimum, (default[0], default[1], default[2]), most)


def _preprocessing(fields: _Fields) -> Preprocessing:
    percentiles, value_range = fields.rising_pair("percentiles"), fields.rising_pair("range")
    if percentiles[0] < 0 or percentiles[1] > 100:
        raise fields.wrong("percentiles", "two numbers in 0..100")
    scope = fields.text("scope")
    if scope != "volume":
        raise fields.wrong("scope", "'volume'")
    return Preprocessing(percentiles, scope, value_range, fields.flag("clip"))


class _Fields:
    """One JSON object and its place in the manifest, for errors that name the field."""

    def __init__(self, values: object, place: str) -> None:
        if not isinstance(values, dict):
            raise BundleError(
                f"got {place or 'the manifest'} = {_shorten(values)}, expected a JSON object; export the bundle again"
            )
        self.values: dict[str, Any] = values
        self._place = place

    def wrong(self, key: str, expected: str) -> BundleError:
        got = _shorten(self.values[key]) if key in self.values else "nothing"
        return BundleError(
            f"got {got} for {self._name(key)} in the manifest, expected {expected}; export the bundle again"
        )

    def sub(self, key: str) -> _Fields:
        if key not in self.values:
            raise self.wrong(key, "a JSON object")
        return _Fields(self.values[key], self._name(key))

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "a string")
        return value

    def integer(self, key: str, *, minimum: int) -> int:
        value = self.values.get(key)
        if not _is_integer(value, minimum):
            raise self.wrong(key, f"an integer of {minimum} or more")
        return int(value)  # type: ignore[arg-type]

    def flag(self, key: str, *, absent: bool | None = None) -> bool:
        value = self.values.get(key, absent)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def integers(self, key: str, *, minimum: int) -> tuple[int, ...]:
        value = self.values.get(key)
        if not isinstance(value, list) or not all(_is_integer(v, minimum) for v in value):
            raise self.wrong(key, f"a list of integers of {minimum} or more")
        return tuple(value)

    def rising_pair(self, key: str) -> tuple[float, float]:
        value = self.values.get(key)
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value)
            or value[0] >= value[1]
        ):
            raise self.wrong(key, "two rising numbers")
        return value[0], value[1]

    def _name(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key


def _is_integer(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""`manifest.json` as dataclasses, and the check of every field: a manifest is input, it may come from anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from gstk.core.fields import Fields, FieldsSource
from gstk.core.profile import InputProfile, profile_of_schema_1
from gstk.errors import BundleError

__all__ = [
    "CLASS_GRAPH",
    "GRAPH_KINDS",
    "MANIFEST_NAME",
    "SCHEMA",
    "GraphFile",
    "Manifest",
    "RoiRules",
    "checked_name",
]

SCHEMA = 2
"""What is written. Schema 1 is read too: it had `preprocessing` and `special_classes` in place of a profile."""
MANIFEST_NAME = "manifest.json"
GRAPH_KINDS = ("encoder", "prompt_decoder")
"""Graphs of every bundle."""
CLASS_GRAPH = "class_encoder"
"""The graph of a bundle that has class prompts."""
_SOURCE = FieldsSource("the manifest", "export the bundle again", BundleError)


@dataclass(frozen=True)
class GraphFile:
    """One file of a bundle: its hash and size, as the manifest states them.

    Attributes:
        sha256: 64 lower-case hexadecimal digits.
        size_bytes: length of the file (`bytes` in the JSON).
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class RoiRules:
    """Which regions the graphs take, in voxels.

    Attributes:
        multiple: every side is a multiple of it.
        minimum: the smallest side; below it the deepest level has one voxel, over which no instance norm is defined.
        default: sides of the region the network was trained on, in the network's axes; the profile's patch.
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
        profile: what the network's input is; see `InputProfile`.
        refine: whether sessions let the image correct the network's logits (`gstk.session.extras`): worth it for a
            network that is weak by itself. Absent in the JSON where it is false.
        zero_shot: whether the prompt decoder takes the point labels 4 and 5, of objects that are of no class which the
            network was trained on. Absent in the JSON where it does not.
        ignored_points: whether the prompt decoder takes the point label -2, of a point that it ignores. Absent in the
            JSON where it does not.
        vectors: name of the file of test vectors (`gstk.export.vectors`), listed under `files`; empty where there is
            none.
        class_vectors: name of the file with a vector for each class (`gstk.core.class_vectors`), listed under `files`;
            empty where the bundle has no class prompts.
        parity: agreement with torch, as `gstk.export.parity` measured it.
        reports: measurements of the other precisions: `fp16` the ranges of values, `int8` its loss of Dice.
        training: free metadata: recipe, seed, steps.
    """

    name: str
    licence: str
    created_by: str
    architecture: Mapping[str, Any]
    roi: RoiRules
    graphs: Mapping[str, Mapping[str, str]]
    files: Mapping[str, GraphFile] = field(default_factory=dict)
    profile: InputProfile = field(default_factory=lambda: profile_of_schema_1((1, 99), (128, 128, 128), ()))
    refine: bool = False
    zero_shot: bool = False
    ignored_points: bool = False
    vectors: str = ""
    class_vectors: str = ""
    parity: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON-ready values."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "licence": self.licence,
            "created_by": self.created_by,
            "architecture": dict(self.architecture),
            "profile": self.profile.to_json(),
            **({"refine": True} if self.refine else {}),
            **({"zero_shot": True} if self.zero_shot else {}),
            **({"ignored_points": True} if self.ignored_points else {}),
            "roi": {
                "multiple": self.roi.multiple,
                "minimum": self.roi.minimum,
                "default": list(self.roi.default),
                "max_voxels": self.roi.max_voxels,
            },
            "graphs": {kind: dict(files) for kind, files in self.graphs.items()},
            "files": {name: {"sha256": file.sha256, "bytes": file.size_bytes} for name, file in self.files.items()},
            "vectors": self.vectors,
            **({"class_vectors": self.class_vectors} if self.class_vectors else {}),
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
        top = Fields(values, _SOURCE)
        schema = top.values.get("schema")
        if type(schema) is not int or schema not in (1, SCHEMA):
            raise BundleError(
                f"got manifest schema {schema!r}, expected 1 or {SCHEMA}; use the gstk that wrote it, or export again"
            )
        files = {checked_name(name): _file(top.sub("files").sub(name)) for name in top.sub("files").values}
        roi = _roi(top.sub("roi"))
        return cls(
            name=top.text("name"),
            licence=top.text("licence"),
            created_by=top.text("created_by"),
            architecture=top.sub("architecture").values,
            roi=roi,
            graphs=_graphs(top.sub("graphs"), files),
            files=files,
            profile=_schema_1_profile(top, roi) if schema == 1 else _profile(top, roi),
            refine=top.flag("refine", absent=False),
            zero_shot=top.flag("zero_shot", absent=False),
            ignored_points=top.flag("ignored_points", absent=False),
            vectors=_vectors(top, files),
            class_vectors=_listed(top, "class_vectors", files) if "class_vectors" in top.values else "",
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


def _file(fields: Fields) -> GraphFile:
    digest = fields.text("sha256")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise fields.wrong("sha256", "64 hexadecimal digits")
    return GraphFile(digest, fields.integer("bytes", minimum=0))


def _graphs(fields: Fields, files: Mapping[str, GraphFile]) -> dict[str, dict[str, str]]:
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


def _vectors(top: Fields, files: Mapping[str, GraphFile]) -> str:
    return "" if top.values.get("vectors") == "" else _listed(top, "vectors", files, ", or an empty one")


def _listed(top: Fields, key: str, files: Mapping[str, GraphFile], otherwise: str = "") -> str:
    name = top.values.get(key)
    if not isinstance(name, str) or name not in files:
        raise top.wrong(key, f"a name listed under `files`{otherwise}")
    return name


def _roi(fields: Fields) -> RoiRules:
    multiple = fields.integer("multiple", minimum=1)
    minimum = fields.integer("minimum", minimum=1)
    if minimum % multiple:
        raise fields.wrong("minimum", f"a multiple of {multiple}")
    default = fields.integers("default", minimum=minimum)
    if len(default) != 3 or any(side % multiple for side in default):
        raise fields.wrong("default", f"three multiples of {multiple}, (z, y, x)")
    most = fields.integer("max_voxels", minimum=math.prod(default))
    return RoiRules(multiple, minimum, (default[0], default[1], default[2]), most)


def _profile(top: Fields, roi: RoiRules) -> InputProfile:
    profile = InputProfile.from_fields(top.sub("profile"))
    if profile.patch != roi.default:
        raise top.sub("roi").wrong("default", f"the profile's patch, {list(profile.patch)}")
    return profile


def _schema_1_profile(top: Fields, roi: RoiRules) -> InputProfile:
    steps = top.sub("preprocessing")
    percentiles = steps.rising_pair("percentiles")
    if percentiles[0] < 0 or percentiles[1] > 100:
        raise steps.wrong("percentiles", "two numbers in 0..100")
    steps.choice("scope", ("volume",))
    if steps.rising_pair("range") != (0, 1):
        raise steps.wrong("range", "[0, 1], the one range that this gstk makes")
    if not steps.flag("clip"):
        raise steps.wrong("clip", "true, since this gstk always clips")
    return profile_of_schema_1(percentiles, roi.default, top.integers("special_classes", minimum=0))

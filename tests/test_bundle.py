"""The bundle: every field checked, every file hashed, no path that leaves the folder."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gstk.core import bundle as module
from gstk.core.bundle import Bundle, Manifest, RoiRules, builtin, find_bundle, write_bundle
from gstk.core.profile import find_profile
from gstk.errors import BundleError

MANIFEST = Manifest(
    name="test",
    licence="CC0-1.0",
    created_by="gstk 0",
    architecture={"width": 8},
    roi=RoiRules(multiple=4, minimum=8, default=(32, 16, 8)),
    graphs={"encoder": {"fp32": "encoder.onnx"}, "prompt_decoder": {"fp32": "parts/decoder.onnx"}},
    profile=replace(find_profile("nv-segment-ct"), patch=(32, 16, 8)),
    training={"seed": 1},
)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "e").write_bytes(b"encoder" * 1000)
    (tmp_path / "d").write_bytes(b"decoder")
    return {"encoder.onnx": tmp_path / "e", "parts/decoder.onnx": tmp_path / "d"}


@pytest.fixture
def folder(tmp_path: Path, sources: dict[str, Path]) -> Path:
    return write_bundle(tmp_path / "bundle", MANIFEST, sources).path


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "manifest.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def refused(folder: Path, match: str, verify: bool = True) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        Bundle.open(folder, verify)
    assert "\n" not in str(caught.value)


def test_round_trip(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert replace(bundle.manifest, files={}) == MANIFEST
    assert Manifest.from_json(json.loads((folder / "manifest.json").read_text())) == bundle.manifest
    assert bundle.graph("prompt_decoder").read_bytes() == b"decoder"
    assert bundle.size_bytes == 7007
    assert sorted(p.name for p in folder.parent.iterdir()) == ["bundle", "d", "e"]


def test_unknown_graph_or_precision_names_what_is_there(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"got precision 'int8'.* in fp32"):
        bundle.graph("encoder", "int8")
    with pytest.raises(BundleError, match="expected one of encoder, prompt_decoder"):
        bundle.graph("decoder")


def test_altered_file_is_refused(folder: Path) -> None:
    file = folder / "encoder.onnx"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(b"E" + content[1:])
    refused(folder, "encoder.onnx has SHA-256 .*altered")
    Bundle.open(folder, verify=False)
    file.write_bytes(content[:-1])
    refused(folder, "encoder.onnx has 6999 bytes, the manifest says 7000")


def test_missing_file_is_refused_also_without_hashing(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    refused(folder, "lacks encoder.onnx", verify=False)


@pytest.mark.parametrize(
    "name",
    [
        "../e",
        "/etc/passwd",
        "a/../../e",
        "..",
        ".",
        "",
        "a//b",
        "./e",
        "..\\e",
        "C:\\e",
        "C:e",
        "a\x00b",
        "manifest.json",
    ],
)
def test_path_out_of_the_bundle_is_refused(folder: Path, name: str) -> None:
    def rename(values: dict[str, Any]) -> None:
        values["files"][name] = values["files"].pop("encoder.onnx")
        values["graphs"]["encoder"]["fp32"] = name

    edit(folder, rename)
    refused(folder, "expected a relative path inside the bundle", verify=False)


def test_link_out_of_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").symlink_to(tmp_path / "e")
    refused(folder, "leads outside")
    (folder / "encoder.onnx").unlink()
    (folder / "kept.onnx").write_bytes((tmp_path / "e").read_bytes())
    (folder / "encoder.onnx").symlink_to("kept.onnx")
    Bundle.open(folder)
    (folder / "manifest.json").rename(tmp_path / "manifest.json")
    (folder / "manifest.json").symlink_to(tmp_path / "manifest.json")
    refused(folder, "leads outside")


def test_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").mkdir()
    refused(folder, "is no file")


@pytest.mark.parametrize("key", list(MANIFEST.to_json()))
@pytest.mark.parametrize("value", [None, 7.5, "text", [], [1], {}, {"a": 1}, True])
def test_field_of_a_wrong_type_is_refused_or_plain(folder: Path, key: str, value: Any) -> None:
    """Whatever stands in a field, the answer is a BundleError or a manifest, never another exception."""
    edit(folder, lambda values: values.__setitem__(key, value))
    with contextlib.suppress(BundleError):
        Bundle.open(folder)


@pytest.mark.parametrize("key", list(MANIFEST.to_json()))
def test_missing_field_is_named(folder: Path, key: str) -> None:
    edit(folder, lambda values: values.pop(key))
    refused(folder, f"got nothing for {key} " if key != "schema" else "got manifest schema None, expected 1 or 2")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: v.__setitem__("schema", 3), "got manifest schema 3, expected 1 or 2"),
        (lambda v: v["roi"].__setitem__("multiple", 0), "got 0 for roi.multiple"),
        (lambda v: v["roi"].__setitem__("minimum", 10), "roi.minimum in the manifest, expected a multiple of 4"),
        (lambda v: v["roi"].__setitem__("default", [32, 32]), "roi.default"),
        (lambda v: v["roi"].__setitem__("default", [32, 32, 30]), "roi.default"),
        (lambda v: v["roi"].__setitem__("default", [16, 16, 16]), "the profile's patch, .32, 16, 8."),
        (lambda v: v["profile"]["axes"].__setitem__("order", "yxz"), "profile.axes.order .*one of zyx, xyz"),
        (lambda v: v.__setitem__("refine", 1), "for refine .*expected true or false"),
        (lambda v: v["files"]["encoder.onnx"].__setitem__("sha256", "ABC"), "64 hexadecimal digits"),
        (lambda v: v["files"]["encoder.onnx"].__setitem__("bytes", -1), "files.encoder.onnx.bytes"),
        (lambda v: v["graphs"].pop("encoder"), "got nothing for graphs.encoder"),
        (lambda v: v["graphs"]["encoder"].clear(), "one precision or more"),
        (lambda v: v["graphs"]["encoder"].__setitem__("fp16", "other.onnx"), "listed under `files`"),
    ],
)
def test_wrong_value_is_named(folder: Path, change: Any, match: str) -> None:
    edit(folder, change)
    refused(folder, match)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b'"text"'])
def test_manifest_that_is_no_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    refused(folder, "is not JSON|expected an object")


def test_what_is_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "nothing there")
    refused(tmp_path / "e", "a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "lacks manifest.json")


def test_writing_never_replaces_what_it_should_not(tmp_path: Path, sources: dict[str, Path]) -> None:
    target = tmp_path / "bundle"
    write_bundle(target, MANIFEST, sources)
    with pytest.raises(BundleError, match="exists; choose another output, or pass --overwrite"):
        write_bundle(target, MANIFEST, sources)
    assert write_bundle(target, replace(MANIFEST, name="new"), sources, overwrite=True).manifest.name == "new"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    for place in (tmp_path / "home", tmp_path / "e"):
        with pytest.raises(BundleError, match="is no bundle"):
            write_bundle(place, MANIFEST, sources, overwrite=True)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_failed_write_leaves_the_old_bundle(
    tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    write_bundle(target, MANIFEST, sources)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(BundleError, match="listed under `files`"):
        write_bundle(target, replace(MANIFEST, name="new"), {"encoder.onnx": tmp_path / "e"}, overwrite=True)
    with pytest.raises(BundleError, match="cannot be written as JSON"):
        write_bundle(target, replace(MANIFEST, training={"a": object()}), sources, overwrite=True)
    real = Path.rename

    def fail_on_the_draft(self: Path, to: Path) -> Path:
        if to == target and (self / "manifest.json").is_file() and "new" in (self / "manifest.json").read_text():
            raise OSError("no space left on device")
        return real(self, to)

    monkeypatch.setattr(Path, "rename", fail_on_the_draft)
    with pytest.raises(OSError, match="no space"):
        write_bundle(target, replace(MANIFEST, name="new"), sources, overwrite=True)
    assert Bundle.open(target).manifest.name == "test"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_bundle_is_found_by_path_or_name(
    folder: Path, tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.resources, "files", lambda _: tmp_path)
    write_bundle(tmp_path / "bundles" / "small", MANIFEST, sources)
    assert builtin("small") == tmp_path / "bundles" / "small"
    assert find_bundle("small") == tmp_path / "bundles" / "small"
    assert find_bundle(folder) == folder
    with pytest.raises(BundleError, match=r"got 'smal', expected a bundle folder or a built-in name \(small\)"):
        find_bundle("smal")
    with pytest.raises(BundleError, match="built-in name"):
        builtin("../bundle")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert find_bundle("small") == tmp_path / "bundles" / "small"
    write_bundle(tmp_path / "other" / "small", MANIFEST, sources)
    monkeypatch.chdir(tmp_path / "other")
    assert find_bundle("small") == Path("small")


@pytest.mark.parametrize("name", ["gstk.export", "gstk.core.bundle", "gstk.engines", "gstk.engines.select"])
def test_import_is_light(name: str) -> None:
    heavy = ["torch", "monai", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino"]
    code = f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True, env=os.environ
    )
    assert result.stdout.strip() == "[]"


def schema_1(values: dict[str, Any], **change: Any) -> None:
    """Turns a manifest into what gstk wrote before there were profiles."""
    values.pop("profile")
    steps = {"percentiles": [2, 98], "scope": "volume", "range": [0, 1], "clip": True, **change}
    values.update(schema=1, preprocessing=steps, special_classes=[23, 57])


def test_schema_1_opens_as_what_it_was(folder: Path) -> None:
    edit(folder, schema_1)
    profile = Bundle.open(folder).manifest.profile
    assert (profile.orientation, profile.axis_order, profile.spacing_mm) == ("stored", "zyx", "session")
    assert (profile.intensities.percentiles, profile.intensities.scope) == ((2, 98), "volume")
    assert (profile.patch, profile.classes.special, profile.branches) == ((32, 16, 8), (23, 57), ("points",))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"percentiles": [99, 1]}, "two rising numbers"),
        ({"percentiles": [1, 101]}, "two numbers in 0..100"),
        ({"scope": "window"}, "one of volume"),
        ({"clip": 1}, "expected true or false"),
        ({"clip": False}, "always clips"),
        ({"range": [0, 2]}, "the one range"),
    ],
)
def test_schema_1_that_asks_for_something_else_is_refused(folder: Path, change: dict[str, Any], match: str) -> None:
    edit(folder, lambda values: schema_1(values, **change))
    refused(folder, match)

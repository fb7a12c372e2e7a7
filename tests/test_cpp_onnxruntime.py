"""The C++ host with ONNX Runtime: what Python computes with the same library, time limits, and misuse."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_build import needs_a_compiler, onnxruntime_headers, run
from cpp_replay import (
    Volume,
    agreement,
    clicks_and_a_box,
    compare_engines,
    phantom,
    replay_cpp,
    replay_python,
    volume_of,
)

import gstk
from gstk.cases.npz import load_case
from gstk.core.bundle import Bundle, builtin
from gstk.engines import open_engine
from gstk.engines.onnxruntime_norm import exact_graph

pytest.importorskip("onnxruntime")
pytestmark = [
    *needs_a_compiler,
    pytest.mark.skipif(
        onnxruntime_headers() is None,
        reason="needs ONNX Runtime's C++ headers: apt-get install libonnxruntime-dev (not in Debian 12), or "
        "GSTK_ONNXRUNTIME_INCLUDE_DIR",
    ),
]

TINY = builtin("tiny")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_compute_what_pythons_does(
    checked: Path, every_precision: Bundle, tmp_path: Path, precision: str
) -> None:
    compare_engines(checked / "engine_run", "onnxruntime", every_precision, precision, tmp_path)


def test_large_weights_stay_in_their_file(checked: Path, small_export: Any, tmp_path: Path) -> None:
    """A table of 1.2 MB, one number of which is added to the embedding."""
    onnx = pytest.importorskip("onnx")
    bundle = tmp_path / "bundle"
    shutil.copytree(small_export.bundle.path, bundle)
    model = onnx.load(bundle / "encoder.onnx")
    (last,) = (node for node in model.graph.node if "embedding" in node.output)
    last.output[0] = "before"
    table, place = np.arange(300_000, dtype=np.float32) / 1e5, np.array(123_456)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for v, n in ((table, "table"), (place, "place")))
    for kind, inputs, output in (("Gather", ["table", "place"], "number"), ("Add", ["before", "number"], "embedding")):
        model.graph.node.append(onnx.helper.make_node(kind, inputs, [output]))
    onnx.save(model, bundle / "encoder.onnx")
    with_hashes(bundle, "encoder.onnx")
    assert len(exact_graph(bundle / "encoder.onnx")) < table.nbytes
    image = np.zeros((1, 1, 16, 16, 16), np.float32)
    with open_engine(small_export.bundle, "onnxruntime") as before, open_engine(bundle, "onnxruntime") as after:
        more = after.encode(image).handle - before.encode(image).handle
    np.testing.assert_allclose(more, 1.23456, atol=1e-5)
    compare_engines(checked / "engine_run", "onnxruntime", Bundle.open(bundle), "fp32", tmp_path)


def with_hashes(bundle: Path, name: str) -> None:
    """Has a bundle's manifest say what a file of it is now."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = (bundle / name).read_bytes()
    manifest["files"][name] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_real_case_agrees(checked: Path, shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "cases" / "US_itksnap_mitral_t0.npz"
    case = load_case(file)
    lines = clicks_and_a_box(case)
    volume = Volume(file, case.image, case.geometry.spacing_mm)
    with gstk.open("tiny", backend="onnxruntime", threads=2, refine=False) as session:
        expected = replay_python(session, volume, lines)
    settings = {"backend": "onnxruntime", "threads": 2, "refine": 0}
    found = replay_cpp(checked / "replay", TINY, volume, lines, tmp_path, **settings)
    assert agreement(found, expected) >= 0.9999


def test_calls_end_in_time_or_when_they_are_cancelled(checked: Path) -> None:
    run(checked / "timed", TINY, "onnxruntime")


def test_a_graph_that_cannot_be_read_is_an_error(checked: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(TINY, bundle)
    (bundle / "encoder.onnx").write_bytes(b"no graph at all")
    with_hashes(bundle, "encoder.onnx")
    volume = volume_of(phantom(tmp_path / "case.npz", 3, 32), tmp_path / "case.npz")
    with pytest.raises(AssertionError, match="onnxruntime failed to load the graphs"):
        replay_cpp(checked / "replay", bundle, volume, ["undo"], tmp_path, backend="onnxruntime")


def test_a_library_older_than_the_headers_is_refused(checked: Path, tmp_path: Path) -> None:
    source = """
        #include <stddef.h>
        struct base { const void* (*api)(unsigned version); const char* (*version)(void); };
        static const void* none(unsigned version) { (void)version; return NULL; }
        static const char* old(void) { return "1.2.3"; }
        const struct base* OrtGetApiBase(void) { static const struct base found = {none, old}; return &found; }
    """
    (tmp_path / "old.c").write_text(source)
    run("gcc", "-shared", "-fPIC", tmp_path / "old.c", "-o", tmp_path / "libold.so")
    (tmp_path / "script.txt").write_text("undo\n")
    files = [tmp_path / name for name in ("script.txt", "masks")]
    preload = run("gcc", "-print-file-name=libasan.so").strip() + f" {tmp_path / 'libold.so'}"
    with pytest.raises(AssertionError, match=r"got ONNX Runtime 1\.2\.3, expected 1\.\d+ or newer"):
        run(checked / "replay", TINY, *files, "backend=onnxruntime", LD_PRELOAD=preload)

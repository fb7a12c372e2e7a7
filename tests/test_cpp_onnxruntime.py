"""The C++ host with ONNX Runtime: what Python computes with the same library, time limits, and misuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from cpp_build import SANITIZED, build_checked, missing, onnxruntime_headers, onnxruntime_options, run
from cpp_replay import clicks_and_a_box, compare_engines, many_prompts, phantom, replay_cpp, replay_python, slow_model

import gstk
from gstk.calibration import save_model
from gstk.cases.npz import load_case
from gstk.core.bundle import Bundle, builtin

pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(
        onnxruntime_headers() is None,
        reason="needs ONNX Runtime's C++ headers: apt-get install libonnxruntime-dev (not in Debian 12), or "
        "GSTK_ONNXRUNTIME_INCLUDE_DIR",
    ),
]

TINY = builtin("tiny")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the test programs, built with ONNX Runtime alone, so that it is what `auto` takes."""
    options = onnxruntime_options(tmp_path_factory.mktemp("onnxruntime"))
    return build_checked(tmp_path_factory.mktemp("programs"), "-DGSTK_OPENVINO=OFF", *options)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_compute_what_pythons_does(
    programs: Path, every_precision: Bundle, tmp_path: Path, precision: str
) -> None:
    compare_engines(programs / "engine_run", "onnxruntime", every_precision, precision, tmp_path)


def test_prompts_make_the_masks_that_python_makes(programs: Path, tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 3, 40)
    lines = many_prompts(case)
    with gstk.open("tiny", backend="onnxruntime", threads=2) as session:
        expected = replay_python(session, case.image, case.geometry.spacing_mm, lines)
    found, _ = replay_cpp(programs / "replay", TINY, tmp_path / "case.npz", lines, case.image.shape, tmp_path, 2)
    assert expected.any(axis=(1, 2, 3)).sum() > 6
    assert np.mean(found == expected, axis=(1, 2, 3)).min() >= 0.9999


def test_a_real_case_agrees(programs: Path, shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "cases" / "US_itksnap_mitral_t0.npz"
    case = load_case(file)
    lines = clicks_and_a_box(case)
    with gstk.open("tiny", backend="onnxruntime", threads=2) as session:
        expected = replay_python(session, case.image, case.geometry.spacing_mm, lines)
    found, _ = replay_cpp(programs / "replay", TINY, file, lines, case.image.shape, tmp_path, 2)
    assert np.mean(found == expected) >= 0.9999


def test_calls_end_in_time_or_when_they_are_cancelled(programs: Path, tmp_path: Path) -> None:
    model = slow_model("onnxruntime")
    elsewhere = replace(model, host=replace(model.host, device="an abacus"))
    models = [save_model(m, tmp_path / f"{i}.json") for i, m in enumerate([model, elsewhere])]
    run(programs / "timed", TINY, *models, **SANITIZED)


def test_misuse_is_refused(programs: Path, tmp_path: Path) -> None:
    run(programs / "misuse", TINY, tmp_path, **SANITIZED)


def test_a_graph_that_cannot_be_read_is_an_error(programs: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(TINY, bundle)
    content = b"no graph at all"
    (bundle / "encoder.onnx").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["encoder.onnx"] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    case = phantom(tmp_path / "case.npz", 3, 32)
    with pytest.raises(AssertionError, match="onnxruntime failed to load the graphs"):
        replay_cpp(programs / "replay", bundle, tmp_path / "case.npz", ["undo"], case.image.shape, tmp_path)


def test_a_library_older_than_the_headers_is_refused(programs: Path, tmp_path: Path) -> None:
    source = """
        #include <stddef.h>
        struct base { const void* (*api)(unsigned version); const char* (*version)(void); };
        static const void* none(unsigned version) { (void)version; return NULL; }
        static const char* old(void) { return "1.2.3"; }
        const struct base* OrtGetApiBase(void) { static const struct base found = {none, old}; return &found; }
    """
    (tmp_path / "old.c").write_text(source)
    run("gcc", "-shared", "-fPIC", tmp_path / "old.c", "-o", tmp_path / "libold.so")
    phantom(tmp_path / "case.npz", 3, 32)
    (tmp_path / "prompts.txt").write_text("undo\n")
    files = [tmp_path / name for name in ("case.npz", "prompts.txt", "masks")]
    preload = run("gcc", "-print-file-name=libasan.so").strip() + f" {tmp_path / 'libold.so'}"
    with pytest.raises(AssertionError, match=r"got ONNX Runtime 1\.2\.3, expected 1\.\d+ or newer"):
        run(programs / "replay", TINY, *files, LD_PRELOAD=preload, **SANITIZED)

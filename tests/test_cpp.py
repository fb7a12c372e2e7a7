"""The C++ host's programs, built here: Python's numbers, every misuse refused, sanitizers and fuzzing quiet."""

from __future__ import annotations

import copy
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cpp_build import ROOT, needs_a_compiler, run
from cpp_replay import Replayed, click_on, compare_engines, phantom, replay_cpp, volume_of

import gstk
from gstk.core.bundle import Bundle, builtin
from gstk.core.manifest import Manifest
from gstk.core.profile import builtin_profiles
from gstk.errors import BundleError

pytestmark = needs_a_compiler

TINY = builtin("tiny")


def program(released: Path) -> Path:
    """`replay`, with the shared library."""
    return released.parent / "build" / "tests" / "replay"


@pytest.mark.parametrize("name", ["misuse", "session", "timed", "vectors", "preparation", "fuzz"])
def test_programs_of_ctest_succeed(checked: Path, name: str) -> None:
    print(run("ctest", "--test-dir", checked, "-R", f"^{name}$", "--output-on-failure", "--no-tests=error"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_compute_what_pythons_does(
    checked: Path, every_precision: Bundle, tmp_path: Path, precision: str
) -> None:
    compare_engines(checked / "engine_run", "openvino", every_precision, precision, tmp_path)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the limit on instructions is for x86")
def test_int8_without_vnni_computes_what_pythons_does(
    checked: Path, every_precision: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")  # AVX-512 without VNNI, or less
    compare = f"""if True:
        from pathlib import Path
        from cpp_replay import compare_engines
        from gstk.core.bundle import Bundle
        from gstk.engines.openvino import saturates_int8
        assert saturates_int8()
        bundle = Bundle.open({str(every_precision.path)!r})
        compare_engines(Path({str(checked / "engine_run")!r}), "openvino", bundle, "int8", Path({str(tmp_path)!r}))
    """
    run(sys.executable, "-c", compare, PYTHONPATH=os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")]))


def test_compiled_graphs_are_kept(released: Path, tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 3, 40)
    lines = [f"point 1 {' '.join(map(str, click_on(case, next(iter(case.prompts)))))} 1"]
    cache = tmp_path / "deep" / "cache"

    def replayed(**settings: object) -> Replayed:
        volume = volume_of(case, tmp_path / "case.npz")
        return replay_cpp(program(released), TINY, volume, lines, tmp_path, threads=2, **settings)

    expected = replayed()

    def kept() -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in cache.iterdir()}

    for damage in (False, False, True):
        before = kept() if cache.exists() else {}
        if damage:
            for file in cache.iterdir():
                file.write_bytes(file.read_bytes()[:-9])
        np.testing.assert_array_equal(replayed(backend="openvino", cache=cache).masks, expected.masks)
        assert len(kept()) == 2  # of encoder and decoder, under the same names every time
        assert not before or (kept() == before) != damage
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    with pytest.raises(AssertionError, match="can be written to by others, and what is in it is run"):
        replayed(backend="openvino", cache=cache)


@pytest.mark.parametrize("fault", ["altered", "short", "missing", "outside"])
def test_a_corrupt_bundle_is_refused(released: Path, tmp_path: Path, fault: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(TINY, bundle)
    graph = bundle / "prompt_decoder.onnx"
    content = graph.read_bytes()
    graph.unlink()
    if fault == "altered":
        graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif fault == "short":
        graph.write_bytes(content[:-1])
    elif fault == "outside":
        (tmp_path / "elsewhere.onnx").write_bytes(content)
        graph.symlink_to(tmp_path / "elsewhere.onnx")
    (tmp_path / "script.txt").write_text("undo\n")
    command = [program(released), bundle, tmp_path / "script.txt", tmp_path / "masks"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    words = {"altered": "SHA-256", "short": "cut short", "missing": "lacks", "outside": "leads outside"}
    assert done.returncode == 1
    assert words[fault] in done.stderr
    with pytest.raises(BundleError, match=words[fault]):
        gstk.open(bundle)


def test_the_same_manifests_are_taken(checked: Path, tmp_path: Path) -> None:
    whole = json.loads((TINY / "manifest.json").read_text())
    strange = [None, True, 0, -1, 1.5, 2**40, "", "x", "../x", "/x", "a/b", "encoder.onnx", [], [1, 2, 3], {}, [5, 1]]
    texts = [json.dumps(whole), "", "{", "[]", "null", "[" * 5000, "\udcff", '{"schema": 2}']
    old = {key: value for key, value in whole.items() if key != "profile"} | {"schema": 1, "special_classes": [23]}
    for change in ({}, {"percentiles": [0, 90]}, {"percentiles": [1, 101]}, {"range": [0, 2]}, {"clip": False}):
        steps = {"percentiles": [1, 99], "scope": "volume", "range": [0, 1], "clip": True, **change}
        texts.append(json.dumps({**old, "preprocessing": steps}))
    for profile in builtin_profiles().values():
        texts.append(json.dumps({**whole, "profile": {**profile.to_json(), "patch": [64, 64, 64]}}))
        fitting = replace(profile, patch=(64, 64, 64)).to_json()
        texts.append(json.dumps({**whole, "profile": fitting}))
        for key, change in (
            ("classes", {"groups": {"20": [5, 20]}}),
            ("classes", {"groups": {"a": [5]}}),
            ("classes", {"sets": {"all": []}}),
            ("classes", {"names": {"1": "Liver", "7": "liver"}}),
            ("prompts", {"branches": ["points", "boxes"]}),
            ("prompts", {"branches": ["classes"]}),
            ("resolution", {"spacing_mm": "session"}),
            ("resolution", {"spacing_mm": 2.5, "crop_margin": 3}),
            ("windows", {"overlap": 0.9}),
        ):
            texts.append(json.dumps({**whole, "profile": {**fitting, key: {**fitting[key], **change}}}))
    places = [(key,) for key in whole]
    places += [(key, inner) for key in ("roi", "profile", "graphs", "files") for inner in whole[key]]
    sections = [key for key, value in whole["profile"].items() if isinstance(value, dict)]
    places += [("profile", key, inner) for key in sections for inner in whole["profile"][key]]
    places += [("files", "encoder.onnx", "sha256"), ("files", "encoder.onnx", "bytes"), ("graphs", "encoder", "fp32")]
    for *path, last in places:
        for value in ["absent", *strange]:
            altered = copy.deepcopy(whole)
            inner = altered
            for key in path:
                inner = inner[key]
            inner.pop(last)
            if value != "absent":
                inner[last] = value
            texts.append(json.dumps(altered))
    for name in (
        "../up",
        "a//b",
        "a/./b",
        "a/",
        "./a",
        "/a",
        ".",
        "..",
        "a\\b",
        "a:b",
        "manifest.json",
        "é/ü",
        "a\nb",
        "",
    ):
        texts.append(json.dumps({**whole, "files": {**whole["files"], name: whole["files"]["vectors.npz"]}}))
    files = [tmp_path / f"{index}.json" for index in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    verdicts = run(checked / "manifests", *files).splitlines()
    taken = 0
    for text, verdict in zip(texts, verdicts, strict=True):
        try:
            Manifest.from_json(json.loads(text.encode("utf-8", "surrogateescape")))
        except (BundleError, ValueError, RecursionError):
            assert verdict != "taken", text[-300:]
        else:
            taken += 1
            assert verdict == "taken", text[-300:]
    assert 10 < taken < len(texts) - 100

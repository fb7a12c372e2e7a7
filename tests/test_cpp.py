"""The C++ host, built here: the same numbers as Python, every misuse refused, sanitizers and fuzzing quiet."""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from cpp_build import ROOT, SANITIZED, build, build_checked, missing, openvino_option, run
from cpp_replay import (
    click_on,
    clicks_and_a_box,
    compare_engines,
    many_prompts,
    phantom,
    replay_cpp,
    replay_python,
    slow_model,
)
from cpp_vectors import write_vectors
from latency import a_model

import gstk
from gstk.calibration import LatencyModel, save_model
from gstk.cases.npz import load_case
from gstk.core.bundle import Bundle, builtin
from gstk.core.manifest import Manifest
from gstk.core.profile import builtin_profiles
from gstk.core.window import WindowPolicy
from gstk.cpp import cmake_dir
from gstk.engines import open_engine
from gstk.errors import BundleError, CalibrationError
from gstk.session.deadline import Budget
from gstk.session.extras.image_guidance import ImageGuidance
from gstk.session.session import Session

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

TINY = builtin("tiny")
FUZZ_SECONDS = 10


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the test programs, static, with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return build_checked(tmp_path_factory.mktemp("checked"), openvino_option())


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build folder of the shared library, and its installation, moved after it was installed."""
    folder = tmp_path_factory.mktemp("released")
    build(ROOT / "cpp", folder / "build", "-DGSTK_WERROR=ON", openvino_option())
    run("cmake", "--install", folder / "build", "--prefix", folder / "first")
    (folder / "first").rename(folder / "moved")
    return folder / "build", folder / "moved"


@pytest.fixture(scope="session")
def hosts(released: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example hosts, built against the installed package."""
    folder = tmp_path_factory.mktemp("hosts")
    found = f"-DCMAKE_PREFIX_PATH={released[1]}"
    return {
        name: build(ROOT / "examples" / name, folder / name, found) / name for name in ("cpp_viewer_host", "c_host")
    }


def test_every_stage_computes_what_python_does(checked: Path, tmp_path: Path) -> None:
    write_vectors(tmp_path)
    print(run(checked / "vectors", tmp_path))


def test_prompts_make_the_masks_that_python_makes(checked: Path, tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 3, 40)
    lines = many_prompts(case)
    with gstk.open("tiny", backend="openvino", threads=2) as session:
        expected = replay_python(session, case.image, case.geometry.spacing_mm, lines)
        encodes, decodes = session.encodes, session.decodes
    found, told = replay_cpp(checked / "replay", TINY, tmp_path / "case.npz", lines, case.image.shape, tmp_path, 2)
    assert expected.any(axis=(1, 2, 3)).sum() > 6
    assert np.mean(found == expected, axis=(1, 2, 3)).min() >= 0.9999
    assert (told[-1]["encodes"], told[-1]["decodes"]) == (encodes, decodes)


def bent_tube() -> np.ndarray:
    """A volume in which one window shows the object too coarsely."""
    shape = (360, 130, 130)
    z, y, x = np.indices(shape)
    middle = 65 + 30 * np.sin(z / 60)
    tube = (y - middle) ** 2 + (x - 130 + middle) ** 2 <= 5**2
    noise = np.random.default_rng(0).normal(scale=6, size=shape)
    return np.clip(np.where(tube, 170, 60) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def latency_model() -> LatencyModel:
    return slow_model("openvino")


@pytest.mark.parametrize("limit_s", [60.0, 30.0, 200.0])
def test_a_time_limit_makes_the_masks_that_python_makes(
    released: tuple[Path, Path], latency_model: LatencyModel, tmp_path: Path, limit_s: float
) -> None:
    case = phantom(tmp_path / "case.npz", 3, 64)
    first, second = (" ".join(map(str, click_on(case, k))) for k in list(case.prompts)[:2])
    lines = [
        f"point 1 {first} 1",
        "point 1 2 2 2 0",
        f"point 2 {second} 1",
        "undo",
        f"prompts 3 0 2 {second} 1 1 1 1 0",
    ]
    file = save_model(latency_model, tmp_path / "latency.json")
    program = released[0] / "tests" / "replay"
    given = (program, TINY, tmp_path / "case.npz", lines, case.image.shape, tmp_path, 2)
    found, told = replay_cpp(*given, file, limit_s)
    unlimited, _ = replay_cpp(*given)
    bundle = Bundle.open(TINY)
    policy = WindowPolicy(
        math.prod(bundle.manifest.roi.default), bundle.manifest.roi.multiple, bundle.manifest.roi.minimum
    )
    engine = open_engine(bundle, "openvino", threads=2)
    with Session(engine, policy, ImageGuidance(), model=latency_model, budget=Budget(limit_s)) as session:
        expected = replay_python(session, case.image, case.geometry.spacing_mm, lines)
        assert (told[-1]["encodes"], told[-1]["decodes"]) == (session.encodes, session.decodes)
    assert expected.any()
    assert np.mean(found == expected, axis=(1, 2, 3)).min() >= 0.9999
    assert (found == unlimited).all() == (limit_s == 200)


def test_calls_end_in_time_or_when_they_are_cancelled(
    checked: Path, latency_model: LatencyModel, tmp_path: Path
) -> None:
    run(checked / "limits", TINY, **SANITIZED)
    elsewhere = replace(latency_model, host=replace(latency_model.host, device="cpu: an abacus"))
    models = [save_model(m, tmp_path / f"{i}.json") for i, m in enumerate([latency_model, elsewhere])]
    run(checked / "timed", TINY, *models, **SANITIZED)


def test_wrong_latency_models_are_refused(checked: Path, tmp_path: Path) -> None:
    whole = a_model().to_json()
    places: list[tuple[str, ...]] = [(key,) for key in whole]
    places += [("host", key) for key in whole["host"]] + [("fits", kind) for kind in whole["fits"]]
    places += [("fits", "encode", key) for key in whole["fits"]["encode"]]
    texts = [json.dumps(whole), "", "{", "[]", "null", "[" * 5000, json.dumps({**whole, "more": 1}), "1e999"]
    texts += [json.dumps(whole).replace("1.25", wrong) for wrong in ("NaN", "1e999", "0.9", "-1")]
    for path in places:
        for value in ("absent", None, [], {}, -1.5, [1, -1], [1, 2, 3], "no"):
            altered = copy.deepcopy(whole)
            inner = altered
            for key in path[:-1]:
                inner = inner[key]
            inner.pop(path[-1])
            if value != "absent":
                inner[path[-1]] = value
            texts.append(json.dumps(altered))
    verdicts = verdicts_of(checked, "latency", texts, tmp_path)
    taken = 0
    for text, verdict in zip(texts, verdicts, strict=True):
        try:
            LatencyModel.from_json(json.loads(text))
        except (CalibrationError, ValueError, RecursionError):
            assert verdict != "taken", text[-300:]
        else:  # C++ also checks the types of texts
            taken += verdict == "taken"
    assert verdicts[0] == "taken"
    assert taken > 5


def verdicts_of(checked: Path, kind: str, texts: list[str], folder: Path) -> list[str]:
    """What the C++ reader says of each JSON text."""
    files = [folder / f"{index}.json" for index in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    return run(checked / "manifests", kind, *files).splitlines()


@pytest.mark.parametrize("name", ["PET_ibsi_sts018", "US_itksnap_mitral_t0", "CT_msd_spleen"])
def test_real_cases_agree(released: tuple[Path, Path], shared_data: Path, tmp_path: Path, name: str) -> None:
    file = shared_data / "cases" / f"{name}.npz"
    case = load_case(file)
    lines = clicks_and_a_box(case)
    with gstk.open("tiny", backend="openvino", threads=2) as session:
        expected = replay_python(session, case.image, case.geometry.spacing_mm, lines)
    found, _ = replay_cpp(released[0] / "tests" / "replay", TINY, file, lines, case.image.shape, tmp_path, 2)
    assert np.mean(found == expected) >= 0.9999


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


def test_compiled_graphs_are_kept(released: tuple[Path, Path], tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 3, 40)
    lines = [f"point 1 {' '.join(map(str, click_on(case, next(iter(case.prompts)))))} 1"]
    program, cache = released[0] / "tests" / "replay", tmp_path / "deep" / "cache"
    given = (program, TINY, tmp_path / "case.npz", lines, case.image.shape, tmp_path, 2)
    expected, _ = replay_cpp(*given)

    def kept() -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in cache.iterdir()}

    for damage in (False, False, True):
        before = kept() if cache.exists() else {}
        if damage:
            for file in cache.iterdir():
                file.write_bytes(file.read_bytes()[:-9])
        found, _ = replay_cpp(*given, "", 0, cache)
        np.testing.assert_array_equal(found, expected)
        assert len(kept()) == 2  # of encoder and decoder, under the same names every time
        assert not before or (kept() == before) != damage
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    with pytest.raises(AssertionError, match="can be written to by others, and what is in it is run"):
        replay_cpp(*given, "", 0, cache)


def test_misuse_is_refused(checked: Path, tmp_path: Path) -> None:
    run(checked / "misuse", TINY, tmp_path, **SANITIZED)


@pytest.mark.parametrize("fault", ["altered", "short", "missing", "outside"])
def test_a_corrupt_bundle_is_refused(released: tuple[Path, Path], tmp_path: Path, fault: str) -> None:
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
    phantom(tmp_path / "case.npz", 3, 32)
    (tmp_path / "prompts.txt").write_text("undo\n")
    command = [released[0] / "tests" / "replay", bundle, *(tmp_path / n for n in ("case.npz", "prompts.txt", "masks"))]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
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
    taken = 0
    for text, verdict in zip(texts, verdicts_of(checked, "manifest", texts, tmp_path), strict=True):
        try:
            Manifest.from_json(json.loads(text.encode("utf-8", "surrogateescape")))
        except (BundleError, ValueError, RecursionError):
            assert verdict != "taken", text[-300:]
        else:
            taken += 1
            assert verdict == "taken", text[-300:]
    assert 10 < taken < len(texts) - 100


def test_hosts_write_the_mask_that_python_writes(hosts: dict[str, Path], tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 4)
    z, y, x = click_on(case, next(iter(case.prompts)))
    masks = {}
    given = (TINY, tmp_path / "case.npz")
    run(hosts["cpp_viewer_host"], *given, tmp_path / "cpp.npz", f"-{z},{y},{x}", "undo", f"+{z},{y},{x}")
    run(hosts["c_host"], *given, tmp_path / "c.npz", z, y, x)
    run(sys.executable, ROOT / "examples/python_host/main.py", *given, tmp_path / "python.npz", z, y, x)
    for name in ("cpp", "c", "python"):
        with np.load(tmp_path / f"{name}.npz") as archive:
            masks[name] = archive["segs"]
            assert masks[name].dtype == np.uint8
    np.testing.assert_array_equal(masks["cpp"], masks["c"])
    assert masks["python"].any()
    assert np.mean(masks["cpp"] == masks["python"]) >= 0.9999
    done = subprocess.run(
        [hosts["c_host"], "nowhere", *given[1:], "m.npz", "1", "1", "1"],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert "expected a bundle folder" in done.stderr


def test_the_readme_is_right(released: tuple[Path, Path], tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 4)
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```")
    (cmake,) = (block.removeprefix("cmake\n") for block in blocks if block.startswith("cmake\n"))
    (code,) = (block.removeprefix("cpp\n") for block in blocks if block.startswith("cpp\n"))
    click = ", ".join(map(str, click_on(case, next(iter(case.prompts)))))
    code = code.replace('"bundle"', f'"{TINY}"').replace("scan.nii.gz", str(tmp_path / "case.npz"))
    (tmp_path / "main.cpp").write_text(
        f"#include <gstk/gstk.hpp>\nint main() {{\n{code.replace('40, 88, 120', click)}\nreturn labels.empty();\n}}\n"
    )
    project = "cmake_minimum_required(VERSION 3.22)\nproject(readme C CXX)\nadd_executable(viewer main.cpp)\n" + cmake
    (tmp_path / "CMakeLists.txt").write_text(project)
    run(build(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={released[1]}") / "viewer")


@pytest.mark.parametrize("kind", ["scaled.nii.gz", "plain.nii", "second.nii", "swapped.nii"])
def test_nifti_goes_through_with_its_geometry(hosts: dict[str, Path], tmp_path: Path, kind: str) -> None:
    case = phantom(tmp_path / "case.npz", 4, 40)
    image = sitk.GetImageFromArray(case.image.astype(np.int16))
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetOrigin((-40.0, 12.0, 7.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    file, mask = tmp_path / kind, tmp_path / f"mask_{kind}"
    sitk.WriteImage(image, str(file))
    if kind.startswith("scaled"):
        scaled = sitk.ReadImage(str(file))
        scaled.SetMetaData("scl_slope", "2")
        sitk.WriteImage(scaled, str(file))
    if kind.startswith(("second", "swapped")):
        file.write_bytes(_nifti(case.image.astype(np.int16), kind.startswith("second")))
    z, y, x = click_on(case, next(iter(case.prompts)))
    run(hosts["cpp_viewer_host"], TINY, file, mask, f"+{z},{y},{x}")
    if kind.startswith("second"):  # which ITK does not read
        assert mask.read_bytes()[:12] == file.read_bytes()[:12]
        found = np.frombuffer(mask.read_bytes()[544:], np.uint16).reshape(case.image.shape)
        assert np.mean(found == clicked_mask(case.image, (2, 1, 1), (z, y, x))) >= 0.9999
        return
    read, written = sitk.ReadImage(str(file)), sitk.ReadImage(str(mask))
    assert written.GetPixelID() == sitk.sitkUInt16
    np.testing.assert_allclose(written.GetSpacing(), read.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(written.GetOrigin(), read.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(written.GetDirection(), read.GetDirection(), atol=1e-6)
    expected = clicked_mask(sitk.GetArrayFromImage(read), read.GetSpacing()[::-1], (z, y, x))
    assert np.mean(sitk.GetArrayFromImage(written) == expected) >= 0.9999


def clicked_mask(image: np.ndarray, spacing_mm: tuple[float, ...], zyx: tuple[int, int, int]) -> np.ndarray:
    """What Python makes of one click."""
    with gstk.open("tiny", backend="openvino") as session:
        session.set_image(image, spacing_mm)
        session.add_point(zyx)
        assert session.mask.any()
        return session.mask.copy()


def _nifti(voxels: np.ndarray, second: bool) -> bytes:
    """A NIfTI-2 file, or a NIfTI-1 file of the other byte order, 2 x 1 x 1 mm."""
    sides = [3, *voxels.shape[::-1], 1, 1, 1, 1]
    steps = [1.0, 1.0, 1.0, 2.0, 0, 0, 0, 0]
    if second:
        header = bytearray(540)
        struct.pack_into("<i8shh8q", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16, *sides)
        struct.pack_into("<8dq", header, 104, *steps, 544)
        struct.pack_into("<i", header, 500, 2)
    else:
        header = bytearray(348)
        struct.pack_into(">i", header, 0, 348)
        struct.pack_into(">8h", header, 40, *sides)
        struct.pack_into(">hh", header, 70, 4, 16)
        struct.pack_into(">8ff", header, 76, *steps, 352)
        header[123], header[344:348] = 2, b"n+1\0"
    return bytes(header) + bytes(4) + voxels.astype("<i2" if second else ">i2").tobytes()


def test_the_sources_in_the_wheel_build_a_library_without_backends(tmp_path: Path) -> None:
    project = "cmake_minimum_required(VERSION 3.22)\nproject(host C CXX)\nfind_package(gstk 0.1 CONFIG REQUIRED)\n"
    project += f'add_executable(host "{ROOT}/cpp/tests/misuse.cpp")\ntarget_link_libraries(host PRIVATE gstk::gstk)\n'
    (tmp_path / "CMakeLists.txt").write_text(project)
    options = [f"-Dgstk_DIR={cmake_dir()}", "-DGSTK_OPENVINO=OFF", "-DCMAKE_BUILD_TYPE=None"]
    folder = build(tmp_path, tmp_path / "build", *options)
    run(folder / "host", TINY, tmp_path)
    (library,) = (file for file in folder.rglob("libgstk.so*") if not file.is_symlink())
    run("strip", "-o", tmp_path / "stripped.so", library)
    assert (tmp_path / "stripped.so").stat().st_size < 2 * 2**20


def test_pkg_config_knows_the_installed_library(released: tuple[Path, Path], tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    (where,) = released[1].rglob("gstk.pc")
    flags = run("pkg-config", "--cflags", "--libs", "gstk", PKG_CONFIG_PATH=str(where.parent)).split()
    (tmp_path / "main.c").write_text(
        "#include <gstk/gstk.h>\n#include <stdio.h>\nint main(void) { puts(gstk_version()); }\n"
    )
    run("gcc", tmp_path / "main.c", "-o", tmp_path / "main", *flags)
    libraries = next(released[1].rglob("libgstk.so")).parent
    assert run(tmp_path / "main", LD_LIBRARY_PATH=str(libraries)).strip() == gstk.__version__
    for file in [where, *released[1].rglob("*.cmake")]:
        assert str(released[1].parent) not in file.read_text()


def test_strangers_files_end_in_errors_only(tmp_path: Path) -> None:
    """Fuzzing of the readers: libFuzzer where clang has it, else mutations by a fixed seed."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    case = phantom(tmp_path / "case.npz", 5, 32)
    image = case.image[:4, :5, :6]
    np.savez_compressed(tmp_path / "small.npz", imgs=image, spacing=np.ones(3))
    np.save(tmp_path / "array.npy", np.asfortranarray(image.astype(">f2")))
    whole = _nifti(image.astype(np.int16), False)
    samples = [(TINY / "manifest.json").read_bytes(), (tmp_path / "array.npy").read_bytes(), whole[:348]]
    samples += [(tmp_path / "small.npz").read_bytes(), whole, json.dumps(a_model().to_json()).encode()]
    for index, sample in enumerate(samples):
        (inputs / str(index)).write_bytes(bytes([index]) + sample)
    sources = [
        ROOT / "cpp/src" / f"{n}.cpp"
        for n in ("geometry", "json_fields", "latency", "manifest", "nifti", "npz", "volume", "volume_files")
    ]
    sources += [ROOT / "cpp/tests/fuzz.cpp"]
    common = [
        "-std=c++17",
        "-O1",
        f"-I{ROOT}/cpp/src",
        f"-I{ROOT}/cpp/include",
        "-o",
        tmp_path / "fuzz",
        "-lz",
        "-lminizip",
    ]
    common += ["-fno-sanitize-recover=all"]
    seconds = [
        "-seed=1",
        f"-max_total_time={FUZZ_SECONDS}",
        "-rss_limit_mb=2048",
        "-verbosity=0",
        f"-artifact_prefix={tmp_path}/",
    ]
    try:
        run("clang++", "-fsanitize=fuzzer,address,undefined", *sources, *common)
        run(tmp_path / "fuzz", *seconds, inputs)
    except FileNotFoundError:
        run("g++", "-fsanitize=address,undefined", *sources, ROOT / "cpp/tests/mutate.cpp", *common)
        run(tmp_path / "fuzz", FUZZ_SECONDS, inputs)


def test_versions_agree() -> None:
    told = [(cmake_dir() / "gstk-config-version.cmake").read_text(), (ROOT / "cpp/CMakeLists.txt").read_text()]
    assert all(f'"{gstk.__version__}"' in text or f"VERSION {gstk.__version__} " in text for text in told)


def test_examples_stay_short() -> None:
    for file in (ROOT / "examples").glob("*/main.*"):
        assert len(file.read_text().splitlines()) <= 120

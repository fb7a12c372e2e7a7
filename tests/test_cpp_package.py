"""The C++ host as others use it: installed, from the wheel, by CMake and pkg-config, in the example hosts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from cpp_build import ROOT, build, needs_a_compiler, run
from cpp_nifti import nifti_bytes
from cpp_replay import click_on, phantom

import gstk
from gstk.core.bundle import builtin
from gstk.cpp import cmake_dir

pytestmark = needs_a_compiler

TINY = builtin("tiny")


@pytest.fixture(scope="session")
def hosts(released: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example hosts, built against the installed package."""
    folder = tmp_path_factory.mktemp("hosts")
    found = f"-DCMAKE_PREFIX_PATH={released}"
    return {
        name: build(ROOT / "examples" / name, folder / name, found) / name for name in ("cpp_viewer_host", "c_host")
    }


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


def test_the_documented_project_works(released: Path, tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 4)
    blocks = (ROOT / "docs" / "cpp.md").read_text(encoding="utf-8").split("```")
    (cmake,) = (block.removeprefix("cmake\n") for block in blocks if block.startswith("cmake\n"))
    code, described = (block.removeprefix("cpp\n") for block in blocks if block.startswith("cpp\n"))
    click = ", ".join(map(str, click_on(case, next(iter(case.prompts)))))
    code = code.replace("scan.nii.gz", str(tmp_path / "case.npz"))
    (tmp_path / "main.cpp").write_text(
        "#include <gstk/gstk.hpp>\n#include <array>\n#include <cstdint>\n#include <iostream>\n#include <string>\n"
        "void describe(gstk::Session& session, const std::int16_t* voxels, std::int64_t z, std::int64_t y,\n"
        "    std::int64_t x, const std::array<double, 9>& direction, const std::array<double, 3>& origin_mm) {\n"
        f"{described}}}\nint main() {{\n{code.replace('40, 88, 120', click)}\nreturn labels.empty();\n}}\n"
    )
    project = (
        "cmake_minimum_required(VERSION 3.22)\nproject(documented C CXX)\nadd_executable(viewer main.cpp)\n" + cmake
    )
    (tmp_path / "CMakeLists.txt").write_text(project)
    run(build(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={released}") / "viewer")


def test_bundles_are_found_by_name(released: Path, hosts: dict[str, Path], tmp_path: Path) -> None:
    case = phantom(tmp_path / "case.npz", 4, 40)
    z, y, x = click_on(case, next(iter(case.prompts)))
    given = (tmp_path / "case.npz", tmp_path / "mask.npz", z, y, x)
    run(hosts["c_host"], "tiny", *given)
    shutil.copytree(TINY, tmp_path / "shelf" / "mine")
    run(hosts["c_host"], "mine", *given, GSTK_BUNDLES=f"/nowhere:{tmp_path / 'shelf'}")
    (installed,) = released.rglob("share/gstk/bundles/tiny/manifest.json")
    shelves = [str(installed.parents[1]), str(TINY.resolve().parent)]
    for name in ("mine", "../tiny", "", "tiny/"):
        done = subprocess.run(
            [*map(str, (hosts["c_host"], name, *given))], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path
        )
        assert done.returncode == 1
        assert "expected a bundle folder" in done.stderr
        assert all(shelf in done.stderr for shelf in shelves) == (name == "mine")


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
        file.write_bytes(nifti_bytes(case.image.astype(np.int16), kind.startswith("second")))
    z, y, x = click_on(case, next(iter(case.prompts)))
    run(hosts["cpp_viewer_host"], TINY, file, mask, f"+{z},{y},{x}")
    if kind.startswith("second"):  # which ITK does not read
        assert mask.read_bytes()[:12] == file.read_bytes()[:12]
        found = np.frombuffer(mask.read_bytes()[544:], np.uint8).reshape(case.image.shape)
        assert np.mean(found == clicked_mask(case.image, (2, 1, 1), (z, y, x))) >= 0.9999
        return
    read, written = sitk.ReadImage(str(file)), sitk.ReadImage(str(mask))
    assert written.GetPixelID() == sitk.sitkUInt8
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


def test_the_sources_in_the_wheel_build_a_library_without_backends(tmp_path: Path) -> None:
    project = "cmake_minimum_required(VERSION 3.22)\nproject(host C CXX)\nfind_package(gstk 0.1 CONFIG REQUIRED)\n"
    project += f'add_executable(host "{ROOT}/cpp/tests/misuse.cpp")\ntarget_link_libraries(host PRIVATE gstk::gstk)\n'
    (tmp_path / "CMakeLists.txt").write_text(project)
    # As `released` is compiled, so that ccache may know most of it.
    options = [f"-Dgstk_DIR={cmake_dir()}", "-DGSTK_OPENVINO=OFF", "-DGSTK_WERROR=ON", "-DCMAKE_BUILD_TYPE=Release"]
    folder = build(tmp_path, tmp_path / "build", *options)
    run(folder / "host", TINY, tmp_path)
    (library,) = (file for file in folder.rglob("libgstk.so*") if not file.is_symlink())
    run("strip", "-o", tmp_path / "stripped.so", library)
    assert (tmp_path / "stripped.so").stat().st_size < 2 * 2**20


def test_pkg_config_knows_the_installed_library(released: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    (where,) = released.rglob("gstk.pc")
    flags = run("pkg-config", "--cflags", "--libs", "gstk", PKG_CONFIG_PATH=str(where.parent)).split()
    (tmp_path / "main.c").write_text(
        "#include <gstk/gstk.h>\n#include <stdio.h>\nint main(void) { puts(gstk_version()); }\n"
    )
    run("gcc", tmp_path / "main.c", "-o", tmp_path / "main", *flags)
    libraries = next(released.rglob("libgstk.so")).parent
    assert run(tmp_path / "main", LD_LIBRARY_PATH=str(libraries)).strip() == gstk.__version__
    for file in [where, *released.rglob("*.cmake")]:
        assert str(released.parent) not in file.read_text()


def test_what_the_documentation_says_of_metadata_compiles(tmp_path: Path) -> None:
    blocks = (ROOT / "docs" / "cpp.md").read_text(encoding="utf-8").split("```cpp\n")[1:]
    (block,) = (text.split("```")[0] for text in blocks if "set_metadata" in text)
    given = "const std::int16_t* voxels, std::int64_t z, std::int64_t y, std::int64_t x, gstk::Session& session,"
    given += " const std::array<double, 9>& direction, const gstk::Triple& origin_mm"
    text = f"#include <gstk/gstk.hpp>\n#include <iostream>\nvoid show({given}) {{\n{block}}}\n"
    (tmp_path / "show.cpp").write_text(text)
    run("g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", f"-I{ROOT}/cpp/include", tmp_path / "show.cpp")


def test_versions_agree() -> None:
    told = [(cmake_dir() / "gstk-config-version.cmake").read_text(), (ROOT / "cpp/CMakeLists.txt").read_text()]
    assert all(f'"{gstk.__version__}"' in text or f"VERSION {gstk.__version__} " in text for text in told)


def test_examples_stay_short() -> None:
    for file in (ROOT / "examples").glob("*/main.*"):
        assert len(file.read_text().splitlines()) <= 120

"""Building the C++ host: where its tools are, and the builds that all tests share."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAKES = ROOT / "cpp" / "tests" / "fake_tensorrt"
ENVIRONMENT = {
    "TBB_ENABLE_SANITIZERS": "1",  # OpenVINO's threading library loads a helper in a way that sanitizers do not take
    "LSAN_OPTIONS": f"suppressions={ROOT / 'tests' / 'data' / 'lsan.supp'}",
    "FAKE_GPUS": "0",  # of the stand-in for CUDA, unless a test says otherwise
}
HEADERS = ("nlohmann/json.hpp", "minizip/unzip.h", "zlib.h", "openssl/evp.h")
PACKAGES = "cmake g++ ninja-build nlohmann-json3-dev zlib1g-dev libminizip-dev libssl-dev"
SAY_EVERY_S = 15


def missing() -> str:
    """What the build needs and this machine lacks, as a reason to skip; empty where all is there."""
    tools = [tool for tool in ("cmake", "ninja", "g++") if shutil.which(tool) is None]
    if not tools:
        source = "".join(f"#include <{header}>\n" for header in HEADERS)
        probe = ["g++", "-x", "c++", "-std=c++17", "-E", "-o", os.devnull, "-"]
        if subprocess.run(probe, input=source, text=True, encoding="utf-8", capture_output=True).returncode:
            tools = ["headers"]
    if importlib.util.find_spec("openvino") is None:
        tools.append("openvino")
    return f"needs {', '.join(tools)}: apt-get install {PACKAGES}, pip install openvino" if tools else ""


needs_a_compiler = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
"""Marks of the test files that build the C++ host."""


def run(*command: object, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **ENVIRONMENT, **environment},
    )
    assert done.returncode == 0, (
        f"{command[0]} exited with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    )
    return done.stdout


def build(
    source: Path, folder: Path, *options: str, target: str = "all", on_progress: Callable[[str], None] | None = None
) -> Path:
    """Configures and builds a CMake project, however long that takes; returns its build folder.

    What ccache has compiled before is not compiled again, where it is installed.

    Args:
        target: what is built, by its name in CMake.
        on_progress: told every few seconds how far the build is.
    """
    cached = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    run("cmake", "-S", source, "-B", folder, "-G", "Ninja", *cached, *options)
    done = subprocess.Popen(
        ["cmake", "--build", folder, "--target", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert done.stdout is not None
    lines, said = [], time.monotonic()
    for line in done.stdout:
        lines.append(line)
        step = re.match(r"\[\d+/\d+\]", line)
        if step and on_progress is not None and time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            on_progress(step.group())
    assert done.wait() == 0, f"building {source} failed:\n{''.join(lines)[-6000:]}"
    return folder


@pytest.fixture(scope="session")
def say_progress(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Writes a line to the terminal, past what pytest captures."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            print(f"\nbuilding the C++ host {text}", file=sys.stderr, flush=True)

    return say


@pytest.fixture(scope="session")
def checked(once_for_all: Callable[..., Path], say_progress: Callable[[str], None]) -> Path:
    """Folder of the test programs, static, with AddressSanitizer and UndefinedBehaviorSanitizer and every backend.

    TensorRT and CUDA are stand-ins; ONNX Runtime is there where its headers are.
    """

    def make(folder: Path) -> None:
        options = ["-DBUILD_SHARED_LIBS=OFF", "-DGSTK_SANITIZE=address,undefined", "-DGSTK_WERROR=ON"]
        # Without optimisation, which takes longer than it saves here: most of the time goes into the backend.
        options += ["-DCMAKE_BUILD_TYPE=None", openvino_option(), f"-DPython3_EXECUTABLE={sys.executable}"]
        build(FAKES, folder / "lib", openvino_option(), on_progress=say_progress)
        options.append("-DGSTK_TENSORRT=ON")
        for part in ("TENSORRT", "CUDA"):
            options += [f"-DGSTK_{part}_DIR={folder}", f"-DGSTK_{part}_INCLUDE_DIR={FAKES}"]
        if onnxruntime_headers() is not None:
            options += onnxruntime_options(folder)
        build(ROOT / "cpp", folder / "checked", *options, on_progress=say_progress)

    return once_for_all("cpp_checked", make) / "checked" / "tests"


@pytest.fixture(scope="session")
def released(once_for_all: Callable[..., Path], say_progress: Callable[[str], None]) -> Path:
    """An installation of the shared library, moved after it was installed; its build folder `build` is beside it."""

    def make(folder: Path) -> None:
        options = ["-DGSTK_WERROR=ON", "-DCMAKE_BUILD_TYPE=Release", openvino_option()]
        build(ROOT / "cpp", folder / "build", *options, on_progress=say_progress)
        run("cmake", "--install", folder / "build", "--prefix", folder / "first")
        (folder / "first").rename(folder / "moved")

    return once_for_all("cpp_released", make) / "moved"


def onnxruntime_headers() -> Path | None:
    """Folder of ONNX Runtime's headers, which its wheel lacks: one that is named, or the system's."""
    named = os.environ.get("GSTK_ONNXRUNTIME_INCLUDE_DIR")
    folders = [Path(named)] if named else [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime")]
    return next((folder for folder in folders if (folder / "onnxruntime_cxx_api.h").is_file()), None)


def onnxruntime_options(folder: Path) -> list[str]:
    """Where ONNX Runtime is, as options of CMake: its headers, and the library of Python's package, so that both run
    the same. Links to it by the names that linkers look for are made in a folder.
    """
    import onnxruntime

    headers = onnxruntime_headers()
    assert headers is not None
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    return [
        "-DGSTK_ONNXRUNTIME=ON",
        f"-DGSTK_ONNXRUNTIME_INCLUDE_DIR={headers}",
        f"-DGSTK_ONNXRUNTIME_LIBRARY={folder / 'libonnxruntime.so'}",
    ]


def openvino_option() -> str:
    """Where OpenVINO's CMake package is, as an option of CMake."""
    from openvino.utils import get_cmake_path

    return f"-DOpenVINO_DIR={get_cmake_path()}"

"""Building the C++ host: where its tools are, and one call of each of them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# OpenVINO's threading library loads a helper in a way that sanitizers do not take, unless told.
SANITIZED = {"TBB_ENABLE_SANITIZERS": "1"}
HEADERS = ("nlohmann/json.hpp", "minizip/unzip.h", "zlib.h", "openssl/evp.h")
PACKAGES = "cmake g++ ninja-build nlohmann-json3-dev zlib1g-dev libminizip-dev libssl-dev"


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


def run(*command: object, timeout: float = 600, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        env={**os.environ, "LSAN_OPTIONS": f"suppressions={ROOT / 'tests' / 'data' / 'lsan.supp'}", **environment},
    )
    assert done.returncode == 0, (
        f"{command[0]} exited with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    )
    return done.stdout


def build(source: Path, folder: Path, *options: str) -> Path:
    """Configures and builds a CMake project; returns its build folder."""
    run("cmake", "-S", source, "-B", folder, "-G", "Ninja", *options)
    run("cmake", "--build", folder)
    return folder


def build_checked(folder: Path, *options: str) -> Path:
    """Builds the test programs, static, with AddressSanitizer and UndefinedBehaviorSanitizer; returns their folder."""
    options += ("-DBUILD_SHARED_LIBS=OFF", "-DGSTK_SANITIZE=address,undefined", "-DGSTK_WERROR=ON")
    # Without optimisation, which takes longer than it saves here: most of the time goes into the backend.
    return build(ROOT / "cpp", folder, "-DCMAKE_BUILD_TYPE=None", *options) / "tests"


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

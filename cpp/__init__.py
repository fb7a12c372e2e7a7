"""Sources of the C++ host, as data: a library with a C ABI, its headers, and a CMake package that builds it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cmake_dir"]


def cmake_dir() -> Path:
    """Folder of `gstk-config.cmake`, for CMake's `-Dgstk_DIR`."""
    return Path(__file__).resolve().parent / "cmake"

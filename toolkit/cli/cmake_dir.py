"""`gstk cmake-dir`: prints the folder of gstk's CMake package, for C++ applications."""

import typer

__all__ = ["cmake_dir_command"]


def cmake_dir_command() -> None:
    """Print the folder of gstk's CMake package: cmake -Dgstk_DIR=$(gstk cmake-dir)."""
    from gstk.cpp import cmake_dir

    typer.echo(str(cmake_dir()))

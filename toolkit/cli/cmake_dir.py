"""`gstk cmake-dir`: the folder in which CMake finds gstk for C++ hosts."""

import typer

__all__ = ["cmake_dir_command"]


def cmake_dir_command() -> None:
    """Print the folder of gstk's CMake package: cmake -Dgstk_DIR=$(gstk cmake-dir)."""
    from gstk.cpp import cmake_dir

    typer.echo(str(cmake_dir()))

"""Importing gstk stays light, torch stays where it is needed, and the public names resolve.

Which room may import which is checked by import-linter (`make lint`; the contract stands in pyproject.toml).
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gstk

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "gstk"

LOADED_LAZILY = (
    "engines/cuda.py",
    "engines/tensorrt_execution.py",
    "engines/tensorrt_log.py",
    "engines/tensorrt_network.py",
    "engines/tensorrt_runs.py",
    "engines/tensorrt_slots.py",
    "engines/torch_graph.py",
)
"""Modules that import a heavy package at their head; nothing outside of them imports them at its own."""
HEAVY = (
    *("torch", "monai", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "cuda"),
    *("matplotlib", "skimage", "ray"),
)


def imported_at_once(text: str) -> Iterator[str]:
    """The modules that a module imports when it is imported: outside functions, and not for types alone."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not (for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    return visit(ast.parse(text))


def modules(*rooms: str) -> list[str]:
    """Files of rooms, relative to the package."""
    found = []
    for room in rooms:
        place = SOURCES / room
        files = [place] if place.is_file() else sorted(place.resolve().rglob("*.py"))
        base = place.parent if place.is_file() else place.resolve()
        found += [file.name if place.is_file() else f"{room}/{file.relative_to(base).as_posix()}" for file in files]
    return found


RUN_WITHOUT_TORCH = modules(
    "__init__.py", "errors.py", "core", "cases", "session", "batch", "evaluation", "cli", "engines"
)


@pytest.mark.parametrize("module", RUN_WITHOUT_TORCH)
def test_heavy_packages_are_imported_inside_functions(module: str) -> None:
    if module in LOADED_LAZILY:
        return
    lazy = tuple("gstk." + name.removesuffix(".py").replace("/", ".") for name in LOADED_LAZILY)
    for target in imported_at_once((SOURCES / module).read_text(encoding="utf-8")):
        assert target.split(".")[0] not in HEAVY, f"{module} must import {target} inside a function"
        assert target not in lazy, f"{module} must import {target} inside a function"


def test_the_reader_of_imports() -> None:
    text = """
import os, gstk.errors as e
from gstk.core import click_rule
if TYPE_CHECKING:
    import a
class C:
    import b
    def f(self):
        import torch.nn
"""
    assert list(imported_at_once(text)) == ["os", "gstk.errors", "gstk.core", "gstk.core.click_rule", "b"]
    assert len(RUN_WITHOUT_TORCH) > 80


def test_every_entry_of_the_package_is_a_link_to_a_room() -> None:
    """Tools find `gstk` in src without an install; nothing of the package lies elsewhere."""
    expected = {entry.name for entry in (ROOT / "toolkit").iterdir() if entry.name != "__pycache__"}
    expected |= {"engines", "calibration", "export", "training", "cpp"}
    links = {entry.name: entry for entry in SOURCES.iterdir() if entry.name != "__pycache__"}
    assert set(links) == expected
    assert all(link.is_symlink() and link.exists() for link in links.values())


@pytest.mark.parametrize("module", ["gstk", "gstk.cli"])
def test_importing_is_light(module: str) -> None:
    heavy = ("torch", "monai", "openvino", "onnxruntime", "SimpleITK", "scipy")
    code = f"import json, sys, {module}; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


def test_public_names_resolve() -> None:
    assert sorted(gstk.__all__) == gstk.__all__
    for name in gstk.__all__:
        assert getattr(gstk, name) is not None
    assert set(gstk.__all__) <= set(dir(gstk))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gstk.nothing  # noqa: B018

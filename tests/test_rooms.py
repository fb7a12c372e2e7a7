"""Which room may import which, read from the sources; and that importing gstk stays light."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gstk

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "toolkit": "gstk",
    "cpp": "gstk.cpp",
    "export": "gstk.export",
    "engines": "gstk.engines",
    "training": "gstk.training",
}
ROOMS |= {"calibration": "gstk.calibration"} if (ROOT / "calibration").is_dir() else {}

LEAVES = ("gstk.errors", "gstk.clicks", "gstk.preprocess", "gstk._version")
BUNDLE = ("gstk.export.bundle", "gstk.export.manifest")
LOADED_LAZILY = (
    "gstk.engines.cuda",
    "gstk.engines.tensorrt_execution",
    "gstk.engines.tensorrt_log",
    "gstk.engines.tensorrt_network",
    "gstk.engines.tensorrt_runs",
    "gstk.engines.tensorrt_slots",
    "gstk.engines.torch_graph",
)
"""Modules that import what is heavy, and are imported inside functions alone."""
HEAVY = (
    *("torch", "monai", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "cuda"),
    *("matplotlib", "skimage", "ray"),
)


def sources() -> dict[str, Path]:
    """Every module of the distribution, by its installed name."""
    found = {}
    for folder, package in ROOMS.items():
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = file
    return found


SOURCES = sources()


def room_of(module: str) -> str:
    """The folder that a module of gstk lives in."""
    first = module.split(".")[1] if "." in module else ""
    return first if first in ROOMS and first != "toolkit" else "toolkit"


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imports(module: str, text: str, is_package: bool = False) -> Iterator[tuple[str, bool]]:
    """What a module imports, and whether inside a function or for types alone.

    `from a import b` is a.b where that is a module.
    """

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield (name if name in SOURCES else source), lazy
        for_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        inner = lazy or for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    return visit(ast.parse(text), False)


def may_import(module: str, target: str, lazy: bool) -> bool:
    """The import rules between rooms. `module` and `target` are modules of gstk."""
    room, other = room_of(module), room_of(target)
    if target in LEAVES:
        return True
    if module in LEAVES:
        return False
    if module in BUNDLE:
        return target in (*BUNDLE, "gstk.training.spec")
    match room:
        case "toolkit":
            free = lazy and (within(module, ("gstk.cli",)) or module == "gstk.demo")
            return free or other in ("toolkit", "engines", "calibration") or target in BUNDLE
        case "engines":
            return other == "engines" or target in BUNDLE
        case "calibration":
            return other in ("calibration", "engines") or target in BUNDLE
        case "cpp":
            return False  # sources of another language, and where they lie
        case "export":
            return other in ("export", "training", "engines")  # parity compares what the engines give
        case _:
            # What describes a network is read where nothing else is; cases and the session are training's to use.
            leaf = module in ("gstk.training.spec", "gstk.training.phantoms")
            used = other == "toolkit" and target != "gstk" and not within(target, ("gstk.cli", "gstk.demo"))
            return other == "training" or (not leaf and (used or target == "gstk.engines.base"))


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_rooms_import_only_what_they_may(module: str) -> None:
    file = SOURCES[module]
    text = file.read_text(encoding="utf-8")
    for target, lazy in imports(module, text, file.name == "__init__.py"):
        if within(target, ("gstk",)):
            assert may_import(module, target, lazy), f"{file.relative_to(ROOT)} must not import {target}"
        if room_of(module) == "toolkit" and not lazy:
            assert not within(target, HEAVY), f"{file.relative_to(ROOT)} must import {target} inside a function"


@pytest.mark.parametrize("room", sorted(set(ROOMS) - {"toolkit", "training"}))
def test_torch_stays_where_it_is_needed(room: str) -> None:
    """Bundles are read and run where torch is not: what toolkit imports does not import it either."""
    for module, file in SOURCES.items():
        if (room == "engines" and room_of(module) == room) or (module in BUNDLE and room == "export"):
            for target, lazy in imports(module, file.read_text(encoding="utf-8"), file.name == "__init__.py"):
                heavy = within(target, HEAVY) and module not in LOADED_LAZILY
                among = target in LOADED_LAZILY and module not in LOADED_LAZILY
                assert lazy or not (heavy or among), f"{file.relative_to(ROOT)} imports {target}"


def test_every_room_is_there() -> None:
    for module in ("gstk", "gstk.cli", "gstk.engines.base", "gstk.export.bundle", "gstk.training.spec", *LEAVES):
        assert module in SOURCES
    assert {room_of(module) for module in SOURCES} == set(ROOMS)


@pytest.mark.parametrize(
    ("module", "target", "lazy", "allowed"),
    [
        ("gstk.session", "gstk.engines.base", False, True),
        ("gstk.opening", "gstk.export.bundle", False, True),
        ("gstk.session", "gstk.export.graphs", True, False),
        ("gstk.session", "gstk.training.network", True, False),
        ("gstk.demo", "gstk.training.phantoms", True, True),
        ("gstk.demo", "gstk.training.phantoms", False, False),
        ("gstk.cli.export", "gstk.export.export", True, True),
        ("gstk.cli.cmake_dir", "gstk.cpp", True, True),
        ("gstk.cpp", "gstk.errors", False, True),
        ("gstk.cpp", "gstk.engines", False, False),
        ("gstk.cli.export", "gstk.export.export", False, False),
        ("gstk.engines.openvino", "gstk.session", True, False),
        ("gstk.engines.openvino", "gstk.export.manifest", False, True),
        ("gstk.engines.openvino", "gstk.preprocess", False, True),
        ("gstk.export.bundle", "gstk.training.spec", False, True),
        ("gstk.export.bundle", "gstk.training.network", True, False),
        ("gstk.export.graphs", "gstk.training.network", False, True),
        ("gstk.export.graphs", "gstk.session", True, False),
        ("gstk.export.parity", "gstk.engines", False, True),
        ("gstk.training.data", "gstk.preprocess", False, True),
        ("gstk.training.data", "gstk.export.bundle", True, False),
        ("gstk.training.data", "gstk", False, False),
        ("gstk.training.data", "gstk.cases", False, True),
        ("gstk.training.data", "gstk.cli.train", True, False),
        ("gstk.training.spec", "gstk.cases", False, False),
        ("gstk.training.validation", "gstk.engines.base", False, True),
        ("gstk.training.validation", "gstk.engines.openvino", True, False),
        ("gstk.clicks", "gstk.errors", False, True),
        ("gstk.clicks", "gstk.geometry", False, False),
    ],
)
def test_the_rules_themselves(module: str, target: str, lazy: bool, allowed: bool) -> None:
    assert may_import(module, target, lazy) is allowed


def test_the_reader_of_imports() -> None:
    text = """
import os, gstk.errors as e
from gstk import clicks, Session
from . import base
from .base import Engine
if TYPE_CHECKING:
    import a
class C:
    import b
    def f(self):
        import torch.nn
        return lambda: __import__("c")
"""
    assert list(imports("gstk.engines.select", text)) == [
        ("os", False),
        ("gstk.errors", False),
        ("gstk.clicks", False),
        ("gstk", False),
        ("gstk.engines.base", False),
        ("gstk.engines.base", False),
        ("a", True),
        ("b", False),
        ("torch.nn", True),
    ]
    assert list(imports("gstk.engines", "from .base import Engine", True)) == [("gstk.engines.base", False)]


@pytest.mark.parametrize("module", ["gstk", "gstk.cli"])
def test_importing_is_light(module: str) -> None:
    heavy = ("torch", "monai", "openvino", "onnxruntime", "SimpleITK", "scipy")
    code = f"import json, sys, {module}; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


def test_public_names_resolve() -> None:
    assert sorted(gstk.__all__) == gstk.__all__
    for name in gstk.__all__:
        assert getattr(gstk, name) is not None
    assert set(gstk.__all__) <= set(dir(gstk))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gstk.nothing  # noqa: B018

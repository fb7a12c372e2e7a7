"""Every name of TensorRT and CUDA that gstk uses is in 10.13, in 11.4 and in cuda-bindings; the stand-ins' too."""

from __future__ import annotations

import ast
import enum
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCUDA
from fake_cuda import module as cuda_module
from fake_tensorrt import Fake

ROOT = Path(__file__).resolve().parents[1]
OLD, NEW = (
    json.loads((ROOT / "tests" / "data" / f"tensorrt_{version}_names.json").read_text(encoding="utf-8"))["classes"]
    for version in ("10_13", "11_4")
)
MODULES = sorted((ROOT / "engines").glob("tensorrt*.py"))
TALKING = [file for file in MODULES if "\nimport tensorrt as trt\n" in file.read_text(encoding="utf-8")]
"""Modules that hold TensorRT's objects."""


def chains(text: str, root: str) -> set[str]:
    """`trt.X.Y` of a source, for any depth."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id == root:
            found.add(".".join(reversed(parts)))
    return found


def old_members(name: str) -> dict[str, Any]:
    """A class's members with those of its bases."""
    entry = OLD[name]
    found = dict(entry["members"])
    for base in entry["bases"]:
        found |= old_members(base) if base in OLD else {}
    return found


def test_the_lists_tell_the_versions_apart() -> None:
    assert "FP16" in OLD["BuilderFlag"]["members"]
    assert "FP16" not in NEW["BuilderFlag"]
    assert "device_memory_size" in OLD["ICudaEngine"]["members"]
    assert "device_memory_size" not in NEW["ICudaEngine"]


@pytest.mark.parametrize("module", MODULES, ids=lambda file: file.stem)
def test_names_are_in_both_versions(module: Path) -> None:
    for chain in chains(module.read_text(encoding="utf-8"), "trt"):
        if chain == "__version__":
            continue
        # The longest prefix that is a class (`ILogger.Severity`), then at most one member of it.
        name, _, member = chain.rpartition(".") if chain not in NEW else (chain, "", "")
        assert name in OLD, f"{chain} is not in TensorRT 10.13"
        assert name in NEW, f"{chain} is not in TensorRT 11.4"
        if member:
            assert member in old_members(name), f"{chain} is not in TensorRT 10.13"
            new = {*NEW[name], *(NEW["ILogger"] if name == "ILogger.Severity" else ())}
            assert member in new, f"{chain} is not in TensorRT 11.4"


@pytest.mark.parametrize("module", TALKING, ids=lambda file: file.stem)
def test_no_member_that_a_version_lacks(module: Path) -> None:
    """Whatever object it is used on; mypy knows the objects, and is run with the names of both versions."""
    old = {member for name in OLD for member in OLD[name]["members"]}
    new = {member for members in NEW.values() for member in members}
    used = {
        node.attr for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }
    assert used & old
    assert not (used & old) - new


def test_some_members_are_used_at_all() -> None:
    used = set().union(*(chains(module.read_text(encoding="utf-8"), "trt") for module in MODULES))
    assert {"Builder", "BuilderFlag.STRIP_PLAN", "ILogger.Severity.ERROR", "Runtime"} <= used


@pytest.mark.parametrize("version", ["10.13.0.35", "11.4.0.106"])
def test_stand_in_has_nothing_that_tensorrt_lacks(version: str) -> None:
    module = Fake(version).module
    classes = {name: found for name, found in vars(module).items() if inspect.isclass(found)}
    assert len(classes) > 20
    for name, found in classes.items():
        assert name in NEW
        members = found.__members__ if issubclass(found, enum.Enum) else vars(found)
        for member, value in members.items():
            if member.startswith("_") and member != "__init__":
                continue
            known = old_members(name)
            if member not in ("__init__", "Severity"):
                assert member in known, f"{name}.{member} is not in TensorRT 10.13"
                assert member in NEW[name], f"{name}.{member} is not in TensorRT 11.4"
            overloads = known.get(member)
            if inspect.isfunction(value) and overloads is not None:
                given = [parameter for parameter in inspect.signature(value).parameters if parameter != "self"]
                assert any(given == parameters[: len(given)] for parameters in overloads), (
                    f"{name}.{member}({', '.join(given)}), but TensorRT has {overloads}"
                )


def test_cuda_names_and_parameters_are_those_of_cuda_bindings() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    fake = cuda_module(FakeCUDA())
    text = (ROOT / "engines" / "cuda.py").read_text(encoding="utf-8")
    for chain in chains(text, "cudart"):
        part = real
        for name in chain.split("."):
            assert hasattr(part, name), f"cuda-bindings has no {chain}"
            part = getattr(part, name)
    for name, found in vars(fake).items():
        if not name.startswith("cuda"):
            continue
        if inspect.isclass(found):
            assert {m.name: m.value for m in found}.items() <= {m.name: m.value for m in getattr(real, name)}.items()
        elif inspect.isfunction(found):
            documented = getattr(real, name).__doc__.splitlines()[0]
            inside = re.match(rf"{name}\((.*)\)", documented)
            assert inside, documented
            wanted = [part.split(":")[0].split()[-1].strip("*") for part in inside[1].split(",") if part.strip()]
            assert list(inspect.signature(found.__wrapped__).parameters) == wanted, documented
        else:
            assert found == getattr(real, name)

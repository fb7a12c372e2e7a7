"""Makes the type stubs of TensorRT 10.13 (PyPI's `tensorrt-stubs`) readable, and writes down what is in them.

    python .ci/tensorrt_stubs.py STUBS [--only tests/data/tensorrt_11_4_names.json --into STUBS_11]
    python .ci/tensorrt_stubs.py STUBS --names tests/data/tensorrt_10_13_names.json

Five methods of the package are not Python (a parameter that is named `in`, or one without a default behind others that
have one), and neither mypy nor `ast` reads a file with such a line. Their parameters are replaced by any, and so are
results that are written as `...`, which mypy takes for none at all. `bool` in it is TensorRT's own data type of that
name; what is meant is Python's.

With --only, a second copy keeps what another version has too: code that mypy passes with both uses no name that one of
them lacks.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any


def repaired(text: str) -> str:
    """The text with every method that does not parse made one of any parameters."""
    text = text.replace(") -> ...:", ") -> typing.Any:")
    if "import builtins" not in text:
        text = re.sub(r"(-> |\w: )bool\b", r"\1builtins.bool", text)
        text = text.replace("import typing\n", "import builtins\nimport typing\n", 1)
    lines = text.splitlines()
    while True:
        try:
            ast.parse("\n".join(lines))
            return "\n".join(lines) + "\n"
        except SyntaxError as error:
            number = (error.lineno or 1) - 1
            method = re.match(r"(\s*)def (\w+)\(", lines[number])
            if method is None or "*args" in lines[number]:
                raise
            lines[number] = f"{method[1]}def {method[2]}(self, *args: typing.Any) -> typing.Any:"


def kept(text: str, wanted: dict[str, list[str]]) -> str:
    """The text without the classes and members that are not wanted; Python's own (`__len__`) stay."""

    def visit(body: list[ast.stmt], prefix: str) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for node in body:
            if isinstance(node, ast.ClassDef):
                if prefix + node.name not in wanted:
                    continue
                members = wanted[prefix + node.name]
                node.body = [
                    child
                    for child in visit(node.body, f"{prefix}{node.name}.")
                    if isinstance(child, ast.ClassDef)
                    or _name(child) in ("", *members)
                    or _name(child).startswith("__")
                ] or [ast.Pass()]
            found.append(node)
        return found

    tree = ast.parse(text)
    tree.body = visit(tree.body, "")
    return ast.unparse(tree) + "\n"


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef):
        return node.name
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""


def names(text: str) -> dict[str, Any]:
    """Classes, and of each its members: parameters of each overload of a method, None for an attribute."""
    found: dict[str, Any] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                found[prefix + node.name] = {"bases": bases, "members": _members(node.body)}
                visit(node.body, f"{prefix}{node.name}.")

    visit(ast.parse(text).body, "")
    return found


def _members(body: list[ast.stmt]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            marks = " ".join(ast.unparse(mark) for mark in node.decorator_list)
            if "property" in marks or "setter" in marks:
                members[node.name] = None
            else:
                parameters = [argument.arg for argument in node.args.args if argument.arg not in ("self", "this")]
                members.setdefault(node.name, []).append(parameters)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            members[node.target.id] = None
    return members


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stubs", type=Path, help="folder that holds `tensorrt` and `tensorrt_bindings`")
    parser.add_argument("--names", type=Path, help="write names and parameters there")
    parser.add_argument("--only", type=Path, help="JSON with the classes and members of another version")
    parser.add_argument("--into", type=Path, help="folder for stubs of what is in both")
    arguments = parser.parse_args()
    file = arguments.stubs / "tensorrt_bindings" / "tensorrt.pyi"
    text = repaired(file.read_text(encoding="utf-8"))
    file.write_text(text, encoding="utf-8")
    if arguments.names:
        about = "Names and parameters of TensorRT 10.13.0.35, read from PyPI's tensorrt-stubs by .ci/tensorrt_stubs.py."
        content = {"_about": about, "classes": names(text)}
        arguments.names.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    if arguments.only and arguments.into:
        shutil.copytree(arguments.stubs, arguments.into, dirs_exist_ok=True)
        wanted = json.loads(arguments.only.read_text(encoding="utf-8"))["classes"]
        (arguments.into / "tensorrt_bindings" / "tensorrt.pyi").write_text(kept(text, wanted), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a result was measured on, and where it goes."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gstk.engines.processor import this_processor


def describe(*packages: str) -> dict[str, Any]:
    """Processor, cores and versions, ready for JSON."""
    processor = this_processor()
    versions = {}
    for package in ("gstk", "numpy", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": processor.name,
        "cores": os.cpu_count(),
        "vector": list(processor.instructions),
        "python": platform.python_version(),
        **versions,
    }


def add_to_report(name: str, result: dict[str, Any], out: Path) -> None:
    """Writes a result to a file, in the place of the one of that name, if there is one; the others stay."""
    report = json.loads(out.read_text()) if out.is_file() else {}
    out.write_text(json.dumps({**report, name: result}, indent=1) + "\n", encoding="utf-8")


def write_report(report: dict[str, Any], out: Path | None) -> None:
    """Prints a result as JSON, and writes it to a file if one is given."""
    text = json.dumps(report, indent=1) + "\n"
    if out:
        out.write_text(text)
    print(text)

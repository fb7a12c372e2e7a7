"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
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

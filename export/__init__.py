"""Export: converts a checkpoint into a bundle of ONNX graphs. Importing this package does not import torch."""

from typing import Any

from gstk.core.bundle import Bundle, Manifest, find_bundle, write_bundle

__all__ = ["Bundle", "Manifest", "export_bundle", "find_bundle", "write_bundle"]


def __getattr__(name: str) -> Any:
    if name == "export_bundle":
        from gstk.export.export import export_bundle

        return export_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

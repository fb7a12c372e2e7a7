"""gstk: VISTA3D, an interactive 3D medical segmentation network, from fine-tuning to deployment.

    session = gstk.open("tiny")
    session.set_image(volume, spacing_mm=(z, y, x))
    session.add_point((z, y, x))
    session.mask

Importing gstk is light: backends, SimpleITK and torch are imported by what needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gstk._version import __version__

if TYPE_CHECKING:
    from gstk.cases import Case, load_case
    from gstk.errors import GstkError
    from gstk.geometry import Geometry
    from gstk.inference import infer
    from gstk.opening import open
    from gstk.prompts import Box, ObjectPrompts, Point
    from gstk.session import Session

__all__ = [
    "Box",
    "Case",
    "Geometry",
    "GstkError",
    "ObjectPrompts",
    "Point",
    "Session",
    "__version__",
    "infer",
    "load_case",
    "open",
]

_HOMES = {
    "Box": "prompts",
    "Case": "cases",
    "Geometry": "geometry",
    "GstkError": "errors",
    "ObjectPrompts": "prompts",
    "Point": "prompts",
    "Session": "session",
    "infer": "inference",
    "load_case": "cases",
    "open": "opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gstk' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"gstk.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""gstk: VISTA3D, an interactive 3D medical segmentation network, from fine-tuning to deployment.

    session = gstk.open("tiny")
    session.set_image(gstk.read_volume("scan.nii.gz"))
    session.add_point((z, y, x))
    session.mask

Importing gstk is light: backends, SimpleITK and torch are imported by what needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gstk._version import __version__

if TYPE_CHECKING:
    from gstk.batch.infer import infer
    from gstk.cases.npz import Case, load_case
    from gstk.cases.reading import read_volume
    from gstk.core.geometry import Geometry
    from gstk.core.prompts import Box, ObjectPrompts, Point
    from gstk.core.volume import Volume
    from gstk.errors import GstkError
    from gstk.session.factory import open
    from gstk.session.session import Session

__all__ = [
    "Box",
    "Case",
    "Geometry",
    "GstkError",
    "ObjectPrompts",
    "Point",
    "Session",
    "Volume",
    "__version__",
    "infer",
    "load_case",
    "open",
    "read_volume",
]

_HOMES = {
    "Box": "core.prompts",
    "Case": "cases.npz",
    "Geometry": "core.geometry",
    "GstkError": "errors",
    "ObjectPrompts": "core.prompts",
    "Point": "core.prompts",
    "Session": "session.session",
    "Volume": "core.volume",
    "infer": "batch.infer",
    "load_case": "cases.npz",
    "open": "session.factory",
    "read_volume": "cases.reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gstk' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"gstk.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""`gstk.open`: a bundle, the best backend that is here, and a session on them."""

from __future__ import annotations

from gstk.engines.select import open_engine
from gstk.export.bundle import Bundle, find_bundle
from gstk.files import StrPath
from gstk.session import Session
from gstk.window import Framing

__all__ = ["open"]


def open(
    bundle: StrPath = "tiny", backend: str = "auto", threads: int | None = None, precision: str = "fp32"
) -> Session:
    """Opens a bundle for interactive use.

    Args:
        bundle: a bundle's folder, or the name of one that ships inside the package.
        backend: a name that `gstk engines` lists, or "auto" for the best that is here.
        threads: processor threads to use; None leaves it to the backend.
        precision: `fp32`, or another that the bundle holds, such as `int8`.

    Raises:
        BundleError: the bundle is not there, is not what its manifest says, or has no graphs of that precision.
        BackendMissing: the backend is not installed; the message names the extra that installs it.
    """
    opened = Bundle.open(find_bundle(bundle))
    roi = opened.manifest.roi
    z, y, x = roi.default
    framing = Framing(voxels=z * y * x, multiple=roi.multiple, minimum=roi.minimum)
    return Session(open_engine(opened, backend, precision, threads), framing)

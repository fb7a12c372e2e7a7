"""`gstk.open`: a bundle, the best backend that is here, and a session on them."""

from __future__ import annotations

from gstk.engines.select import open_engine
from gstk.errors import EngineError
from gstk.export.bundle import Bundle, find_bundle
from gstk.files import StrPath
from gstk.session import Session
from gstk.window import Framing

__all__ = ["open"]

SMALL_REGION_VOXELS = 64**3


def open(
    bundle: StrPath = "tiny", backend: str = "auto", threads: int | None = None, views: int | None = None
) -> Session:
    """Opens a bundle for interactive use.

    Args:
        bundle: a bundle's folder, or the name of one that ships inside the package.
        backend: "openvino", "onnxruntime", or "auto" for the best that is here.
        threads: processor threads to use; None leaves it to the backend.
        views: 1, or 2 to average the answers to a window and to its mirror image, steadier for twice the time; None is
            2 for bundles of small regions (64³ and below, where it costs tenths of a second), else 1.

    Raises:
        BundleError: the bundle is not there, or is not what its manifest says.
        BackendMissing: the backend is not installed; the message names the extra that installs it.
        EngineError: `views` is neither 1 nor 2.
    """
    if views not in (None, 1, 2):
        raise EngineError(f"got {views} views, expected 1 or 2")
    opened = Bundle.open(find_bundle(bundle))
    roi = opened.manifest.roi
    z, y, x = roi.default
    voxels = z * y * x
    views = views or (2 if voxels <= SMALL_REGION_VOXELS else 1)
    framing = Framing(voxels=voxels, multiple=roi.multiple, minimum=roi.minimum, views=views)
    return Session(open_engine(opened, backend=backend, threads=threads), framing)

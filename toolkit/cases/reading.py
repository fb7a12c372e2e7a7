"""`gstk.read_volume`: a file of any format as what a session takes."""

from __future__ import annotations

from gstk.cases.npz import SpacingOrder
from gstk.cases.volumes import read_any
from gstk.core.files import StrPath
from gstk.core.volume import Volume

__all__ = ["read_volume"]


def read_volume(
    path: StrPath, spacing_order: SpacingOrder = "zyx", *, series: str | None = None, phase: int | None = None
) -> Volume:
    """Reads a volume with all that a network's input profile asks of it: `session.set_image(gstk.read_volume(path))`.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a DICOM file or a folder of DICOM slices, or an .npz case.
        spacing_order: axis order of an .npz file's `spacing`; the other formats know their own.
        series, phase: which image of a DICOM folder; see `gstk.cases.volumes.read_volume`.

    Returns:
        The image (z,y,x) in the file's own units and orientation, its geometry in LPS mm, modality and units.

    Raises:
        CaseError: the path does not exist, is of no known format, or cannot be read.
        GeometryError, PromptError: see `gstk.load_case`.

    Warns:
        CaseWarning: the file is odd; see `gstk.cases.volumes.read_volume`.
    """
    return read_any(path, spacing_order, series=series, phase=phase).volume

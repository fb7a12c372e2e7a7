"""Reads files of any format for sessions and commands."""

from __future__ import annotations

import warnings
from pathlib import Path

from gstk.cases import volumes
from gstk.cases.npz import Case, SpacingOrder, load_case
from gstk.core.files import StrPath
from gstk.core.volume import Volume

__all__ = ["read_case", "read_volume"]


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
        CaseWarning: something was left out or assumed; see `gstk.cases.volumes.read_volume`.
    """
    return volumes.read_any(path, spacing_order, series=series, phase=phase).volume


def read_case(
    path: Path, intensity_window: str, spacing_order: SpacingOrder, series: str | None = None, phase: int | None = None
) -> Case:
    """Reads a case from an .npz or a volume, and warns of options that do not apply to the file.

    Args:
        path: see `read_volume`, as for `spacing_order`, `series` and `phase`.
        intensity_window: that a caller asks for.

    Raises:
        CaseError, GeometryError, PromptError: see `read_volume`.

    Warns:
        UserWarning: `intensity_window` or `spacing_order` does not apply to such a file.
    """
    if path.suffix.lower() == ".npz":
        if intensity_window != "auto":
            said = (
                f"intensity window {intensity_window} is not applied: the intensities of an .npz are taken as they are"
            )
            warnings.warn(said, stacklevel=2)
        return load_case(path, spacing_order)
    if spacing_order != "zyx":
        said = f"spacing order {spacing_order} is not applied: the file itself says which axis is which"
        warnings.warn(said, stacklevel=2)
    return volumes.read_volume(path, series=series, phase=phase)

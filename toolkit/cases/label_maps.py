"""Label maps in any format, brought to the grid of the image that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.cases.grid_match import lay_on_grid
from gstk.cases.label_names import LabelName
from gstk.cases.nifti import read_nifti_labels
from gstk.cases.npz import Case, LabelMap, to_label_map
from gstk.cases.segmentation import is_segmentation, read_fields, read_segmentation, segment_names
from gstk.cases.volumes import read_volume
from gstk.core.files import StrPath
from gstk.core.geometry import Geometry
from gstk.core.safe_npz import read_npz
from gstk.errors import CaseError

__all__ = ["NamedLabels", "read_label_map"]


class NamedLabels(NamedTuple):
    """A label map, uint8 or uint16 (z,y,x), and what its file says of the names of its ids; often nothing."""

    labels: LabelMap
    names: dict[int, LabelName]


def read_label_map(path: StrPath, case: Case) -> NamedLabels:
    """Reads a label map that lies on a case's grid.

    Args:
        path: a NIfTI, NRRD, MetaImage or DICOM file, a segmentation of 3D Slicer (.seg.nrrd), or an .npz with `gts` or
            with the `segs` of a result. Its axes may be in another order or run the other way, as long as its voxels
            are the image's; 3D Slicer's segmentations may reach less or farther than the image.
        case: the image's. An .npz has no origin and no axes: between it and another file only the shape is compared.

    Raises:
        CaseError: it cannot be read, holds no label ids, or lies on another grid.

    Warns:
        CaseWarning: see `read_volume` and `read_segmentation`.
    """
    file = Path(path)
    what = f"the label map {file.name}"
    if file.suffix.lower() == ".npz":
        return NamedLabels(to_label_map(_npz_labels(file), case.geometry.shape, f"{what} of {case.name}"), {})
    array, geometry, names = _read(file)
    is_regular = geometry.shape == case.geometry.shape and np.allclose(geometry.affine, case.geometry.affine, atol=1e-3)
    if case.slices is not None and array.shape == case.slices.geometry.shape and not is_regular:
        return NamedLabels(case.slices.resample(to_label_map(array, array.shape, what), nearest=True), names)
    if case.path is None or case.path.suffix.lower() != ".npz":
        whole = not is_segmentation(file)
        is_turned = sorted(array.shape) == sorted(case.geometry.shape)
        shape = case.geometry.shape if whole and not is_turned else array.shape
        labels = to_label_map(array, shape, f"{what} of {case.name}")
        array = lay_on_grid(labels, geometry, case.geometry, f"{what} of {case.name}", whole=whole)
    return NamedLabels(to_label_map(array, case.geometry.shape, f"{what} of {case.name}"), names)


def _read(file: Path) -> tuple[NDArray[np.generic], Geometry, dict[int, LabelName]]:
    if is_segmentation(file):
        found = read_segmentation(file)
        return found.labels, found.geometry, found.names
    volume = read_volume(file, is_label_map=True)
    name = file.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return volume.image, volume.geometry, read_nifti_labels(file)
    names = segment_names(read_fields(file)) if name.endswith((".nrrd", ".nhdr")) else {}
    return volume.image, volume.geometry, names


def _npz_labels(file: Path) -> NDArray[np.generic]:
    arrays = read_npz(file, ("gts", "segs", "imgs"))
    if not arrays:
        raise CaseError(f"{file} holds no 'gts' and no 'segs', expected a label map (z, y, x)")
    return next(iter(arrays.values()))

"""Segmentation cases: an image with its geometry and prompts, and the .npz layout that holds them.

Keys of a case: `imgs` (z, y, x), `spacing` (3,), `boxes` and `clicks` (object arrays, one dict a class),
`clicks_order` (one list of 'fg' and 'bg' a class), `prev_pred` and `gts` (z, y, x). Only `imgs` must be there. Class i
of the lists is label i + 1. A result holds one key, `segs` (z, y, x).
"""

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from gstk.cases.slice_grid import SliceGrid
from gstk.core.files import StrPath, atomic_path
from gstk.core.geometry import Geometry
from gstk.core.intensities import is_case_like
from gstk.core.prompts import Box, ObjectPrompts, Point, list_prompts, parse_prompts
from gstk.core.safe_npz import npz_keys, read_npz
from gstk.core.volume import Volume
from gstk.errors import CaseError, GeometryError, OneLine, OutputError, PromptError

__all__ = [
    "Box",
    "Case",
    "CaseWarning",
    "LabelMap",
    "ObjectPrompts",
    "Point",
    "SpacingOrder",
    "check_image",
    "load_case",
    "load_labels",
    "looks_reversed",
    "read_geometry",
    "save_case",
    "save_segs",
    "to_label_map",
]

SpacingOrder: TypeAlias = Literal["zyx", "xyz"]
LabelMap: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_KEYS = ("imgs", "spacing", "boxes", "clicks", "clicks_order", "prev_pred", "gts")


class CaseWarning(OneLine, UserWarning):
    """A case was read, but something in it is probably not what its author meant."""


@dataclass(frozen=True, eq=False)
class Case:
    """A volume with its geometry, prompts and labels.

    Attributes:
        name: file name without its suffix.
        image: (z, y, x), any integer or float dtype, finite.
        geometry: shape, spacing, origin and direction of the image.
        prompts: by label id, from 1. Every class that the file lists is there, even one without a prompt.
        labels: uint8 or uint16 (z, y, x), the reference segmentation, 0 is background; None where there is none.
        prev_mask: the same for the segmentation of an earlier round.
        path: where the case was read from.
        modality: DICOM modality such as "CT", where the file says it.
        slices: where the slices lie that the image was resampled from; None where it is on the grid that was read.
        slice_files: the DICOM files that the image was read from, by position; empty where there are none, or where one
            holds several slices.
        nifti_header: of the NIfTI file that the image is from, which its mask carries; None for other files.
        has_orientation: whether the file says how the patient lies.

    Raises:
        CaseError: an array's shape is not the geometry's.
    """

    name: str
    image: npt.NDArray[Any]
    geometry: Geometry
    prompts: dict[int, ObjectPrompts] = field(default_factory=dict)
    labels: LabelMap | None = None
    prev_mask: LabelMap | None = None
    path: Path | None = None
    modality: str | None = None
    slices: SliceGrid | None = None
    slice_files: tuple[Path, ...] = ()
    nifti_header: bytes | None = None
    has_orientation: bool = True

    def __post_init__(self) -> None:
        for what, array in (("image", self.image), ("labels", self.labels), ("prev_mask", self.prev_mask)):
            if array is not None and array.shape != self.geometry.shape:
                raise CaseError(f"got {what} of shape {array.shape} in {self.name}, expected {self.geometry.shape}")

    @property
    def volume(self) -> Volume:
        """The image as a session takes it."""
        from_npz = self.path is not None and self.path.suffix.lower() == ".npz"
        units = "HU" if self.modality == "CT" else None
        if self.image.dtype == np.uint8 or (from_npz and is_case_like(self.image)):
            units = "0-255"  # windowed already: uint8 has no room for HU
        has_orientation = self.has_orientation and not from_npz
        return Volume(self.image, self.geometry, self.modality, units, has_orientation, self.name)


def load_case(path: StrPath, spacing_order: SpacingOrder = "zyx") -> Case:
    """Read a case from an .npz file. Safe for files of unknown origin: nothing in the file is executed.

    Args:
        path: the .npz file.
        spacing_order: axis order of the file's `spacing`. The layout has (z, y, x); some published files (x, y, z).

    Returns:
        The case, its spacing in (z, y, x) and in mm. The layout has no origin or direction: they are 0 and identity.
        Clicks and boxes at fractions of a voxel are rounded, halves up. Without `clicks_order` the foreground clicks
        of a class come before its background clicks.

    Raises:
        CaseError: the file or an array in it is missing, damaged, of a wrong shape or dtype, or not finite.
        GeometryError: `spacing` is not three finite numbers above 0.
        PromptError: a click or box is malformed or outside the volume.

    Warns:
        CaseWarning: there is no spacing (1 mm is assumed), or its order looks reversed.
    """
    file = Path(path)
    if spacing_order not in ("zyx", "xyz"):
        raise CaseError(f"got the spacing order {spacing_order!r}, expected 'zyx' or 'xyz'")
    try:
        arrays = read_npz(file, _KEYS)
    except CaseError:
        if file.exists() and file.suffix.lower() != ".npz":
            raise CaseError(f"got {file.name}, expected an .npz case; read volumes with gstk.read_volume") from None
        raise
    if "imgs" not in arrays:
        found = ", ".join(npz_keys(file)[:10]) or "nothing"
        raise CaseError(f"{file.name} holds {found}, expected 'imgs' (z, y, x); is it a case, not a result?")
    image = check_image(arrays["imgs"], f"'imgs' of {file.name}")
    geometry = read_geometry(image.shape, arrays.get("spacing"), spacing_order, file.name)
    masks: dict[str, LabelMap | None] = {}
    for key in ("gts", "prev_pred"):
        mask = arrays.get(key)
        masks[key] = None if mask is None else to_label_map(mask, geometry.shape, f"'{key}' of {file.name}")
    boxes, clicks, orders = (_one_a_class(arrays, key, file.name) for key in ("boxes", "clicks", "clicks_order"))
    try:
        prompts = parse_prompts(boxes, clicks, orders, geometry)
    except PromptError as error:
        raise PromptError(f"{file.name}: {error}") from None
    name = file.name.removesuffix(".npz")
    return Case(name, image, geometry, prompts, labels=masks["gts"], prev_mask=masks["prev_pred"], path=file)


def save_case(path: StrPath, case: Case) -> None:
    """Write a case as .npz, whole or not at all. Origin and direction have no place in the layout and are left out.

    Raises:
        CaseError: the image is not numeric, or not finite.
        OutputError: the file cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        "imgs": check_image(case.image, f"the image of {case.name}"),
        "spacing": np.asarray(case.geometry.spacing_mm, np.float64),
    }
    for key, entries in list_prompts(case.prompts).items():
        arrays[key] = np.empty(len(entries), object)
        for index, entry in enumerate(entries):  # assigned at once, lists of one length would become a 2-D array
            arrays[key][index] = entry
    if case.prev_mask is not None:
        arrays["prev_pred"] = case.prev_mask
    if case.labels is not None:
        arrays["gts"] = case.labels
    _save_npz(path, arrays)


def load_labels(path: StrPath, shape: tuple[int, ...]) -> LabelMap:
    """Read the reference `gts` of an .npz file that need not hold anything else. Safe for files from strangers.

    Args:
        path: the .npz file.
        shape: the shape (z, y, x) that it must have.

    Raises:
        CaseError: the file or its `gts` is missing, damaged, of another shape or no label map.
    """
    file = Path(path)
    arrays = read_npz(file, ("gts",))
    if "gts" not in arrays:
        raise CaseError(f"{file} holds no 'gts', expected the reference segmentation (z, y, x)")
    return to_label_map(arrays["gts"], shape, f"'gts' of {file.name}")


def save_segs(path: StrPath, mask: npt.NDArray[Any], steps: Sequence[npt.NDArray[Any]] | None = None) -> None:
    """Write a segmentation as .npz with the key `segs`, whole or not at all.

    Args:
        path: the .npz file to write.
        mask: (z, y, x), whole label ids 0..65535 of any dtype; written as uint8 where they fit, else as uint16.
        steps: masks of several steps, written as `all_segs` (step, z, y, x).

    Raises:
        OutputError: a mask is no label map, or the file cannot be written.
    """
    try:
        arrays: dict[str, npt.NDArray[Any]] = {"segs": to_label_map(mask, mask.shape, "the mask")}
        if steps is not None:
            arrays["all_segs"] = np.stack([to_label_map(step, mask.shape, "the mask of a step") for step in steps])
    except CaseError as error:
        raise OutputError(str(error)) from None
    _save_npz(path, arrays)


def check_image(image: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Return a (z, y, x) image as it is (booleans as uint8), or raise CaseError where nothing can segment it.

    Args:
        image: the array to check.
        what: what it is, for messages: "'imgs' of case.npz".

    Raises:
        CaseError: the array is not 3-D, empty, not numeric, or holds NaN or infinity.
    """
    if image.ndim != 3:
        raise CaseError(f"got shape {image.shape} for {what}, expected three axes (z, y, x); split other axes off")
    if image.size == 0:
        raise CaseError(f"got the empty shape {image.shape} for {what}, expected at least one voxel")
    if image.dtype.kind == "b":
        return image.astype(np.uint8)
    if image.dtype.kind not in "iuf":
        raise CaseError(f"got dtype {image.dtype} for {what}, expected integers or floats")
    if image.dtype.kind == "f":
        bad = image.size - int(np.count_nonzero(np.isfinite(image)))
        if bad:
            raise CaseError(f"got {bad} voxels of NaN or infinity in {what}, expected finite numbers; replace them")
    return image


def to_label_map(mask: npt.NDArray[Any], shape: tuple[int, ...], what: str) -> LabelMap:
    """Return a mask as uint8 (z, y, x) where its ids fit, else as uint16.

    Args:
        mask: (z, y, x), whole label ids 0..65535 of any dtype.
        shape: the shape (z, y, x) it must have.
        what: what it is, for messages: "'gts' of case.npz".

    Raises:
        CaseError: the mask has another shape, is empty, or holds anything but whole numbers 0..65535.
    """
    if mask.shape != shape or mask.ndim != 3 or mask.size == 0:
        raise CaseError(f"got shape {mask.shape} for {what}, expected {shape if len(shape) == 3 else '(z, y, x)'}")
    if mask.dtype.kind not in "biuf":
        raise CaseError(f"got dtype {mask.dtype} for {what}, expected integer label ids")
    if mask.dtype != np.uint8:
        low, high = mask.min(), mask.max()
        # NaN compares false, so it fails the range test too.
        if not (low >= 0 and high <= 65535) or (mask.dtype.kind == "f" and not np.array_equal(mask, np.rint(mask))):
            raise CaseError(f"got values from {low} to {high} in {what}, expected whole label ids from 0 to 65535")
        if high > 255:
            return mask.astype(np.uint16, copy=False)
    return mask.astype(np.uint8, copy=False)


def read_geometry(
    shape: tuple[int, ...], spacing: npt.NDArray[Any] | None, spacing_order: SpacingOrder, file_name: str
) -> Geometry:
    """The geometry of an .npz case, which has no origin and no direction.

    Args:
        shape: of its image (z, y, x).
        spacing: its `spacing`; None where it has none.
        spacing_order: axis order of `spacing`.
        file_name: for messages.

    Raises:
        GeometryError: `spacing` is not three finite numbers above 0.

    Warns:
        CaseWarning: there is no spacing (1 mm is assumed), or its order looks reversed.
    """
    if spacing is None:
        warnings.warn(f"{file_name} has no 'spacing'; 1 mm along each axis is assumed", CaseWarning, stacklevel=3)
        spacing = np.ones(3)
    if spacing.size != 3 or spacing.dtype.kind not in "iuf":
        raise GeometryError(
            f"got a spacing of dtype {spacing.dtype} and shape {spacing.shape} in {file_name}, expected three numbers"
        )
    z, y, x = (float(s) for s in spacing.ravel()[:: 1 if spacing_order == "zyx" else -1])
    try:
        geometry = Geometry((shape[0], shape[1], shape[2]), (z, y, x))
    except GeometryError as error:
        raise GeometryError(f"{file_name}: {error}; correct 'spacing' in the file") from None
    if looks_reversed(geometry):
        other = "xyz" if spacing_order == "zyx" else "zyx"
        warnings.warn(
            f"the spacing of {file_name}, read as (z, y, x) = ({z:g}, {y:g}, {x:g}) for shape {geometry.shape}, looks "
            f"reversed; if it is, use --spacing-order {other}",
            CaseWarning,
            stacklevel=3,
        )
    return geometry


def looks_reversed(geometry: Geometry) -> bool:
    """Whether a spacing (z, y, x) looks as if it were (x, y, z).

    Slices are the axis apart from the others both in number and in spacing: here the two disagree.
    """
    (z, y, x), shape = geometry.spacing_mm, geometry.shape
    alike = bool(np.isclose(z, y, rtol=1e-3)) and not bool(np.isclose(y, x, rtol=1e-3))
    return alike and shape[0] < min(shape[1:])


def _one_a_class(arrays: Mapping[str, npt.NDArray[Any]], key: str, file_name: str) -> Sequence[Any]:
    array = arrays.get(key)
    if array is None:
        return []
    if array.ndim == 0:
        raise PromptError(f"got a single value as '{key}' of {file_name}, expected a list with one entry a class")
    return list(array.tolist())


def _save_npz(path: StrPath, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    try:
        with atomic_path(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, array in arrays.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
                    npy.write_array(stream, array)
    except (ValueError, MemoryError) as error:
        raise OutputError(f"cannot write {path}: {error}") from error

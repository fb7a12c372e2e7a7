"""Reading volumes in clinical and research formats, writing masks, and finding cases in folders.

SimpleITK does the work; it is imported only where a volume is read or written.
"""

import errno
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstk.cases.dicom import read_dicom
from gstk.cases.dicom_headers import is_dicom_file
from gstk.cases.itk import one_line, quiet_itk
from gstk.cases.label_names import LabelName
from gstk.cases.nifti import has_place, read_nifti, write_nifti
from gstk.cases.npz import Case, CaseWarning, LabelMap, SpacingOrder, check_image, load_case, to_label_map
from gstk.cases.rescaling import Stored, rescaled
from gstk.cases.segmentation import SEGMENTATION_SUFFIX, is_segmentation, segment_fields
from gstk.cases.slice_grid import SliceGrid
from gstk.cases.stated_orientation import states_orientation
from gstk.cases.text_headers import check_voxels, read_text_header
from gstk.core.files import StrPath, atomic_path, explain_lost_bytes, is_lfs_pointer
from gstk.core.geometry import Geometry
from gstk.errors import CaseError, GeometryError, OutputError

__all__ = [
    "VOLUME_SUFFIXES",
    "case_name",
    "find_cases",
    "is_volume",
    "read_any",
    "read_volume",
    "write_case_mask",
    "write_mask",
]

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

_AT_RIGHT_ANGLES = 1e-4
_LARGEST_SHEAR = 1.01e-3
_KNOWN = f"expected .npz, {', '.join(VOLUME_SUFFIXES)}, a DICOM file or a folder of DICOM slices"


def case_name(path: StrPath) -> str:
    """The file or folder name without the suffix of a known format: "ct" for "ct.nii.gz"."""
    name = Path(path).name
    suffix = _suffix(Path(path)) or (".dcm" if name.lower().endswith(".dcm") else "")
    return name[: len(name) - len(suffix)]


def is_volume(path: StrPath) -> bool:
    """Whether `read_volume` is for this path: a known suffix, a DICOM file, or a folder with DICOM slices in it."""
    file = Path(path)
    if file.is_dir():
        return any(_is_dicom(child) for child in _files(file))
    return _suffix(file) in VOLUME_SUFFIXES or _is_dicom(file)


def find_cases(
    paths: StrPath | Iterable[StrPath], besides: StrPath | None = None, segmentations: bool = False
) -> list[Path]:
    """Expand files and folders to cases.

    Args:
        paths: one path or several. A file stands for itself. A folder stands for every .npz and volume file in it and
            below, sorted; a folder with DICOM slices is itself one case. Hidden files and folders are passed over.
        besides: a folder of results, passed over where it lies below a folder of `paths`.
        segmentations: whether 3D Slicer's segmentations (.seg.nrrd) count. Otherwise they are passed over in folders.

    Returns:
        The cases, without repetition.

    Raises:
        CaseError: a path does not exist, is of no known format, is a segmentation where none is wanted, is a folder
            without any case, or cannot be looked into.
    """
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        start = Path(path)
        if not start.exists():
            raise CaseError(f"{start} does not exist; check the path")
        if start.is_dir():
            below = _cases_below(start, None if besides is None else Path(besides).resolve())
            cases = [case for case in below if segmentations or not is_segmentation(case)]
        elif is_segmentation(start) and not segmentations:
            raise CaseError(f"got the segmentation {start}, expected an image; give a segmentation to --from")
        else:
            cases = [start] if _suffix(start) or _is_dicom(start) else []
        if not cases:
            raise CaseError(f"{start} {'holds no case' if start.is_dir() else 'is of no known format'}; {_KNOWN}")
        found.update(dict.fromkeys(cases))
    return list(found)


def read_any(
    path: StrPath, spacing_order: SpacingOrder = "zyx", *, series: str | None = None, phase: int | None = None
) -> Case:
    """Read a case from an .npz file or any volume format.

    Args:
        path: an .npz or volume file, a DICOM file, or a folder of DICOM slices.
        spacing_order: axis order of an .npz file's `spacing`; the other formats know their own.
        series, phase: see `read_volume`.

    Raises:
        CaseError: the path does not exist, is of no known format, or cannot be read.
        GeometryError, PromptError: see `gstk.cases.npz.load_case`.
    """
    if Path(path).suffix.lower() == ".npz":
        return load_case(path, spacing_order)
    return read_volume(path, series=series, phase=phase)


def read_volume(
    path: StrPath, *, series: str | None = None, phase: int | None = None, is_label_map: bool = False
) -> Case:
    """Read a NIfTI, NRRD or MetaImage file, or a DICOM series given as its folder or as any one of its files.

    Args:
        path: the file or folder.
        series: which series of a DICOM folder: its number, description or Series Instance UID. None takes that of the
            given file, or of a folder that with the largest image.
        phase: which image of a DICOM series that holds several (phases, echoes, a scout), from 1. None takes the
            largest.
        is_label_map: whether voxels are label ids; resampling then takes the nearest voxel and makes no new ids.

    Returns:
        A case without prompts. The image is (z, y, x) in the file's own dtype (with slope and intercept applied), in
        the stored orientation; its geometry is LPS mm. Slices that shift in their plane (a gantry tilt), and those of a
        DICOM series that are not evenly spaced, are resampled to a regular grid; `Case.slices` leads back.

    Raises:
        CaseError: the path does not exist, is of no known format, is damaged or truncated, is not a 3-D volume of
            single real values, holds NaN or infinity (in NIfTI those become 0), or has axes that are not at right
            angles in another way than by slices that shift in their plane.

    Warns:
        CaseWarning: a DICOM folder holds several series or images, files that are no images, or slices whose spacing
            is not stated; axes were taken as at right angles, or resampled; see also `gstk.cases.nifti.read_nifti`.
    """
    file = Path(path)
    if not file.exists():
        raise CaseError(f"{file} does not exist; check the path")
    if is_lfs_pointer(file):
        raise CaseError(f"{file} is a Git LFS pointer, not the file itself; run git lfs pull")
    if not is_volume(file):
        what = "holds no DICOM slices" if file.is_dir() else "is of no known format"
        raise CaseError(f"{file} {what}; {_KNOWN}")
    modality, header, slices, has_orientation = None, None, None, True
    slice_files: tuple[Path, ...] = ()
    what = f"the image of {file.name}"
    try:
        if _suffix(file) not in VOLUME_SUFFIXES or not file.is_file():
            dicom = read_dicom(file, series, phase, is_label_map)
            image, geometry, modality, slices = dicom.voxels, dicom.geometry, dicom.modality, dicom.slices
            slice_files = dicom.files
        elif _suffix(file) in (".nii", ".nii.gz"):
            image, geometry, header = read_nifti(file)
            has_orientation = has_place(header)
        else:
            image, geometry = _read_with_itk(file)
            has_orientation = states_orientation(file)
        image = check_image(image, what)
        if slices is None:
            image, geometry, slices = _straighten(image, geometry, file.name, is_label_map)
    except GeometryError as error:
        raise CaseError(f"cannot read {file}: {error}") from error
    except MemoryError as error:
        raise CaseError(f"cannot read {file}: {str(error) or 'it does not fit into memory'}") from error
    return Case(
        case_name(file),
        image,
        geometry,
        path=file,
        modality=modality,
        slices=slices,
        slice_files=slice_files,
        nifti_header=header,
        has_orientation=has_orientation,
    )


def write_case_mask(
    path: StrPath,
    mask: npt.NDArray[Any],
    case: Case,
    names: Mapping[int, LabelName] | None = None,
    regular: StrPath | None = None,
) -> Path | None:
    """Write a segmentation of a case's image where that image lies, whole or not at all.

    A NIfTI mask carries the header of a NIfTI image. Where the image was resampled (`Case.slices`), the mask is given
    back on what was read, and also written as `regular` on the grid of the case; a .seg.nrrd, which is for
    viewers, is written on the grid of the case alone.

    Args:
        path, names: see `write_mask`.
        mask: (z, y, x) of the case's image, whole label ids 0..65535.
        case: from `read_volume`, or an .npz case, which lies at the origin.
        regular: file of the mask on the regular grid; None is `<name>_regular` beside `path`.

    Returns:
        The file of the mask on the regular grid; None where there is none.

    Raises:
        OutputError: see `write_mask`.
    """
    target = Path(path)
    if case.slices is None or _suffix(target) == SEGMENTATION_SUFFIX:
        write_mask(target, mask, case.geometry, nifti_header=case.nifti_header, names=names)
        return None
    write_mask(target, case.slices.restore(mask), case.slices.geometry, nifti_header=case.nifti_header, names=names)
    beside = target.with_name(f"{case_name(target)}_regular{_suffix(target)}") if regular is None else Path(regular)
    write_mask(beside, mask, case.geometry, names=names)
    return beside


def write_mask(
    path: StrPath,
    mask: npt.NDArray[Any],
    geometry: Geometry,
    *,
    nifti_header: bytes | None = None,
    names: Mapping[int, LabelName] | None = None,
) -> None:
    """Write a segmentation, compressed, in the format that the suffix names; whole or not at all.

    Args:
        path: the file to write: .nii, .nii.gz, .nrrd, .seg.nrrd, .nhdr, .mha or .mhd.
        mask: (z, y, x), whole label ids 0..65535 of any dtype; written as uint8 where they fit, else as uint16.
        geometry: of the image that was segmented. NIfTI stores it in single precision; axes that are not at right
            angles it stores as the sform alone, which readers built on ITK refuse.
        nifti_header: `Case.nifti_header` of a NIfTI image; a NIfTI mask carries it in place of `geometry`.
        names: of label ids, with colours. A .seg.nrrd always has them (object N where there is none), as 3D Slicer's
            segmentations do; .nrrd and .nhdr carry the same fields, NIfTI an extension
            (`gstk.cases.nifti_labels`); MetaImage has no place for them.

    Raises:
        OutputError: the mask is no label map of the geometry's shape, the suffix is unknown, the format cannot hold
            the geometry, or the file cannot be written.
    """
    target = Path(path)
    suffix = _suffix(target)
    if suffix not in (SEGMENTATION_SUFFIX, *VOLUME_SUFFIXES):
        raise OutputError(f"got the suffix {target.suffix!r} for {target.name}, expected {', '.join(VOLUME_SUFFIXES)}")
    try:
        labels = to_label_map(mask, geometry.shape, "the mask")
    except CaseError as error:
        raise OutputError(str(error)) from None
    with atomic_path(target) as partial:
        if suffix in (".nii", ".nii.gz"):
            write_nifti(partial, labels, geometry, nifti_header, names)
        else:
            as_segmentation = suffix == SEGMENTATION_SUFFIX or (names and suffix in (".nrrd", ".nhdr"))
            fields = segment_fields(labels, names or {}) if as_segmentation else {}
            _write_with_itk(partial, labels, geometry, target, fields)


def _write_with_itk(
    partial: Path, labels: LabelMap, geometry: Geometry, target: Path, fields: Mapping[str, str]
) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(labels)
    geometry.apply_to(image)
    for key, value in fields.items():
        image.SetMetaData(key, value)
    try:
        with quiet_itk():
            SimpleITK.WriteImage(image, str(partial), useCompression=True)
    except RuntimeError as error:
        raise explain_lost_bytes(partial) or OutputError(f"cannot write {target}: {one_line(error)}") from error
    # ITK's writers do not say that a disk is full, so what they wrote is read back; and its readers do not miss the end
    # of a compressed stream, with its checksum, which others ask for.
    try:
        header = read_text_header(partial)
        if header is not None:
            check_voxels(partial, header)
        with quiet_itk():
            written = SimpleITK.ReadImage(str(partial))
        same = np.array_equal(SimpleITK.GetArrayViewFromImage(written), labels)
    except (RuntimeError, CaseError):
        same = False
    if not same:
        raise explain_lost_bytes(partial) or OSError(errno.EIO, "the file does not hold what was written to it")
    if not np.allclose(Geometry.from_sitk(written).affine, geometry.affine, rtol=1e-6, atol=1e-4):
        raise OutputError(f"{target.name} cannot hold axes that are not at right angles; write a .nrrd file")


def _straighten(
    image: npt.NDArray[Any], geometry: Geometry, name: str, nearest: bool
) -> tuple[npt.NDArray[Any], Geometry, SliceGrid | None]:
    """Resample an image whose slices shift in their plane to axes at right angles; leave others as they are."""
    axes = np.reshape(geometry.direction, (3, 3))
    axes = axes / np.linalg.norm(axes, axis=0)
    x, y, step = axes.T
    off = max(abs(float(x @ y)), float(np.hypot(x @ step, y @ step)))
    if off <= _AT_RIGHT_ANGLES:
        return image, geometry, None
    what = f"the axes of {name} are up to {math.degrees(math.asin(min(1.0, off))):.3g} degrees off right angles"
    if off <= _LARGEST_SHEAR:
        warnings.warn(f"{what}; they are taken as at right angles", CaseWarning, stacklevel=3)
        return image, geometry, None
    if abs(float(x @ y)) > _LARGEST_SHEAR or image.shape[0] == 1:
        raise CaseError(
            f"cannot read {name}: {what}, and not as slices shift with a gantry tilt; resample it to axes at right "
            "angles, for example with nibabel.processing.resample_to_output, and segment that"
        )
    y = y - (x @ y) * x
    y /= np.linalg.norm(y)
    z = np.cross(x, y)
    z *= np.sign(z @ step)
    spacing = geometry.spacing_mm
    positions = np.asarray(geometry.origin_mm) + np.outer(np.arange(image.shape[0]), step * spacing[0])
    grid = SliceGrid.of(image.shape, positions, np.stack([x, y, z]), (spacing[0] * float(z @ step), *spacing[1:]))
    warnings.warn(
        f"{what}, as with a gantry tilt; it is resampled to axes at right angles, and its mask is given back on the "
        "voxels read",
        CaseWarning,
        stacklevel=3,
    )
    return grid.resample(image, nearest), grid.regular, replace(grid, geometry=geometry)


def _read_with_itk(file: Path) -> tuple[npt.NDArray[Any], Geometry]:
    import SimpleITK

    header = read_text_header(file)
    unit, mm = ("", 1.0) if header is None else header.unit
    if header is not None:
        check_voxels(file, header)
    try:
        with quiet_itk():
            image = _read_file(file)
    except RuntimeError as error:
        raise CaseError(f"cannot read {file}: {one_line(error)}") from error
    voxels, geometry = SimpleITK.GetArrayFromImage(image), Geometry.from_sitk(image)
    if header is not None and not header.states_spacing:
        what = f"{file.name} does not state its spacing along every axis; 1 mm is assumed where it does not"
        warnings.warn(what, CaseWarning, stacklevel=3)
    slope, intercept = (1.0, 0.0) if header is None else header.scale
    if (slope, intercept) != (1.0, 0.0):
        voxels = rescaled(Stored(voxels, slope, intercept))
    if mm != 1.0:
        lengths = {name: tuple(v * mm for v in getattr(geometry, name)) for name in ("spacing_mm", "origin_mm")}
        geometry = replace(geometry, **lengths)
        warnings.warn(
            f"{file.name} states its place in {unit}; its mask is written in mm, and readers that pass units over show "
            "the two apart",
            CaseWarning,
            stacklevel=4,
        )
    return voxels, geometry


def _read_file(file: Path) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    _check_scalar_3d(file, reader)
    size = reader.GetSize()
    if len(size) > 3:
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    return reader.Execute()


def _check_scalar_3d(file: Path, reader: Any) -> None:
    import SimpleITK

    size, components, pixel_id = reader.GetSize(), reader.GetNumberOfComponents(), reader.GetPixelID()
    if len(size) < 3 or any(n != 1 for n in size[3:]):
        raise CaseError(f"got the {len(size)}-D size (x, y, ...) {size} in {file.name}, expected 3-D; take one frame")
    complex_ids = (SimpleITK.sitkComplexFloat32, SimpleITK.sitkComplexFloat64)
    if components != 1 or pixel_id in complex_ids:
        kind = SimpleITK.GetPixelIDValueAsString(pixel_id)
        raise CaseError(f"got {components} values a voxel ({kind}) in {file.name}, expected one real number each")


def _cases_below(folder: Path, besides: Path | None) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, onerror=_refuse_to_pass_over):
        below = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(name for name in below if besides is None or Path(root, name).resolve() != besides)
        files = [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        if any(_is_dicom(file) for file in files):
            yield Path(root)
        yield from (file for file in files if _suffix(file))


def _refuse_to_pass_over(error: OSError) -> None:
    """Cases in a folder that cannot be looked into would be missing without a word."""
    raise CaseError(
        f"cannot look into {error.filename}: {error.strerror}; change its rights, or give the other folders by name"
    ) from error


def _files(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_file() and not child.name.startswith("."))


def _suffix(path: Path) -> str:
    """The known suffix that a name ends with, in lower case; empty for none."""
    name = path.name.lower()
    return next((suffix for suffix in (SEGMENTATION_SUFFIX, *VOLUME_SUFFIXES, ".npz") if name.endswith(suffix)), "")


def _is_dicom(file: Path) -> bool:
    return not _suffix(file) and is_dicom_file(file)

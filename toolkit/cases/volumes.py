"""Reading volumes in clinical and research formats, writing masks, and finding cases in folders.

SimpleITK does the work; it is imported only where a volume is read or written.
"""

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gstk.cases.nifti_check import check_nifti_is_whole
from gstk.cases.npz import Case, CaseWarning, SpacingOrder, check_image, load_case, to_label_map
from gstk.core.files import StrPath, atomic_path
from gstk.core.geometry import Geometry
from gstk.errors import CaseError, GeometryError, OutputError

__all__ = ["VOLUME_SUFFIXES", "case_name", "find_cases", "is_volume", "read_any", "read_volume", "write_mask"]

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

_KNOWN = f"expected .npz, {', '.join(VOLUME_SUFFIXES)}, a DICOM file or a folder of DICOM slices"
_MODALITY_TAG = "0008|0060"
_THICKNESS_TAG = "0018|0050"
_SPACING_BETWEEN_TAG = "0018|0088"


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


def find_cases(paths: StrPath | Iterable[StrPath]) -> list[Path]:
    """Expand files and folders to cases.

    Args:
        paths: one path or several. A file stands for itself. A folder stands for every .npz and volume file in it and
            below, sorted; a folder with DICOM slices is itself one case. Hidden files and folders are passed over.

    Returns:
        The cases, without repetition.

    Raises:
        CaseError: a path does not exist, is of no known format, or is a folder without any case.
    """
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        start = Path(path)
        if not start.exists():
            raise CaseError(f"{start} does not exist; check the path")
        if start.is_dir():
            cases = list(_cases_below(start))
        else:
            cases = [start] if _suffix(start) or _is_dicom(start) else []
        if not cases:
            raise CaseError(f"{start} {'holds no case' if start.is_dir() else 'is of no known format'}; {_KNOWN}")
        found.update(dict.fromkeys(cases))
    return list(found)


def read_any(path: StrPath, spacing_order: SpacingOrder = "zyx") -> Case:
    """Read a case from an .npz file or any volume format.

    Args:
        path: an .npz or volume file, a DICOM file, or a folder of DICOM slices.
        spacing_order: axis order of an .npz file's `spacing`; the other formats know their own.

    Raises:
        CaseError: the path does not exist, is of no known format, or cannot be read.
        GeometryError, PromptError: see `gstk.cases.npz.load_case`.
    """
    if Path(path).suffix.lower() == ".npz":
        return load_case(path, spacing_order)
    return read_volume(path)


def read_volume(path: StrPath) -> Case:
    """Read a NIfTI, NRRD or MetaImage file, or a DICOM series given as its folder or as any one of its files.

    Returns:
        A case without prompts. The image is (z, y, x) in the file's own dtype (what ITK's rescaling makes of it), in
        the stored orientation; its geometry is LPS mm.

    Raises:
        CaseError: the path does not exist, is of no known format, is damaged or truncated, is not a 3-D volume of
            single real values, or holds NaN or infinity (in NIfTI, ITK reads those as 0).

    Warns:
        CaseWarning: a folder holds several series (that with the most slices is taken), files that are in no series,
            or a series whose slices are not evenly spaced.
    """
    import SimpleITK

    file = Path(path)
    if not file.exists():
        raise CaseError(f"{file} does not exist; check the path")
    if not is_volume(file):
        what = "holds no DICOM slices" if file.is_dir() else "is of no known format"
        raise CaseError(f"{file} {what}; {_KNOWN}")
    try:
        with _quiet():
            if _suffix(file) in VOLUME_SUFFIXES and file.is_file():
                image, modality = _read_file(file), None
            else:
                image, modality = _read_series(file)
        array = SimpleITK.GetArrayFromImage(image)
        geometry = Geometry.from_sitk(image)
    except RuntimeError as error:
        raise CaseError(f"cannot read {file}: {_one_line(error)}") from error
    except (GeometryError, MemoryError) as error:
        raise CaseError(f"cannot read {file}: {str(error) or 'it does not fit into memory'}") from error
    image_zyx = check_image(array, f"the image of {file.name}")
    return Case(case_name(file), image_zyx, geometry, path=file, modality=modality)


def write_mask(path: StrPath, mask: npt.NDArray[Any], geometry: Geometry) -> None:
    """Write a segmentation, compressed, in the format that the suffix names; whole or not at all.

    Args:
        path: the file to write: .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd.
        mask: (z, y, x), whole label ids 0..65535 of any dtype; written as uint8 where they fit, else as uint16.
        geometry: of the image that was segmented. NIfTI stores it in single precision.

    Raises:
        OutputError: the mask is no label map of the geometry's shape, the suffix is unknown, the format cannot hold
            the geometry, or the file cannot be written.
    """
    import SimpleITK

    target = Path(path)
    suffix = _suffix(target)
    if suffix not in VOLUME_SUFFIXES:
        raise OutputError(f"got the suffix {target.suffix!r} for {target.name}, expected {', '.join(VOLUME_SUFFIXES)}")
    axes = np.reshape(geometry.direction, (3, 3))
    # ITK would write the nearest rotation without a word, and the mask would lie beside its image.
    if suffix not in (".nrrd", ".nhdr") and not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise OutputError(f"{target.name} cannot hold axes that are not at right angles; write a .nrrd file")
    try:
        image = SimpleITK.GetImageFromArray(to_label_map(mask, geometry.shape, "the mask"))
    except CaseError as error:
        raise OutputError(str(error)) from None
    geometry.apply_to(image)
    with atomic_path(target) as partial:
        try:
            with _quiet():
                SimpleITK.WriteImage(image, str(partial), useCompression=True)
        except RuntimeError as error:
            raise OutputError(f"cannot write {target}: {_one_line(error)}") from error


def _read_file(file: Path) -> Any:
    import SimpleITK

    if _suffix(file) in (".nii", ".nii.gz"):
        check_nifti_is_whole(file)
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


def _read_series(path: Path) -> tuple[Any, str | None]:
    import SimpleITK

    folder = path if path.is_dir() else path.parent
    by_id = {
        uid: SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        for uid in SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    }
    if path.is_dir():
        chosen = max(by_id, key=lambda uid: len(by_id[uid]), default=None)
        _warn_of_other_files(folder, by_id, chosen)
    else:
        chosen = next((uid for uid, names in by_id.items() if path.name in {Path(n).name for n in names}), None)
    if chosen is None:
        raise CaseError(f"{path} holds no DICOM image that can be decoded; the files are damaged or hold no images")
    names = by_id[chosen]
    first = SimpleITK.ImageFileReader()
    first.SetFileName(names[0])
    first.ReadImageInformation()
    modality = first.GetMetaData(_MODALITY_TAG).strip() if first.HasMetaDataKey(_MODALITY_TAG) else ""
    _check_scalar_3d(path, first)
    if len(names) == 1:
        return _single_slice(first, path), modality or None
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(names)
    image = reader.Execute()
    if image.HasMetaDataKey("ITK_non_uniform_sampling_deviation"):
        warnings.warn(
            f"the {len(names)} slices of {path.name} are not evenly spaced: a slice may be missing, and the z spacing "
            f"of {image.GetSpacing()[2]:.3g} mm is their mean",
            CaseWarning,
            stacklevel=3,
        )
    return image, modality or None


def _single_slice(reader: Any, path: Path) -> Any:
    """The image of a series of one file: where it is one slice, ITK knows no z spacing and says 1 mm."""
    image = reader.Execute()
    stated = reader.GetMetaData(_THICKNESS_TAG).strip() if reader.HasMetaDataKey(_THICKNESS_TAG) else ""
    if image.GetSize()[2] == 1 and not reader.HasMetaDataKey(_SPACING_BETWEEN_TAG):
        try:
            thickness_mm = float(stated)
        except ValueError:
            thickness_mm = 0.0
        if thickness_mm > 0:
            image.SetSpacing((*image.GetSpacing()[:2], thickness_mm))
        source = "its slice thickness" if thickness_mm > 0 else "assumed"
        warnings.warn(
            f"{path.name} is one slice; its z spacing of {image.GetSpacing()[2]:.3g} mm is {source}",
            CaseWarning,
            stacklevel=4,
        )
    return image


def _warn_of_other_files(folder: Path, by_id: dict[str, tuple[str, ...]], chosen: str | None) -> None:
    if len(by_id) > 1 and chosen is not None:
        others = ", ".join(f"{uid} ({len(names)} slices)" for uid, names in by_id.items() if uid != chosen)
        warnings.warn(
            f"{folder.name} holds {len(by_id)} DICOM series; took {chosen} ({len(by_id[chosen])} slices), not {others};"
            " a file given instead of the folder picks its series",
            CaseWarning,
            stacklevel=4,
        )
    used = {Path(name).name for names in by_id.values() for name in names}
    unused = [child.name for child in _files(folder) if child.name not in used and _is_dicom(child)]
    if unused and by_id:
        warnings.warn(
            f"{len(unused)} DICOM files of {folder.name} cannot be read as images and are left out, {unused[0]} first",
            CaseWarning,
            stacklevel=4,
        )


def _cases_below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        if any(_is_dicom(file) for file in files):
            yield Path(root)
        yield from (file for file in files if _suffix(file))


def _files(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_file() and not child.name.startswith("."))


def _suffix(path: Path) -> str:
    """The known suffix that a name ends with, in lower case; empty for none."""
    name = path.name.lower()
    return next((suffix for suffix in (*VOLUME_SUFFIXES, ".npz") if name.endswith(suffix)), "")


def _is_dicom(file: Path) -> bool:
    if _suffix(file) or file.name.upper() == "DICOMDIR":  # an index, not a slice
        return False
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM" or file.suffix.lower() == ".dcm"
    except OSError:
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK from printing warnings: what matters in them is raised or warned of here."""
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def _one_line(error: RuntimeError) -> str:
    """The reason in SimpleITK's several lines of where in its source it was, or the message of our own checks."""
    text = str(error).rpartition("ERROR: ")[2]
    # MetaImage's "Reason: No such file or directory" is what errno happened to be.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Reason:")]
    reason = lines[-1] if lines else type(error).__name__
    return re.sub(r"^\[\w+\] |^\w+\(0x[0-9a-f]+\): ", "", reason)

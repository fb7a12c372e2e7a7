"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz), of either byte order: images read, masks written beside them.

A mask carries its image's own header, byte by byte but for the fields that describe the voxels: forms, codes, units and
intent stay, so a mask lies on its image in every reader, whichever of the forms that reader prefers.
"""

from __future__ import annotations

import gzip
import math
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from gstk.cases.label_names import LabelName
from gstk.cases.nifti_check import check_nifti_is_whole
from gstk.cases.nifti_labels import label_extension, parse_label_extensions
from gstk.cases.npz import CaseWarning
from gstk.cases.rescaling import Stored, rescaled
from gstk.core.geometry import Geometry
from gstk.errors import CaseError, GeometryError, OutputError

__all__ = ["read_nifti", "read_nifti_labels", "write_nifti"]

_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_OTHER_TYPES = {
    1: "bits", 32: "complex numbers", 128: "3 values a voxel (RGB)", 1536: "128-bit floats", 1792: "complex numbers",
    2048: "complex numbers", 2304: "4 values a voxel (RGBA)",
}  # fmt: skip
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME_SPACING = 0.01
_SAME_PLACE_VOXELS = 0.1
_SAME_DIRECTION = 1e-5
_LARGEST_GZIP_RATIO = 1032
_MOST_EXTENSION_BYTES = 2**24


@dataclass(frozen=True)
class _Fields:
    """The layout of a NIfTI-1 or NIfTI-2 header, as struct formats without byte order."""

    size: int
    magic: tuple[int, bytes]
    dim: tuple[str, int]
    datatype: tuple[str, int]
    bitpix: tuple[str, int]
    pixdim: tuple[str, int]
    offset: tuple[str, int]
    scale: tuple[str, int]
    display: tuple[str, int]
    codes: tuple[str, int]
    quaternion: tuple[str, int]
    sform: tuple[str, int]
    units: tuple[str, int]


_FIRST = _Fields(
    348, (344, b"n+1\0"), ("8h", 40), ("h", 70), ("h", 72), ("8f", 76), ("f", 108), ("2f", 112), ("2f", 124),
    ("2h", 252), ("6f", 256), ("12f", 280), ("b", 123),
)  # fmt: skip
_SECOND = _Fields(
    540, (4, b"n+2\0"), ("8q", 16), ("h", 12), ("h", 14), ("8d", 104), ("q", 168), ("2d", 176), ("2d", 192),
    ("2i", 344), ("6d", 352), ("12d", 400), ("i", 500),
)  # fmt: skip


_ORDERS: tuple[Literal["<"], Literal[">"]] = ("<", ">")


class _Header:
    """The bytes of a header, read and written field by field."""

    def __init__(self, data: bytes, where: str) -> None:
        for self.fields in (_FIRST, _SECOND):
            for order in _ORDERS:
                self.order = order
                at, magic = self.fields.magic
                whole = len(data) >= self.fields.size and data[at : at + 4] == magic
                if whole and struct.unpack_from(self.order + "i", data)[0] == self.fields.size:
                    self.data = bytearray(data[: self.fields.size])
                    return
        raise CaseError(f"cannot read {where}: it is no NIfTI file with its voxels inside; convert it to .nii.gz")

    def get(self, field: tuple[str, int]) -> tuple[Any, ...]:
        return struct.unpack_from(self.order + field[0], self.data, field[1])

    def set(self, field: tuple[str, int], *values: Any) -> None:
        struct.pack_into(self.order + field[0], self.data, field[1], *values)

    def sides(self) -> list[int]:
        dim = [int(n) for n in self.get(self.fields.dim)]
        return [dim[1 + i] if i < 3 else max(1, dim[1 + i]) for i in range(max(0, min(dim[0], 7)))]


def read_nifti(file: Path) -> tuple[npt.NDArray[Any], Geometry, bytes]:
    """Read a .nii or .nii.gz file.

    Returns:
        The voxels (z, y, x), slope and intercept applied: in the stored dtype where there are none, else float32, or
        float64 where that alone keeps their contrast. Their geometry, LPS mm, by the sform where its code is above 0,
        else by the qform; its axes may be off right angles. The bytes of the header, for `write_nifti`.

    Raises:
        CaseError: the file is damaged, truncated, no 3-D image of single real values, or has no position in space.

    Warns:
        CaseWarning: the two forms put the image at different places, or voxels of NaN or infinity became 0.
    """
    check_nifti_is_whole(file)
    try:
        with file.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if is_gzip else file.open("rb") as stream:
            header = _Header(stream.read(_SECOND.size), str(file))
            sides, dtype = _layout(header, file.name)
            (offset,) = header.get(header.fields.offset)
            count = math.prod(sides[:3])
            # gzip packs no more than this into a byte: a header that lies about a huge image costs no memory.
            if count * dtype.itemsize > _LARGEST_GZIP_RATIO * file.stat().st_size:
                raise CaseError(f"{file} is truncated: it is too small for the {count} voxels that its header states")
            stream.seek(int(offset))
            x, y, z = sides[:3]
            array = np.empty((z, y, x), dtype)
            got = _fill(stream, array)
            stream.read(1)  # at the end of a gzip stream, where its checksum is compared
    except (EOFError, zlib.error, OSError) as error:
        raise CaseError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    if got < array.nbytes:
        raise CaseError(f"{file} is truncated: got {got} bytes of voxels, expected {array.nbytes}; copy it anew")
    array = _scaled(array.astype(dtype.newbyteorder("="), copy=False), header, file.name)
    try:
        return array, _geometry(header, (z, y, x), file.name), bytes(header.data)
    except GeometryError as error:
        raise CaseError(f"cannot read {file}: {error}") from error


def has_place(header: bytes) -> bool:
    """Whether a header, of `read_nifti`, says where the image lies; without, its axes count as right, front, head."""
    given = _Header(header, "the header")
    return any(code > 0 for code in given.get(given.fields.codes))


def read_nifti_labels(file: Path) -> dict[int, LabelName]:
    """The names and colours of labels in a file that `read_nifti` reads; none where it carries none."""
    with file.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
    with gzip.open(file) if is_gzip else file.open("rb") as stream:
        header = _Header(stream.read(_SECOND.size), str(file))
        start, end = header.fields.size, int(header.get(header.fields.offset)[0])
        stream.seek(start)
        return parse_label_extensions(stream.read(max(0, min(end - start, _MOST_EXTENSION_BYTES))), header.order)


def write_nifti(
    path: Path,
    mask: npt.NDArray[Any],
    geometry: Geometry,
    header: bytes | None = None,
    names: Mapping[int, LabelName] | None = None,
) -> None:
    """Write a mask to a .nii or .nii.gz file, which need not be there.

    Args:
        path: the file; compressed where its name ends in .gz.
        mask: uint8 or uint16 (z, y, x).
        geometry: where it lies. Axes that are not at right angles are written as the sform alone: ITK refuses such a
            file, where a qform would have it show the mask at a wrong place.
        header: of the image, from `read_nifti`, which is kept in place of `geometry`.
        names: of label ids, which go into an extension of the header.

    Raises:
        OutputError: `header` is of an image of another shape.
        OSError: the file cannot be written.
    """
    known = _Header(header, path.name) if header is not None else _fresh(geometry)
    if known.sides()[2::-1] != list(mask.shape):
        raise OutputError(f"got a mask of shape {mask.shape} for {path.name}, expected {tuple(known.sides()[2::-1])}")
    fields = known.fields
    known.set(fields.datatype, 2 if mask.dtype == np.uint8 else 512)
    known.set(fields.bitpix, 8 * mask.dtype.itemsize)
    extension = label_extension(names or {}, known.order)
    known.set(fields.offset, fields.size + len(extension))
    known.set(fields.scale, 1, 0)
    known.set(fields.display, 0, 0)
    axes, *sides = known.get(fields.dim)
    known.set(fields.dim, axes, *known.sides(), *sides[axes:])  # a side of 0 is an image of no voxels to other readers
    stored = np.ascontiguousarray(mask, mask.dtype.newbyteorder(known.order))
    with path.open("wb") as raw:
        # Without a name and a time in it, equal masks are equal files.
        stream = gzip.GzipFile("", "wb", 3, raw, mtime=0) if path.name.lower().endswith(".gz") else raw
        stream.write(bytes(known.data) + extension)
        for plane in stored:
            stream.write(plane.tobytes())
        if stream is not raw:
            stream.close()


def _fill(stream: IO[bytes] | gzip.GzipFile, array: npt.NDArray[Any]) -> int:
    """Read an array's bytes from a stream; returns how many there were."""
    target = array.reshape(-1).view(np.uint8).data
    got = 0
    while got < len(target):
        count = stream.readinto(target[got : got + 2**24])  # type: ignore[union-attr]
        if not count:
            break
        got += count
    return got


def _layout(header: _Header, name: str) -> tuple[list[int], np.dtype[Any]]:
    sides = header.sides()
    code = int(header.get(header.fields.datatype)[0])
    if len(sides) == 5 and sides[3] == 1 and sides[4] > 1:
        raise CaseError(f"got {sides[4]} values a voxel (vectors) in {name}, expected one real number each")
    if len(sides) < 3 or any(n != 1 for n in sides[3:]) or min(sides) < 1:
        shown = "(" + ", ".join(map(str, sides)) + ")"
        raise CaseError(f"got the {len(sides)}-D size (x, y, ...) {shown} in {name}, expected 3-D; take one frame")
    if code not in _DTYPES:
        kind = _OTHER_TYPES.get(code, f"the unknown data type {code}")
        raise CaseError(f"got {kind} in {name}, expected one real number a voxel")
    (offset,) = header.get(header.fields.offset)
    if not header.fields.size <= offset < 2**40:
        raise CaseError(f"got voxels at byte {offset:g} of {name}, expected them behind the header; it is damaged")
    return sides, np.dtype(header.order + _DTYPES[code])


def _scaled(voxels: npt.NDArray[Any], header: _Header, name: str) -> npt.NDArray[Any]:
    slope, intercept = (float(v) for v in header.get(header.fields.scale))
    if math.isinf(slope) or (slope and math.isfinite(slope) and not math.isfinite(intercept)):
        what = f"got the slope {slope:g} and the intercept {intercept:g} in {name}, expected finite numbers"
        _warn(f"{what}; the stored values are taken as they are")
    elif slope and math.isfinite(slope) and (slope, intercept) != (1, 0):
        voxels = rescaled(Stored(voxels, slope, intercept))
    if voxels.dtype.kind == "f":
        bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
        if bad:
            _warn(f"{bad} voxels of {name} are NaN or infinity; they are taken as 0")
            voxels = np.nan_to_num(voxels, nan=0.0, posinf=0.0, neginf=0.0)
    return voxels


def _warn(text: str) -> None:
    warnings.warn(text, CaseWarning, stacklevel=5)


def _geometry(header: _Header, shape_zyx: tuple[int, int, int], name: str) -> Geometry:
    fields = header.fields
    unit = int(header.get(fields.units)[0]) & 7
    qform_code, sform_code = header.get(fields.codes)
    sform, qform = _sform(header), _qform(header)
    usable = {
        "sform": sform if sform_code > 0 and _can_be_inverted(sform) else None,
        "qform": qform if qform_code > 0 and _can_be_inverted(qform) else None,
    }
    for form, code in (("sform", sform_code), ("qform", qform_code)):
        if code > 0 and usable[form] is None:
            _warn(f"the {form} of {name} is not finite, or has no volume; it is passed over")
    chosen = usable["sform"] if usable["sform"] is not None else usable["qform"]
    stated = np.abs(np.array(header.get(fields.pixdim)[1:4], np.float64))
    if chosen is None:
        chosen = np.diag([*np.where(stated == 0, 1.0, stated), 1.0])
        if not stated.all():
            _warn(f"{name} states no spacing along {_axes_of(stated == 0)}; 1 is assumed")
    elif usable["sform"] is not None and usable["qform"] is None and np.isfinite(stated).all() and stated.all():
        steps = np.linalg.norm(chosen[:3, :3], axis=0)
        if np.abs(steps / stated - 1).max() > _SAME_SPACING:
            _warn(
                f"the sform of {name} has voxels of {_shown(steps)} along (x, y, z), its pixdim states "
                f"{_shown(stated)}; the sform is taken, and its mask carries both"
            )
    if usable["sform"] is not None and usable["qform"] is not None:
        off_mm = _largest_offset(usable["sform"], usable["qform"], shape_zyx)
        if off_mm > _SAME_PLACE_VOXELS * float(np.linalg.norm(chosen[:3, :3], axis=0).min()):
            _warn(
                f"the sform and the qform of {name} put it up to {off_mm * _MM_PER_UNIT.get(unit, 1.0):.3g} mm apart; "
                f"its place is taken by the sform (code {sform_code}), and its mask carries both"
            )
    lps = _RAS_TO_LPS @ chosen
    lps[:3] *= _MM_PER_UNIT.get(unit, 1.0)
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    if not (np.isfinite(lps).all() and lengths.min() > 0):
        raise GeometryError(
            f"got an affine of {name} that is not finite, or has an axis of length 0; correct its header"
        )
    direction = (lps[:3, :3] / lengths).ravel()
    x, y, z = (float(v) for v in lengths)
    origin = tuple(float(v) for v in lps[:3, 3])
    return Geometry(shape_zyx, (z, y, x), origin, tuple(float(v) + 0.0 for v in direction))  # type: ignore[arg-type]


def _axes_of(chosen: npt.NDArray[np.bool_]) -> str:
    return ", ".join(axis for axis, is_one in zip("xyz", chosen, strict=True) if is_one)


def _shown(numbers: npt.NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"


def _can_be_inverted(affine: npt.NDArray[np.float64]) -> bool:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() == 0:
        return False
    return abs(float(np.linalg.det(affine[:3, :3] / lengths))) > 1e-6


def _largest_offset(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], shape_zyx: tuple[int, int, int]
) -> float:
    corners = np.array(np.meshgrid(*((0, n - 1) for n in shape_zyx[::-1]), [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm(((first - second) @ corners)[:3], axis=0).max())


def _sform(header: _Header) -> npt.NDArray[np.float64]:
    return np.vstack([np.reshape(header.get(header.fields.sform), (3, 4)).astype(np.float64), [0, 0, 0, 1]])


def _qform(header: _Header) -> npt.NDArray[np.float64]:
    b, c, d, *offset = (float(v) for v in header.get(header.fields.quaternion))
    a_squared = 1 - (b * b + c * c + d * d)
    if a_squared < 1e-7:  # half a turn
        length = math.sqrt(b * b + c * c + d * d) or 1.0
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = math.sqrt(a_squared)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    handedness, *lengths = (float(v) for v in header.get(header.fields.pixdim)[:4])
    scale = [abs(v) for v in lengths]
    scale[2] *= -1 if handedness < 0 else 1
    affine = np.eye(4)
    affine[:3, :3] = rotation * scale
    affine[:3, 3] = offset
    return affine


def _fresh(geometry: Geometry) -> _Header:
    """A new header, for a volume that was not read from NIfTI: mm, scanner coordinates."""
    from scipy.spatial.transform import Rotation

    fields = _FIRST if max(geometry.shape) < 2**15 else _SECOND
    data = bytearray(fields.size)
    struct.pack_into("<i", data, 0, fields.size)
    at, magic = fields.magic
    data[at : at + 4] = magic
    if fields is _SECOND:
        data[8:12] = b"\r\n\x1a\n"
    header = _Header(bytes(data), "a new header")
    affine = _RAS_TO_LPS @ geometry.affine[:, [2, 1, 0, 3]]  # columns x, y, z
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / lengths
    handedness = -1 if np.linalg.det(axes) < 0 else 1
    header.set(fields.dim, 3, *geometry.shape[::-1], 1, 1, 1, 1)
    header.set(fields.pixdim, handedness, *lengths, 0, 0, 0, 0)
    header.set(fields.units, 2)
    at_right_angles = bool(np.abs(axes.T @ axes - np.eye(3)).max() <= _SAME_DIRECTION)
    header.set(fields.codes, int(at_right_angles), 1)
    if at_right_angles:
        quaternion = Rotation.from_matrix(axes * [1, 1, handedness]).as_quat(canonical=True)
        header.set(fields.quaternion, *quaternion[:3], *affine[:3, 3])
    header.set(fields.sform, *affine[:3].ravel())
    return header

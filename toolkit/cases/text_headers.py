"""What ITK passes over in NRRD and MetaImage files: units of length, a scale of values, and voxels that are damaged."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gstk.core.foreign_text import reason_of
from gstk.errors import CaseError

__all__ = ["TextHeader", "check_voxels", "read_text_header"]

_HEADER_BYTES, _LONGEST_HEADER_BYTES = 2**16, 2**24
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_CHUNK_BYTES = 2**20
_MM = {
    "nm": 1e-6, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "micrometers": 1e-3, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "centimeter": 10.0,
    "centimeters": 10.0, "m": 1000.0, "meter": 1000.0, "meters": 1000.0,
}  # fmt: skip
_NO_UNIT = {"", "?", "none", "???"}
_NRRD_BYTES = {
    "char": 1, "signed char": 1, "int8": 1, "int8_t": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "uint8_t": 1,
    "short": 2, "short int": 2, "signed short": 2, "signed short int": 2, "int16": 2, "int16_t": 2, "ushort": 2,
    "unsigned short": 2, "unsigned short int": 2, "uint16": 2, "uint16_t": 2, "int": 4, "signed int": 4, "int32": 4,
    "int32_t": 4, "uint": 4, "unsigned int": 4, "uint32": 4, "uint32_t": 4, "float": 4, "double": 8, "longlong": 8,
    "long long": 8, "long long int": 8, "int64": 8, "int64_t": 8, "ulonglong": 8, "unsigned long long": 8,
    "unsigned long long int": 8, "uint64": 8, "uint64_t": 8,
}  # fmt: skip
_META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TextHeader:
    """The header of an NRRD or MetaImage file.

    Attributes:
        is_nrrd: whether it is NRRD.
        fields: as written, by name in lower case.
        end: byte behind the header, where the voxels of a file that holds them begin.
    """

    is_nrrd: bool
    fields: dict[str, str]
    end: int

    @property
    def unit(self) -> tuple[str, float]:
        """The unit of lengths and its millimetres; ("", 1) where none is stated.

        Raises:
            CaseError: axes have different units, or one that is not known.
        """
        if self.is_nrrd:
            stated = self.fields.get("space units", self.fields.get("units", ""))
            units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', stated)}
        else:
            units = {self.fields.get("distanceunits", "").strip().lower()}
        units -= _NO_UNIT
        if not units:
            return "", 1.0
        if len({_MM.get(unit) for unit in units}) > 1 or not units <= set(_MM):
            raise CaseError(
                f"got the units {reason_of(', '.join(sorted(units)), 60)}, expected one unit of length, such as mm or "
                "um, for all axes; correct the header"
            )
        unit = min(units)
        return unit, _MM[unit]

    @property
    def states_spacing(self) -> bool:
        """Whether it says how far voxels lie apart along three axes."""
        if not self.is_nrrd:
            return "elementspacing" in self.fields or "elementsize" in self.fields
        steps = [_number(word) for word in self.fields.get("spacings", "").split()]
        return "space directions" in self.fields or sum(1 for step in steps if step) >= 3

    @property
    def scale(self) -> tuple[float, float]:
        """Slope and intercept from stored values to intensities (MetaImage alone); 1 and 0 where none are stated."""
        names = ("elementtointensityfunctionslope", "elementtointensityfunctionoffset")
        slope, intercept = (_number(self.fields.get(name, "")) for name in names)
        return slope or 1.0, intercept or 0.0

    @property
    def voxel_bytes(self) -> int | None:
        """Bytes of the voxels, not compressed; None where the header does not say it plainly."""
        try:
            sizes = [int(n) for n in self.fields["sizes" if self.is_nrrd else "dimsize"].split()]
            if self.is_nrrd:
                return math.prod(sizes) * _NRRD_BYTES[self.fields["type"].lower()]
            channels = int(self.fields.get("elementnumberofchannels", "1"))
            return math.prod(sizes) * channels * _META_BYTES[self.fields["elementtype"]]
        except (KeyError, ValueError):
            return None

    @property
    def encoding(self) -> str:
        """ "raw", "gzip", "zlib", or "" for others."""
        if self.is_nrrd:
            found = self.fields.get("encoding", "").lower()
            return {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(found, "")
        if self.fields.get("binarydata", "true").lower() not in ("true", "1"):
            return ""
        return "zlib" if self.fields.get("compresseddata", "false").lower() in ("true", "1") else "raw"


def read_text_header(file: Path) -> TextHeader | None:
    """The header of an NRRD or MetaImage file; None where it is neither."""
    with file.open("rb") as stream:
        start = stream.read(_HEADER_BYTES)
        if start.startswith(b"NRRD") and not _BLANK_LINE.search(start):  # as of many segments
            start += stream.read(_LONGEST_HEADER_BYTES)
    if start.startswith(b"NRRD"):
        blank = _BLANK_LINE.search(start)
        text, end = start[: blank.start() if blank else None], blank.end() if blank else len(start)
        pairs = re.findall(r"^([^:#\r\n]+):[ \t]+(.*?)[ \t\r]*$", text.decode("utf-8", "replace"), re.MULTILINE)
        return TextHeader(True, {key.strip().lower(): value for key, value in pairs}, end)
    last = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[^\n]*\n?", start, re.MULTILINE)
    if last is None:
        return None
    text = start[: last.end()]
    pairs = re.findall(r"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t\r]*$", text.decode("utf-8", "replace"), re.MULTILINE)
    return TextHeader(False, {key.lower(): value for key, value in pairs}, last.end())


def check_voxels(file: Path, header: TextHeader) -> None:
    """Compares the bytes of voxels with what the header says of them: ITK takes damaged or compressed ones as values.

    Voxels in several files, or behind lines or bytes that are to be skipped, are left to ITK.

    Raises:
        CaseError: compressed voxels are damaged or too few; or they are compressed, and the header does not say so.
    """
    expected = header.voxel_bytes
    place = _data(file, header)
    if expected is None or place is None or not header.encoding or not place[0].is_file():
        return
    source, start = place
    with source.open("rb") as stream:
        stream.seek(start)
        magic = stream.read(3)
        stream.seek(start)
        if header.encoding != "raw":
            if header.encoding == "gzip" and magic[:2] != b"\x1f\x8b":
                return  # zlib reads what is not compressed as it is
            got = _unpacked_bytes(stream, header.encoding, file)
            if got < expected:
                raise CaseError(f"{file} is truncated: got {got} bytes of voxels, expected {expected}; copy it anew")
            return
        available = source.stat().st_size - start
        if available < expected and magic[:2] not in (b"\x1f\x8b", b"\x78\x9c"):
            raise CaseError(f"{file} is truncated: got {available} bytes of voxels, expected {expected}; copy it anew")
        kind = {b"\x1f\x8b\x08": "gzip", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib"}
        found = kind.get(magic) or kind.get(magic[:2])
        if found is None or available == expected:
            return
        try:
            packed = _unpacked_bytes(stream, found, file)
        except CaseError:
            return  # values that look like it
        if packed >= expected:
            raise CaseError(
                f"the header of {file} says that its voxels are not compressed, but they are ({found}); correct "
                f"{'encoding' if header.is_nrrd else 'CompressedData'} in the header"
            )


def _data(file: Path, header: TextHeader) -> tuple[Path, int] | None:
    """The file that holds the voxels and where they begin; None where that is not plain."""
    fields = header.fields
    if header.is_nrrd:
        if any(fields.get(key, "0").strip() != "0" for key in ("byte skip", "line skip", "byteskip", "lineskip")):
            return None
        name = fields.get("data file", fields.get("datafile"))
        return (file, header.end) if name is None else _beside(file, name)
    if fields.get("headersize", "0") != "0":
        return None
    name = fields.get("elementdatafile", "LOCAL")
    return (file, header.end) if name.upper() == "LOCAL" else _beside(file, name)


def _beside(file: Path, name: str) -> tuple[Path, int] | None:
    return None if "%" in name or name.upper().startswith("LIST") else (file.parent / name, 0)


def _unpacked_bytes(stream: BinaryIO, kind: str, file: Path) -> int:
    """How many bytes a compressed stream holds; it is read to its end, where its checksum is compared."""
    wbits = 31 if kind == "gzip" else 15
    unpacker, count = zlib.decompressobj(wbits), 0
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            while chunk:
                count += len(unpacker.decompress(chunk, 16 * _CHUNK_BYTES))
                chunk = unpacker.unconsumed_tail
                if unpacker.eof:
                    rest = unpacker.unused_data
                    if kind == "zlib" or not rest.startswith(b"\x1f\x8b"):
                        return count
                    unpacker, chunk = zlib.decompressobj(wbits), rest  # gzip files may follow each other
    except zlib.error as error:
        raise CaseError(f"cannot read {file}: its compressed voxels are damaged ({reason_of(error, 80)})") from None
    raise CaseError(f"{file} is truncated: its compressed voxels break off; copy it anew")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None

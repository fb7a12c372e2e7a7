"""Detects truncated NIfTI files, which ITK reads without an error, with 0 for the missing voxels."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

from gstk.errors import CaseError

__all__ = ["check_nifti_is_whole"]


def check_nifti_is_whole(file: Path) -> None:
    """Check that a .nii or .nii.gz file holds all the voxels that its header promises.

    A file without a NIfTI header passes; ITK then reports what is wrong with it.

    Raises:
        CaseError: the file ends early, its gzip stream is damaged, or it cannot be read.
    """
    try:
        with file.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if is_gzip else file.open("rb") as stream:
            expected_bytes = _expected_bytes(stream.read(540))
        if expected_bytes is None:
            return
        found_bytes = file.stat().st_size
        if is_gzip:
            # The last four bytes tell the size modulo 2**32; only where they disagree is a full pass needed.
            with file.open("rb") as raw:
                raw.seek(-4, os.SEEK_END)
                told_bytes = int.from_bytes(raw.read(4), "little")
            found_bytes = expected_bytes if told_bytes == expected_bytes % 2**32 else _unpacked_bytes(file)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise CaseError(f"{file} is truncated or damaged: its gzip stream breaks off; copy it anew") from None
    except OSError as error:
        raise CaseError(f"cannot read {file}: {error.strerror or error}") from error
    if found_bytes < expected_bytes:
        raise CaseError(f"{file} is truncated: got {found_bytes} bytes, expected {expected_bytes}; copy it anew")


def _unpacked_bytes(file: Path) -> int:
    total = 0
    with gzip.open(file) as stream:
        while chunk := stream.read(2**20):
            total += len(chunk)
    return total


def _expected_bytes(header: bytes) -> int | None:
    """Size of header and voxels of a single-file NIfTI-1 or NIfTI-2; None for anything else."""
    for byte_order in "<>":
        size_of_header = int.from_bytes(header[:4], "little" if byte_order == "<" else "big")
        if size_of_header == 348 and len(header) >= 348:
            dim = struct.unpack_from(f"{byte_order}8h", header, 40)
            (bits,) = struct.unpack_from(f"{byte_order}h", header, 72)
            (offset,) = struct.unpack_from(f"{byte_order}f", header, 108)
        elif size_of_header == 540 and len(header) >= 540:
            dim = struct.unpack_from(f"{byte_order}8q", header, 16)
            (bits,) = struct.unpack_from(f"{byte_order}h", header, 14)
            (offset,) = struct.unpack_from(f"{byte_order}q", header, 168)
        else:
            continue
        sides = [int(n) for n in dim[1 : dim[0] + 1]]
        if sides and min(sides) > 0 and math.isfinite(offset):
            return int(offset) + math.prod(sides) * int(bits) // 8
    return None

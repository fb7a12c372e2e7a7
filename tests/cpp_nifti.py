"""NIfTI files that ITK does not write."""

from __future__ import annotations

import struct

import numpy as np


def nifti_bytes(voxels: np.ndarray, second: bool) -> bytes:
    """A NIfTI-2 file, or a NIfTI-1 file of the other byte order, 2 x 1 x 1 mm."""
    sides = [3, *voxels.shape[::-1], 1, 1, 1, 1]
    steps = [1.0, 1.0, 1.0, 2.0, 0, 0, 0, 0]
    if second:
        header = bytearray(540)
        struct.pack_into("<i8shh8q", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16, *sides)
        struct.pack_into("<8dq", header, 104, *steps, 544)
        struct.pack_into("<i", header, 500, 2)
    else:
        header = bytearray(348)
        struct.pack_into(">i", header, 0, 348)
        struct.pack_into(">8h", header, 40, *sides)
        struct.pack_into(">hh", header, 70, 4, 16)
        struct.pack_into(">8ff", header, 76, *steps, 352)
        header[123], header[344:348] = 2, b"n+1\0"
    return bytes(header) + bytes(4) + voxels.astype("<i2" if second else ">i2").tobytes()

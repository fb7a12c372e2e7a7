"""NNIA, the array container of nnInteractive's wire protocol (MIC-DKFZ/nnInteractive, `serialization.py`).

Little-endian: `NNIA`, version 1, codec, number of axes, length of the dtype's name, that name, the shape as int64, the
number of chunks as uint32; then each chunk as its unpacked and packed size (uint64) and one blosc2 chunk.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from gstk.errors import GstkError

__all__ = ["MalformedArray", "pack", "stated_size", "unpack"]

_HEAD = struct.Struct("<4sBBBB")
_SIZES = struct.Struct("<QQ")
_CHUNK_BYTES = 2**30
"""blosc2 counts a chunk's bytes in an int32."""
_BLOSC_HEADER = struct.Struct("<4x3i")  # unpacked size, block size, packed size
_BLOSC_HEADER_BYTES = 16
_DTYPES = frozenset(
    ["bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
)


class MalformedArray(GstkError, ValueError):
    """Bytes that are no NNIA array of the kind that was expected."""


def pack(array: NDArray[np.generic]) -> bytes:
    """The container of an array, any shape, of a dtype that the protocol knows."""
    import blosc2

    array = np.ascontiguousarray(array)
    name = array.dtype.name.encode("ascii")
    raw = array.reshape(-1).view(np.uint8)
    chunks = [raw[start : start + _CHUNK_BYTES] for start in range(0, raw.size, _CHUNK_BYTES)]
    parts = [
        _HEAD.pack(b"NNIA", 1, 1, array.ndim, len(name)),
        name,
        struct.pack(f"<{array.ndim}q", *array.shape),
        struct.pack("<I", len(chunks)),
    ]
    for chunk in chunks:
        packed = blosc2.compress2(
            chunk, typesize=array.itemsize, codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.NOFILTER]
        )
        parts += [_SIZES.pack(chunk.size, len(packed)), packed]
    return b"".join(parts)


def unpack(data: bytes | bytearray | memoryview, ndim: int, max_bytes: int) -> NDArray[np.generic]:
    """The array in a container, a fresh one. Nothing is allocated before the sizes are known to agree.

    Args:
        data: the container, all of it.
        ndim: axes that it must have.
        max_bytes: most that the array may take.

    Raises:
        MalformedArray: it is no such container, its sizes do not agree, or it is larger than `max_bytes`.
    """
    view = memoryview(data)
    dtype, shape, at, count = _head(view, ndim)
    size = math.prod(shape) * dtype.itemsize
    if size > max_bytes:
        raise MalformedArray(f"got an array of {size} bytes, expected at most {max_bytes}")
    chunks, total = [], 0
    for _ in range(count):
        if at + _SIZES.size > len(view):
            raise MalformedArray("got an array that is cut short in a chunk's sizes")
        unpacked, packed = _SIZES.unpack_from(view, at)
        at += _SIZES.size
        total += unpacked
        if packed < _BLOSC_HEADER_BYTES or at + packed > len(view):
            raise MalformedArray("got an array that is cut short in a chunk")
        stated, _, stated_packed = _BLOSC_HEADER.unpack_from(view, at)
        if total > size or unpacked % dtype.itemsize or stated != unpacked or stated_packed != packed:
            raise MalformedArray("got a chunk whose sizes do not agree with each other")
        chunks.append((view[at : at + packed], unpacked))
        at += packed
    if total != size or at != len(view):
        raise MalformedArray(f"got {total} bytes in chunks for an array of {size}, or bytes behind it")
    return _unpacked(chunks, size).view(dtype).reshape(shape)


def _unpacked(chunks: list[tuple[memoryview, int]], size: int) -> NDArray[np.uint8]:
    import blosc2

    array = np.empty(size, np.uint8)
    done = 0
    for packed, unpacked in chunks:
        if unpacked:
            try:
                blosc2.decompress2(packed, dst=array[done : done + unpacked])
            except (RuntimeError, ValueError) as error:
                raise MalformedArray(f"got a chunk that cannot be unpacked: {error}") from None
        done += unpacked
    return array


def stated_size(data: bytes | bytearray | memoryview, ndim: int) -> tuple[int, np.dtype[np.generic]]:
    """How many voxels a container says that it holds, and of what dtype; raises as `unpack`."""
    dtype, shape, _, _ = _head(memoryview(data), ndim)
    return math.prod(shape), dtype


def _head(view: memoryview, ndim: int) -> tuple[np.dtype[np.generic], tuple[int, ...], int, int]:
    """The dtype, shape, where the chunks begin and how many they are."""
    try:
        magic, version, codec, axes, length = _HEAD.unpack_from(view, 0)
        if magic != b"NNIA" or version != 1 or codec not in (1, 2):
            raise MalformedArray("got something else than an NNIA array of version 1")
        if axes != ndim:
            raise MalformedArray(f"got an array of {axes} axes, expected {ndim}")
        at = _HEAD.size + length
        name = bytes(view[_HEAD.size : at]).decode("ascii")
        shape = struct.unpack_from(f"<{axes}q", view, at)
        (count,) = struct.unpack_from("<I", view, at + 8 * axes)
    except (struct.error, UnicodeDecodeError):
        raise MalformedArray("got an array that is cut short in its header") from None
    if name not in _DTYPES:
        raise MalformedArray(f"got an array of {name!r:.40}, expected booleans, integers or floats")
    if any(n < 0 for n in shape):
        raise MalformedArray(f"got an array of shape {shape}, expected sides of 0 or more")
    return np.dtype(name), shape, at + 8 * axes + 4, count

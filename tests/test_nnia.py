"""The NNIA container against the official client's own packing, and against bytes that nobody should send."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("blosc2")
serialization = pytest.importorskip("nnInteractive.inference.remote.serialization", reason="needs nninteractive-client")

from gstk.server.nnia import MalformedArray, pack, unpack  # noqa: E402

DTYPES = [np.dtype(name) for name in ("bool", "uint8", "int8", "uint16", "int16", "int32", "float32", "float64")]
LIMIT = 2**20


@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=3, max_dims=4, min_side=1, max_side=9)))
def test_arrays_cross_both_ways_unchanged(array: np.ndarray) -> None:
    for found in (
        unpack(serialization.pack_array(array), array.ndim, LIMIT),
        serialization.unpack_array(pack(array)),
    ):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_a_chunk_that_is_stored_as_it_is_can_be_read() -> None:
    raw = np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4)
    packed = struct.pack("<BBBBiii", 2, 1, 0x02, 1, 48, 48, 64) + raw.tobytes()
    head = b"NNIA\x01\x01\x04\x05int16" + struct.pack("<4q", *raw.shape) + struct.pack("<IQQ", 1, 48, 64)
    np.testing.assert_array_equal(unpack(head + packed, 4, LIMIT), raw)


GOOD = pack(np.arange(600, dtype=np.uint16).reshape(10, 10, 6))


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
def test_altered_bytes_are_refused_or_give_an_array_of_what_was_announced(at: int, change: bytes) -> None:
    data = GOOD[:at] + change + GOOD[at + len(change) :]
    try:
        found = unpack(data, 3, LIMIT)
    except MalformedArray:
        return
    assert found.ndim == 3
    assert found.nbytes <= LIMIT


@given(st.integers(0, len(GOOD) - 1))
def test_bytes_that_are_cut_short_are_refused(length: int) -> None:
    with pytest.raises(MalformedArray):
        unpack(GOOD[:length], 3, LIMIT)


def test_nothing_is_allocated_for_sizes_that_are_made_up() -> None:
    def head(shape: tuple[int, ...], dtype: bytes = b"uint8", chunks: bytes = b"\0\0\0\0") -> bytes:
        return (
            b"NNIA\x01\x01" + bytes([len(shape), len(dtype)]) + dtype + struct.pack(f"<{len(shape)}q", *shape) + chunks
        )

    huge = 2**62
    for data, message in [
        (head((huge, huge, huge)), "at most"),
        (head((2**40, 1, 1)), "at most"),
        (head((-1, -1, 1)), "sides"),
        (head((100, 100, 100)), "in chunks"),
        (head((2, 2, 2), b"object"), "object"),
        (head((2, 2, 2), b"|O"), "expected booleans"),
        (head((2, 2)), "axes"),
        (head((1, 1, 8), chunks=struct.pack("<IQQ", 1, 8, 2**40)), "cut short"),
        (head((1, 1, 8), chunks=struct.pack("<IQQ", 2**32 - 1, 8, 16) + bytes(16)), "agree"),
        (GOOD + b"\0", "behind"),
    ]:
        with pytest.raises(MalformedArray, match=message):
            unpack(data, 3, LIMIT)

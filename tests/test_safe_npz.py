"""The unpickler against NumPy's own pickles (old and new), and against files made to do harm."""

import contextlib
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.lib.format as npy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstk.core import safe_npz as safe_pickle
from gstk.core.safe_npz import npz_keys, read_npz, unpickle
from gstk.errors import CaseError


def objects(*items: object) -> np.ndarray:
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def write_member(path: Path, name: str, payload: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, payload)
    return path


def object_member(path: Path, payload: bytes, shape: tuple[int, ...] = (1,)) -> Path:
    """An .npz whose 'boxes' claims to be an object array and has `payload` for a pickle."""
    stream = BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": shape})
    return write_member(path, "boxes.npy", stream.getvalue() + payload)


def old_globals(data: bytes) -> bytes:
    """The same pickle as NumPy 1 writes it; protocol 3 spells globals as text, so the names can be replaced."""
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


NESTED = objects(
    {"fg": [[1, 2, 3], (4, 5, 6)], "bg": []},
    [np.int64(7), np.float32(0.5), np.uint8(255), np.bool_(True), None, True, 1.5, 10**30, "text"],
    np.array([[1, 2], [3, 4]], ">i2"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    objects([1], "a"),
    np.array([True, False]),
)
PLAIN = [
    {"fg": [[1, 2, 3], (4, 5, 6)], "bg": []},
    [7, 0.5, 255, True, None, True, 1.5, 10**30, "text"],
    [[1, 2], [3, 4]],
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
    [[1], "a"],
    [True, False],
]


def as_plain(array: np.ndarray) -> list[object]:
    return [item.tolist() if isinstance(item, np.ndarray) else item for item in array]


@pytest.mark.parametrize("protocol", [3, 4])
def test_numpy_pickles_of_this_version(protocol: int) -> None:
    assert as_plain(unpickle(pickle.dumps(NESTED, protocol), "test")) == PLAIN


def test_numpy_pickles_of_the_other_version() -> None:
    new = pickle.dumps(NESTED, 3).replace(b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n")
    old = old_globals(new)
    assert old != new
    for data in (old, new):
        assert as_plain(unpickle(data, "test")) == PLAIN


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner),
        max_leaves=20,
    ),
    st.integers(2, 5),
)
def test_plain_data_round_trips(value: object, protocol: int) -> None:
    assert unpickle(pickle.dumps(value, protocol), "test") == value


def test_npz_of_numpy(tmp_path: Path) -> None:
    arrays = {
        "volume": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        "big_endian": np.arange(3, dtype=">f4"),
        "scalar": np.float64(2.5),
        "empty": np.zeros((2, 0)),
        "flags": np.array([True, False]),
        "text": np.array([["fg", "bg"]]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", nested=NESTED, unread=objects(print), **arrays)
        got = read_npz(tmp_path / "a.npz", ["missing", "nested", *arrays])
        assert set(got) == {"nested", *arrays}
        for key, array in arrays.items():
            np.testing.assert_array_equal(got[key], array)
            assert got[key].flags.c_contiguous
            assert got[key].dtype.isnative
        assert as_plain(got["nested"]) == PLAIN
        assert set(npz_keys(tmp_path / "a.npz")) == {"nested", "unread", *arrays}


class CreatesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def test_a_malicious_case_runs_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    np.savez(tmp_path / "case.npz", boxes=objects(CreatesFile(canary)))
    with pytest.raises(
        CaseError, match=r"refused to unpickle \w+\.system in 'boxes' of case\.npz; a case may hold only"
    ):
        read_npz(tmp_path / "case.npz", ["boxes"])
    assert not canary.exists()
    np.load(tmp_path / "case.npz", allow_pickle=True)["boxes"]
    assert canary.exists(), "the payload must be a real one, or this test shows nothing"


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Calls(eval, "1"), "builtins.eval"),
        (Calls(getattr, 1, "real"), "builtins.getattr"),
        (Calls(np.load, "x"), "numpy.load"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (Path("x"), "pathlib"),
        (np.datetime64("2020"), "the dtype 'M8"),
        (np.zeros(2, [("a", "i4")]), "structured dtype"),
        (np.complex64(1), "the dtype 'c8'"),
        (np.array(["fg"]), "the dtype 'U2'"),
        (b"bytes", "a bytes"),
        ({1, 2}, "a set"),
        (np.ndarray, "a global"),
        ({(1, 2): 3}, "a dict key of type tuple"),
        (Calls(np.ndarray, (1,)), "a call of numpy.ndarray"),
        (np.ma.masked_array([1]), "numpy.ma.core._mareconstruct"),
    ],
)
def test_everything_else_is_refused_by_name(payload: object, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pickle.dumps(payload, 4)
    with pytest.raises(CaseError, match="refused to unpickle") as caught:
        unpickle(data, "'boxes' of case.npz")
    assert name in str(caught.value)


def test_a_crafted_dtype_cannot_turn_bytes_into_objects() -> None:
    # The state clears the flag that says "holds objects": NumPy itself would take the bytes for pointers.
    data = (
        b"\x80\x03cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89C\x08AAAAAAAAtb."
    )
    with pytest.raises(CaseError, match="refused to unpickle an object array whose items do not fit its shape"):
        unpickle(data, "test")


def test_a_pickle_cannot_change_the_reader() -> None:
    data = b"\x80\x03cnumpy\ndtype\n}X\x06\x00\x00\x00_buildK\x01sb."
    with pytest.raises(CaseError, match="refused to unpickle a change to a NumPy function"):
        unpickle(data, "test")
    assert as_plain(unpickle(pickle.dumps(NESTED, 4), "test")) == PLAIN


def test_bombs_are_refused_before_they_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CaseError, match="the memo index 4294967295"):
        unpickle(b"\x80\x03Nr\xff\xff\xff\xff.", "test")
    with pytest.raises(CaseError, match="more than 1000000 operations"):
        unpickle(b"\x80\x03(" + b"]" * 1_000_001 + b"l.", "test")
    shared: list[object] = ["laugh"]
    for _ in range(30):
        shared = [shared] * 10
    with pytest.raises(CaseError, match="nested more than 16 deep"):
        unpickle(pickle.dumps(shared, 4), "test")
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(CaseError, match="nested more than 16 deep"):
        unpickle(pickle.dumps(cycle, 4), "test")
    wide: list[object] = ["laugh"]
    for _ in range(12):
        wide = [wide] * 1000
    assert len(unpickle(pickle.dumps(wide, 4), "test")) == 1000  # shared parts are resolved once
    monkeypatch.setattr(safe_pickle, "OBJECT_LIMIT_BYTES", 1000)
    path = object_member(tmp_path / "a.npz", b"N" * 1001)
    with pytest.raises(CaseError, match=r"got 1001 pickled bytes in 'boxes' of a\.npz, expected at most 1000"):
        read_npz(path, ["boxes"])
    with pytest.raises(CaseError, match="got 1001 pickled bytes in test"):
        unpickle(b"N" * 1001, "test")


@pytest.mark.parametrize(
    ("payload", "shape"),
    [
        (pickle.dumps("text", 3), (1,)),
        (pickle.dumps(objects(1, 2), 3), (3,)),
        (pickle.dumps(np.zeros(1), 3), (1,)),
        (pickle.dumps(objects(1), 3)[:-9], (1,)),
        (b"", (1,)),
        (b"\x80\x03K\x01\x85R.", (1,)),
        (b"\x80\x03Vpersistent\nQ.", (1,)),
    ],
)
def test_object_arrays_that_are_none(tmp_path: Path, payload: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(CaseError, match=r"'boxes' of a\.npz"):
        read_npz(object_member(tmp_path / "a.npz", payload, shape), ["boxes"])


def npy_bytes(
    shape: tuple[int, ...], descr: object = "|u1", payload: bytes = b"", version: bytes = b"\x01\x00"
) -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + payload


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy_bytes((10**6, 10**6, 10**6)), "got 0 bytes in 'imgs' of a.npz, expected 1000000000000000000"),
        (npy_bytes((2, 2), payload=b"123"), "got 3 bytes in 'imgs' of a.npz, expected 4"),
        (npy_bytes((2, 2), payload=b"12345"), "got 5 bytes in 'imgs' of a.npz, expected 4"),
        (npy_bytes((-1, -1), payload=b"1"), "expected no negative side"),
        (npy_bytes((1,), "<c8", b"12345678"), "dtype complex64"),
        (npy_bytes((1,), [("a", "<i4")], b"1234"), "dtype"),
        (npy_bytes((1,), "<M8[s]", b"12345678"), "dtype datetime64"),
        (npy_bytes((1,), "<U1", b"\xff\xff\xff\xff"), "not Unicode"),
        (npy_bytes((1,), payload=b"1", version=b"\x03\x00"), "npy format version 3.0"),
        (npy_bytes((1,), payload=b"1")[:20], "damaged npy header"),
        (b"\x93NUMPY\x01\x00\x04\x00(((\n", "damaged npy header"),
        (b"not npy at all", "damaged npy header"),
        (b"", "damaged npy header"),
    ],
)
def test_members_that_are_not_what_they_say(tmp_path: Path, member: bytes, message: str) -> None:
    path = write_member(tmp_path / "a.npz", "imgs.npy", member)
    with pytest.raises(CaseError, match=message) as caught:
        read_npz(path, ["imgs"])
    assert "\n" not in str(caught.value)


def test_a_zip_that_promises_more_than_it_has(tmp_path: Path) -> None:
    """The directory promises 4 GiB; memory may be spent only as data arrives."""
    side = 2**42
    path = write_member(tmp_path / "a.npz", "imgs.npy", npy_bytes((side, 16)) + b"x" * 100)
    directory_size = struct.pack("<L", len(npy_bytes((side, 16))) + 100)
    told = path.read_bytes()
    at = told.rindex(b"PK\x01\x02")
    assert told[at + 24 : at + 28] == directory_size
    path.write_bytes(told[: at + 24] + struct.pack("<L", 2**32 - 2) + told[at + 28 :])
    with pytest.raises(CaseError, match=r"'imgs' of a\.npz"):
        read_npz(path, ["imgs"])
    exact = 2**32 - 2 - len(npy_bytes((side,)))  # now the header agrees too, and only the data is missing
    member = npy_bytes((exact,))
    path = write_member(tmp_path / "b.npz", "imgs.npy", member + b"x" * 100)
    told = path.read_bytes()
    at = told.rindex(b"PK\x01\x02")
    path.write_bytes(told[: at + 24] + struct.pack("<L", len(member) + exact) + told[at + 28 :])
    with pytest.raises(CaseError, match=r"'imgs' of b\.npz"):
        read_npz(path, ["imgs"])


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="does not exist; check the path"):
        read_npz(tmp_path / "none.npz", ["imgs"])
    with pytest.raises(CaseError, match=r"cannot read .*directory"):
        read_npz(tmp_path, ["imgs"])
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(CaseError, match=r"text\.npz is not a complete \.npz file"):
        read_npz(tmp_path / "text.npz", ["imgs"])
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("imgs.npy", npy_bytes((1,), payload=b"1"))
    with pytest.raises(CaseError, match="zip compression 14"):
        read_npz(tmp_path / "lzma.npz", ["imgs"])


@pytest.mark.parametrize("kept", [0, 1, 30, 200, -1, -30, -200])
def test_truncated_npz(tmp_path: Path, kept: int) -> None:
    np.savez_compressed(tmp_path / "a.npz", imgs=np.arange(4096).reshape(16, 16, 16))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:kept])
    with pytest.raises(CaseError, match=r"not a complete \.npz"):
        read_npz(tmp_path / "a.npz", ["imgs"])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_altered_files_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("altered") / "a.npz"
    np.savez(path, imgs=np.arange(8.0).reshape(2, 2, 2), boxes=NESTED)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(CaseError):
        read_npz(path, ["imgs", "boxes"])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_altered_pickles_raise_nothing_else(data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(NESTED, data.draw(st.sampled_from([3, 4]))))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CaseError):
        unpickle(bytes(content), "test")


def test_a_name_cannot_break_the_message() -> None:
    data = b"\x80\x04\x8c\x07os\n\x1b[2J\x8c\x01x\x93."
    with pytest.raises(CaseError, match=r"refused to unpickle os\?\?\[2J\.x in test"):
        unpickle(data, "test")

"""Reading .npz files, object arrays included, without running anything they contain.

NumPy stores object arrays as pickles, and unpickling runs whatever the file's author asked for. NumPy's own classes
give no protection: a crafted dtype state makes raw bytes pass for object pointers. So the unpickler gets no class of
NumPy. It may name only the four globals of an object array, each of which builds a plain record here; the records
are checked and turned into arrays afterwards.
"""

import math
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from gstk.core.files import StrPath, is_lfs_pointer
from gstk.errors import CaseError

__all__ = ["OBJECT_LIMIT_BYTES", "npz_header", "npz_keys", "npz_shape", "read_npz", "unpickle"]

OBJECT_LIMIT_BYTES = 8 * 2**20
"""Largest pickle that is read. The prompts of a case with a hundred classes take some 100 kB."""

_OPCODE_LIMIT = 1_000_000
_DEPTH_LIMIT = 16
_CHUNK_BYTES = 16 * 2**20
_ADMITTED = "NumPy arrays of numbers, dict, list, tuple, int, float, str, bool and None"
_PLAIN_DTYPES = frozenset(
    f"{kind}{size}"
    for kind, sizes in {"b": "1", "i": "1248", "u": "1248", "f": "248", "O": "48"}.items()
    for size in sizes
) | {"O"}
_READ_HEADER: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


class _RefusedError(Exception):
    """A pickle asked for something that is not allowed; its text becomes part of a CaseError."""


def npz_keys(path: StrPath) -> list[str]:
    """Names of the arrays in an .npz file, without reading them.

    Raises:
        CaseError: the file does not exist or is not an .npz.
    """
    with _open(Path(path)) as archive:
        return [_printable(name.removesuffix(".npy")) for name in archive.namelist()]


def npz_shape(path: StrPath, key: str) -> tuple[int, ...] | None:
    """Shape of an array in an .npz file; see `npz_header`."""
    header = npz_header(path, key)
    return None if header is None else header[0]


def npz_header(path: StrPath, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and dtype of an array in an .npz file, from its header alone; None where the file does not have it.

    Raises:
        CaseError: the file does not exist, is no .npz, or the array's header is damaged.
    """
    file = Path(path)
    with _open(file) as archive:
        if f"{key}.npy" not in archive.namelist():
            return None
        where = f"'{key}' of {file.name}"
        try:
            with archive.open(f"{key}.npy") as stream:
                shape, _, dtype = _read_header(stream, where)
                return shape, dtype
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            reason = _printable(str(error)) or type(error).__name__
            raise CaseError(f"cannot read {where}: {reason}; the file is truncated or altered, copy it anew") from error


def read_npz(path: StrPath, keys: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Read arrays from an .npz file. Safe for files from strangers: nothing in the file is executed.

    Args:
        path: the .npz file, stored or deflated.
        keys: the arrays wanted. Those the file does not have are left out of the result; others are not touched.

    Returns:
        The arrays by name: C-contiguous, in native byte order, of booleans, integers, floats or str, or of objects
        made of the admitted plain types (NumPy scalars inside them come as Python numbers).

    Raises:
        CaseError: the file does not exist, is no .npz, is truncated or altered, holds an array whose size is not what
            its header says, or a pickle that asks for anything but plain data.
    """
    file = Path(path)
    with _open(file) as archive:
        names = set(archive.namelist())
        return {key: _read_member(archive, key, file.name) for key in keys if f"{key}.npy" in names}


def unpickle(data: bytes, where: str) -> Any:
    """Unpickle plain data and NumPy arrays of it; refuse everything else by name.

    Args:
        data: a pickle of protocol 0 to 5, at most OBJECT_LIMIT_BYTES.
        where: what the pickle is, for messages: "'boxes' of case.npz".

    Raises:
        CaseError: the pickle is damaged, too large, or asks for anything but plain data. Nothing was executed.
    """
    if len(data) > OBJECT_LIMIT_BYTES:
        raise CaseError(f"got {len(data)} pickled bytes in {where}, expected at most {OBJECT_LIMIT_BYTES}")
    try:
        _check_size(data)
        return _resolve(_PlainUnpickler(BytesIO(data)).load(), {}, 0)
    except _RefusedError as refusal:
        name = _printable(str(refusal))
        raise CaseError(f"refused to unpickle {name} in {where}; a case may hold only {_ADMITTED}") from None
    except Exception as error:  # a damaged pickle can raise nearly every built-in exception
        reason = _printable(str(error)) or type(error).__name__
        raise CaseError(f"cannot unpickle {where}: {reason}; the file is damaged, make it anew") from error


def _printable(text: str) -> str:
    """A stranger's text for a one-line message: short, and no line breaks or terminal escapes."""
    return "".join(c if c.isprintable() else "?" for c in text[:120])


def _open(file: Path) -> zipfile.ZipFile:
    if is_lfs_pointer(file):
        raise CaseError(f"{file} is a Git LFS pointer, not the file itself; run git lfs pull")
    try:
        return zipfile.ZipFile(file)
    except FileNotFoundError:
        raise CaseError(f"{file} does not exist; check the path") from None
    except OSError as error:
        raise CaseError(f"cannot read {file}: {error.strerror or error}; expected an .npz file") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CaseError(f"{file} is not a complete .npz file ({error}); copy or make it anew") from error


def _read_member(archive: zipfile.ZipFile, key: str, file_name: str) -> npt.NDArray[Any]:
    where = f"'{key}' of {file_name}"
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CaseError(f"got the zip compression {info.compress_type} in {where}, expected stored or deflated")
    try:
        with archive.open(info) as stream:
            return _read_array(stream, info.file_size, where)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = _printable(str(error)) or type(error).__name__
        raise CaseError(f"cannot read {where}: {reason}; the file is truncated or altered, copy it anew") from error
    except MemoryError as error:
        raise CaseError(f"cannot read {where}: its {info.file_size} bytes do not fit into memory") from error


def _read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        shape, is_fortran, dtype = _READ_HEADER[version](stream)
    except KeyError:
        raise CaseError(
            f"got the npy format version {version[0]}.{version[1]} in {where}, expected 1.0 or 2.0"
        ) from None
    except (ValueError, SyntaxError, TokenError) as error:
        raise CaseError(f"got a damaged npy header in {where}; make the file anew") from error
    if any(n < 0 for n in shape):
        raise CaseError(f"got the shape {shape} in {where}, expected no negative side")
    return shape, is_fortran, dtype


def _read_array(stream: IO[bytes], member_bytes: int, where: str) -> npt.NDArray[Any]:
    shape, is_fortran, dtype = _read_header(stream, where)
    payload_bytes = member_bytes - stream.tell()
    order: Literal["C", "F"] = "F" if is_fortran else "C"
    if dtype == np.dtype(object):
        if payload_bytes > OBJECT_LIMIT_BYTES:
            raise CaseError(f"got {payload_bytes} pickled bytes in {where}, expected at most {OBJECT_LIMIT_BYTES}")
        array = unpickle(stream.read(), where)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            raise CaseError(f"got a pickle in {where} that is not the object array {shape} its header promises")
        return array
    if dtype.kind not in "biufU" or dtype.itemsize == 0:
        raise CaseError(f"got the dtype {dtype} in {where}, expected numbers, booleans or text")
    if math.prod(shape) * dtype.itemsize != payload_bytes:
        raise CaseError(
            f"got {payload_bytes} bytes in {where}, expected {math.prod(shape) * dtype.itemsize} for {dtype} {shape}; "
            "the file is truncated or altered, copy it anew"
        )
    # Memory is touched only as data arrives, so a header that lies about a huge array costs nothing.
    flat = np.empty(math.prod(shape), dtype)
    flat_bytes = flat.view(np.uint8)
    done = 0
    while done < payload_bytes:
        chunk = stream.read(min(_CHUNK_BYTES, payload_bytes - done))
        if not chunk:
            raise CaseError(f"got {done} bytes in {where}, expected {payload_bytes}; copy the file anew")
        flat_bytes[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    native = dtype.newbyteorder("=")
    if dtype.kind == "b":
        flat = flat_bytes != 0
    elif dtype.kind == "U" and flat.size and int(flat.astype(native).view(np.uint32).max()) > 0x10FFFF:
        raise CaseError(f"got text in {where} that is not Unicode; the file is altered")
    return np.asarray(flat.astype(native, copy=False).reshape(shape, order=order), order="C")


def _check_size(data: bytes) -> None:
    """Refuse pickles that would cost far more memory than their bytes: many empty objects, or a huge memo index."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > _OPCODE_LIMIT:
            raise _RefusedError(f"more than {_OPCODE_LIMIT} operations")
        if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > _OPCODE_LIMIT:
            raise _RefusedError(f"the memo index {argument}")


class _Global:
    """A global that a pickle may name. Calling it builds a record; it has no state that a pickle could change."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("a change to a NumPy function")


@dataclass(slots=True, eq=False)
class _Dtype:
    text: str
    byte_order: str = ""

    def __setstate__(self, state: Any) -> None:
        _version, byte_order, *structure = state[:5]
        if byte_order not in ("<", ">", "=", "|") or structure != [None, None, None]:
            raise _RefusedError(f"a structured dtype {self.text!r:.20}")
        self.byte_order = byte_order

    def resolve(self) -> np.dtype[Any]:
        if self.text not in _PLAIN_DTYPES or not self.byte_order:
            raise _RefusedError(f"the dtype {self.text!r:.20}")
        return np.dtype(self.byte_order + self.text)


@dataclass(slots=True, eq=False)
class _Array:
    state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _new_dtype(text: Any, align: Any = False, copy: Any = False) -> _Dtype:
    if not isinstance(text, str):
        raise _RefusedError("a dtype that is not named by a string")
    return _Dtype(text)


def _new_array(subtype: Any, shape: Any, code: Any) -> _Array:
    if subtype is not _NDARRAY:
        raise _RefusedError("a subclass of numpy.ndarray")
    return _Array()


def _new_scalar(dtype: Any, data: Any) -> Any:
    number_type = dtype.resolve()
    if number_type.hasobject or not isinstance(data, bytes) or len(data) != number_type.itemsize:
        raise _RefusedError(f"a NumPy scalar of dtype {number_type}")
    return np.frombuffer(data, number_type)[0].item()


def _bare_ndarray(*arguments: Any) -> Any:
    raise _RefusedError("a call of numpy.ndarray")


_NDARRAY = _Global(_bare_ndarray)
_GLOBALS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Global(_new_dtype),
    ("numpy.core.multiarray", "_reconstruct"): _Global(_new_array),
    ("numpy._core.multiarray", "_reconstruct"): _Global(_new_array),
    ("numpy.core.multiarray", "scalar"): _Global(_new_scalar),
    ("numpy._core.multiarray", "scalar"): _Global(_new_scalar),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("a persistent object")


def _resolve(value: Any, done: dict[int, Any], depth: int) -> Any:
    """Turn records into arrays, and refuse every type that is not plain. `done` keeps shared parts shared."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if id(value) in done:
        return done[id(value)]
    if depth > _DEPTH_LIMIT:
        raise _RefusedError(f"data nested more than {_DEPTH_LIMIT} deep")
    result: Any
    if type(value) is list:
        result = [_resolve(item, done, depth + 1) for item in value]
    elif type(value) is tuple:
        result = tuple(_resolve(item, done, depth + 1) for item in value)
    elif type(value) is dict:
        for key in value:
            if type(key) not in (str, int):
                raise _RefusedError(f"a dict key of type {type(key).__name__}")
        result = {key: _resolve(item, done, depth + 1) for key, item in value.items()}
    elif type(value) is _Array:
        result = _resolve_array(value, done, depth)
    else:
        raise _RefusedError(f"a {type(value).__name__.lstrip('_').lower()}")
    done[id(value)] = result
    return result


def _resolve_array(record: _Array, done: dict[int, Any], depth: int) -> npt.NDArray[Any]:
    _version, shape, dtype_record, is_fortran, data = record.state
    dtype = dtype_record.resolve()
    order: Literal["C", "F"] = "F" if is_fortran else "C"
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise _RefusedError("an array whose shape is not a tuple of sizes")
    count = math.prod(shape)
    if not dtype.hasobject:
        if type(data) is not bytes or len(data) != count * dtype.itemsize:
            raise _RefusedError(f"an array of dtype {dtype} whose bytes do not fit its shape")
        flat = np.frombuffer(data, np.uint8) != 0 if dtype.kind == "b" else np.frombuffer(data, dtype)
        return flat.astype(dtype.newbyteorder("=")).reshape(shape, order=order)
    if type(data) is not list or len(data) != count:
        raise _RefusedError("an object array whose items do not fit its shape")
    items = np.empty(count, object)
    for index, item in enumerate(data):
        items[index] = _resolve(item, done, depth + 1)
    return items.reshape(shape, order=order)

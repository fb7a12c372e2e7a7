"""Exchange of GPU arrays with a host program, without a copy.

Two protocols carry them: `__cuda_array_interface__` (version 3, Numba's documentation: torch, CuPy, PyCUDA, Numba, JAX)
and DLPack (dmlc/dlpack, version 0.8's `DLManagedTensor`: these and TensorFlow).
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gstk.errors import EngineError

__all__ = ["DeviceArray", "ExternalDeviceArray", "read_device_array"]

_KIND_CUDA = 2
_NAME, _USED_NAME = b"dltensor", b"used_dltensor"
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_LEGACY_STREAM = 1


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))
_api = ctypes.pythonapi
_new, _pointer, _valid, _rename = (
    ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
        ("PyCapsule_New", ctypes.pythonapi)
    ),
    ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api)),
    ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api)),
    ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api)),
)
_lent: dict[int, tuple[Any, ...]] = {}
"""Exported tensors by the address of their DLPack structure, kept until the consumer calls the deleter."""


@dataclass(frozen=True)
class ExternalDeviceArray:
    """An array of a host program, as its protocol describes it.

    Attributes:
        address: address of the first element.
        shape: shape of the array, which is contiguous with the last axis varying fastest.
        dtype: type of the elements.
        device: CUDA's index of the GPU; None if the protocol does not state it.
        stream: handle of the stream that last wrote the array; None if no synchronisation is needed.
        owner: the object that keeps the memory alive.
        read_only: whether the host program forbids writing to it.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int | None
    stream: int | None
    owner: Any
    read_only: bool = False


class DeviceArray:
    """A contiguous array on a GPU, returned by gstk. Its memory is kept until nothing refers to it any more.

    `torch.as_tensor(array, device="cuda")`, `cupy.asarray(array)`, `numba.cuda.as_cuda_array(array)` and
    `from_dlpack(array)` of any library share it without a copy.

    Attributes:
        address: address of the first element.
        shape: shape of the array; the last axis varies fastest.
        dtype: float32 or float16.
        device: CUDA's index of the GPU.
    """

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: int, owner: object) -> None:
        self.address, self.shape, self.dtype, self.device = address, shape, dtype, device
        self._owner = owner

    @property
    def nbytes(self) -> int:
        """Size of all elements in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # No stream is given: the array's computation has finished.
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _KIND_CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A `dltensor` capsule of DLPack's first version, which every consumer accepts.

        Raises:
            BufferError: a copy or another device is asked for.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("gstk shares its array where it is; copy it in the library that takes it")
        code, bits = _CODES[self.dtype.kind], 8 * self.dtype.itemsize
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        kind, index = self.__dlpack_device__()
        tensor = _Tensor(
            self.address, _Device(kind, index), len(self.shape), _Type(code, bits, 1), shape, None, ctypes.c_uint64(0)
        )
        managed = _Managed(tensor, None, _FREE_LENT)
        address = ctypes.addressof(managed)
        _lent[address] = (managed, shape, self)
        return _new(address, _NAME, ctypes.cast(_DROP_UNUSED, ctypes.c_void_p))


def read_device_array(name: str, source: object) -> ExternalDeviceArray:
    """Reads the description of a host program's array.

    Args:
        name: name of the argument, for error messages.
        source: has `__cuda_array_interface__`, or `__dlpack__` and `__dlpack_device__`.

    Raises:
        EngineError: the object has neither protocol, is not on an NVIDIA GPU, is not contiguous, or has a type that
            NumPy lacks.
    """
    # torch raises another error for a CPU tensor, and `hasattr` catches AttributeError alone.
    try:
        interface = getattr(source, "__cuda_array_interface__", None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _not_on_gpu(name, str(error)) from None
    if interface is not None:
        return _from_interface(name, source, interface)
    if hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__"):
        return _from_dlpack(name, source)
    raise _not_on_gpu(name, f"a {type(source).__name__} with neither __cuda_array_interface__ nor __dlpack__")


def _not_on_gpu(name: str, got: str) -> EngineError:
    return EngineError(f"got {name}: {got.splitlines()[0]}; expected an array on an NVIDIA GPU; move it there first")


def _from_interface(name: str, source: object, interface: dict[str, Any]) -> ExternalDeviceArray:
    shape, dtype = tuple(int(side) for side in interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None and not _is_contiguous(shape, tuple(int(s) // dtype.itemsize for s in strides)):
        raise _not_contiguous(name, shape)
    stream = interface.get("stream")
    address, read_only = interface["data"]
    written_by = None if stream is None else int(stream)
    return ExternalDeviceArray(int(address), shape, dtype, None, written_by, source, bool(read_only))


def _from_dlpack(name: str, source: Any) -> ExternalDeviceArray:
    kind, index = (int(part) for part in source.__dlpack_device__())
    if kind != _KIND_CUDA:
        raise _not_on_gpu(name, f"an array on DLPack's device {kind}")
    # The producer makes its writes visible to the default stream, on which the event is recorded.
    capsule = source.__dlpack__(stream=_LEGACY_STREAM)
    if not _valid(capsule, _NAME):
        raise EngineError(f"got {name} with a capsule that is no {_NAME.decode()}; give __cuda_array_interface__")
    managed = ctypes.cast(_pointer(capsule, _NAME), ctypes.POINTER(_Managed))
    _rename(capsule, _USED_NAME)
    owner = _Taken(managed)
    tensor = managed.contents.tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    letter = {code: kind for kind, code in _CODES.items()}.get(tensor.dtype.code)
    if letter is None or tensor.dtype.lanes != 1:
        raise EngineError(f"got {name} of DLPack's type code {tensor.dtype.code}, expected float32 or float16")
    if tensor.strides and not _is_contiguous(shape, tuple(tensor.strides[axis] for axis in range(tensor.ndim))):
        raise _not_contiguous(name, shape)
    dtype = np.dtype(f"{letter}{tensor.dtype.bits // 8}")
    return ExternalDeviceArray(
        int(tensor.data) + tensor.byte_offset, shape, dtype, index, _LEGACY_STREAM, (source, owner)
    )


class _Taken:
    """A tensor taken from a DLPack producer. The producer's deleter is called when this object is freed."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def _not_contiguous(name: str, shape: tuple[int, ...]) -> EngineError:
    return EngineError(f"got {name} {shape} with gaps or another order of axes; make a contiguous copy first")


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether strides, in elements, are those of a contiguous array; strides of axes with one element do not matter."""
    expected = 1
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and stride != expected:
            return False
        expected *= side
    return True


def _free_lent(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


def _drop_unused(capsule: int) -> None:
    """Frees the tensor of an unused capsule. A consumer renames the capsules that it uses."""
    valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
    if valid(capsule, _NAME):
        _lent.pop(pointer(capsule, _NAME), None)


_FREE_LENT = _Deleter(_free_lent)
_DROP_UNUSED = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_drop_unused)

"""Arrays of host programs: both protocols, against NumPy's and torch's own DLPack."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from gstk.engines import device_arrays
from gstk.engines.device_arrays import DeviceArray, read_device_array
from gstk.errors import EngineError


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """DLPack's number of the processor in place of the GPU's, so that NumPy and torch take part."""
    monkeypatch.setattr(device_arrays, "_KIND_CUDA", 1)


class Producer:
    """An array with DLPack that takes the stream which CUDA producers take."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, stream: int | None = None) -> Any:
        assert stream == 1
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class Interface:
    def __init__(self, **values: Any) -> None:
        self.__cuda_array_interface__ = values


def make(dtype: str = "f4") -> tuple[np.ndarray, DeviceArray]:
    values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    return values, DeviceArray(values.ctypes.data, values.shape, values.dtype, 0, values)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_numpy_and_torch_share_what_is_given(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    values, array = make(dtype)
    shared = np.from_dlpack(array)
    tensor = torch.from_dlpack(array)
    values[0, 0, 0] = 77
    for found in (shared, tensor.numpy()):
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
    assert len(device_arrays._lent) == 2
    del shared, tensor, found
    gc.collect()
    assert not device_arrays._lent


@pytest.mark.usefixtures("on_cpu")
def test_capsule_that_nobody_takes_is_dropped() -> None:
    _, array = make()
    capsule = array.__dlpack__()
    assert device_arrays._lent
    del capsule
    assert not device_arrays._lent
    with pytest.raises(BufferError):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        array.__dlpack__(dl_device=(7, 0))


@pytest.mark.usefixtures("on_cpu")
def test_arrays_of_torch_are_taken() -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(60, dtype=torch.float16).reshape(3, 4, 5)
    for tensor in (base, base[1:], base[:1].expand(1, 4, 5)):
        found = read_device_array("image", Producer(tensor))
        assert (found.address, found.shape, found.dtype) == (tensor.data_ptr(), tuple(tensor.shape), np.float16)
        assert found.stream == 1
        assert found.device == 0
    for tensor in (base.permute(2, 1, 0), base[:, ::2], base[:, :, 1:]):
        with pytest.raises(EngineError, match=r"got image \(.*\) with gaps or another order of axes"):
            read_device_array("image", Producer(tensor))
    with pytest.raises(EngineError, match="DLPack's type code 4"):
        read_device_array("image", Producer(torch.zeros(3, dtype=torch.bfloat16)))


def test_cuda_array_interface() -> None:
    values = {"shape": (2, 3), "typestr": "<f4", "data": (512, False), "version": 3}
    found = read_device_array("image", Interface(**values))
    assert (found.address, found.shape, found.dtype, found.stream, found.device) == (
        512,
        (2, 3),
        np.float32,
        None,
        None,
    )
    assert read_device_array("image", Interface(**values, strides=(12, 4), stream=7)).stream == 7
    with pytest.raises(EngineError, match="gaps or another order"):
        read_device_array("image", Interface(**values, strides=(4, 8)))
    mine = DeviceArray(512, (2, 3), np.dtype("f4"), 1, None).__cuda_array_interface__
    assert mine == {**values, "strides": None, "stream": None}


def test_what_is_not_on_a_gpu_is_refused() -> None:
    torch = pytest.importorskip("torch")
    for source in (np.zeros(3), torch.zeros(3), [1, 2], None):
        with pytest.raises(EngineError, match="expected an array on an NVIDIA GPU; move it there first"):
            read_device_array("image", source)

"""Each example runs, on stand-ins for the host's library where that is not here."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import Fake, _array, installed

from gstk.engines.tensorrt_build import build_plans

pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")
FOLDER = Path(__file__).resolve().parents[1] / "examples" / "tensorrt"


class ExternalDeviceArray(np.ndarray):
    """NumPy's arithmetic on memory of the stand-in GPU, with what host libraries say of their arrays."""

    owner: Any = None

    @classmethod
    def put(cls, fake: Fake, values: Any) -> ExternalDeviceArray:
        values = np.asarray(values)
        address = fake.cuda.allocate(fake.cuda.device, max(values.nbytes, 1))
        found = _array(fake.cuda, address, values.shape, values.dtype).view(cls)
        found[...] = values
        return found

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.ctypes.data, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "version": 3, "strides": None}

    def get(self) -> np.ndarray:
        return np.asarray(self)

    def to(self, dtype: Any) -> ExternalDeviceArray:
        assert dtype == self.dtype
        return self


def shared(fake: Fake, array: Any) -> ExternalDeviceArray:
    """What a library makes of an array that it is given: the same memory, and it keeps whose it is."""
    interface = array.__cuda_array_interface__
    values = _array(fake.cuda, interface["data"][0], interface["shape"], np.dtype(interface["typestr"]))
    found = values.view(ExternalDeviceArray)
    found.owner = array
    return found


def torch_like(fake: Fake) -> dict[str, Any]:
    class Stream:
        cuda_stream = 1

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    cuda = types.SimpleNamespace(Stream=Stream, stream=lambda stream: stream)
    found: Any = types.ModuleType("torch")
    found.cuda, found.float16, found.float32 = cuda, np.dtype("f2"), np.dtype("f4")
    found.rand = lambda shape, device: ExternalDeviceArray.put(fake, np.random.default_rng(0).random(shape, np.float32))
    found.as_tensor = lambda array, device: shared(fake, array)
    return {"torch": found}


def cupy_like(fake: Fake) -> dict[str, Any]:
    class Random:
        @staticmethod
        def random(shape: tuple[int, ...]) -> Any:
            values = np.random.default_rng(0).random(shape)
            return types.SimpleNamespace(astype=lambda dtype: ExternalDeviceArray.put(fake, values.astype(dtype)))

    found: Any = types.ModuleType("cupy")
    found.random, found.asarray = Random, lambda array: shared(fake, array)
    return {"cupy": found}


def pycuda_like(fake: Fake) -> dict[str, Any]:
    found: Any = types.ModuleType("pycuda")
    found.autoprimaryctx, found.gpuarray = types.ModuleType("pycuda.autoprimaryctx"), types.ModuleType("gpuarray")
    found.gpuarray.to_gpu = lambda values: ExternalDeviceArray.put(fake, values)
    found.gpuarray.zeros = lambda shape, dtype: ExternalDeviceArray.put(fake, np.zeros(shape, dtype))
    return {"pycuda": found, "pycuda.autoprimaryctx": found.autoprimaryctx, "pycuda.gpuarray": found.gpuarray}


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    with installed() as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        build_plans("tiny")
        yield fake


@pytest.mark.parametrize("host", [torch_like, cupy_like, pycuda_like], ids=lambda host: host.__name__)
def test_host_of_arrays_on_the_gpu(
    host: Any, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, module in host(fake).items():
        monkeypatch.setitem(sys.modules, name, module)
    file = FOLDER / f"{host.__name__.removesuffix('_like')}_host.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["one click", "two clicks"]
    one, two = (int(line.split()[2]) for line in lines)
    assert 0 < two != one


def test_every_example_is_run() -> None:
    known = {"README.md", "torch_host.py", "cupy_host.py", "pycuda_host.py"}
    assert {file.name for file in FOLDER.iterdir() if file.name != "__pycache__"} == known

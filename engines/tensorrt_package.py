"""Checks whether TensorRT is installed in a version that gstk can use. Importing this module does not import TensorRT.

On a machine without a GPU, TensorRT can be imported and can create a runtime, but loading a plan crashes the process.
Call `require_gpu` before anything that needs more than TensorRT's version.
"""

from __future__ import annotations

import importlib.util
import re

from gstk.core.foreign_text import reason_of
from gstk.engines.devices import Device, nvidia_gpus
from gstk.errors import BackendMissing

__all__ = ["FLOOR", "require_gpu", "require_tensorrt", "version_pair"]

FLOOR = (10, 12)
"""The first version in which strongly typed networks behave as in TensorRT 11."""
_INSTALL = 'pip install "gstk[tensorrt]"'
_VERSIONS = f"{FLOOR[0]}.{FLOOR[1]} or newer"


def require_tensorrt() -> str:
    """The version of the installed TensorRT.

    Raises:
        BackendMissing: TensorRT or `cuda-bindings` is not installed, cannot be imported, or is too old.
    """
    spec = importlib.util.find_spec("tensorrt")
    if spec is None or spec.origin is None:  # a folder of type stubs is a package without a file
        raise BackendMissing(f"TensorRT is not installed; {_INSTALL}")
    try:
        import tensorrt
    except (ImportError, OSError, RuntimeError) as error:
        reason = reason_of(error)
        raise BackendMissing(
            f"TensorRT is installed but does not import ({reason}); install the build for this driver's CUDA: "
            f"{_INSTALL}, or tensorrt-cu12 for CUDA 12"
        ) from None
    version = str(tensorrt.__version__)
    if version_pair(version) < FLOOR:
        raise BackendMissing(f"got TensorRT {version}, expected {_VERSIONS}; {_INSTALL}")
    try:
        import cuda.bindings.runtime  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = reason_of(error)
        raise BackendMissing(f"TensorRT {version} is here, but cuda-bindings is not ({reason}); {_INSTALL}") from None
    return version


def require_gpu() -> list[Device]:
    """The GPUs that TensorRT can use here.

    Raises:
        BackendMissing: no TensorRT that gstk can use.
        DriverMissing: no driver, or no GPU.
    """
    require_tensorrt()
    return nvidia_gpus()


def version_pair(version: str) -> tuple[int, int]:
    """Major and minor number of a version; (0, 0) if the text is not a version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)

"""PyCUDA: a GPUArray is clicked through.

CUDA's runtime, which TensorRT uses, works in the device's primary context: memory of a context that PyCUDA made for
itself (`pycuda.autoinit`) is not visible there. `pycuda.autoprimaryctx` takes the primary one.
"""

from __future__ import annotations

import sys

import numpy as np
import pycuda.autoprimaryctx  # noqa: F401
from pycuda import gpuarray

from gstk.engines import open_engine
from gstk.engines.tensorrt import TensorRTEngine


def main(bundle: str = "tiny") -> None:
    with open_engine(bundle, "tensorrt") as engine:
        assert isinstance(engine, TensorRTEngine)
        z, y, x = engine.bundle.manifest.roi.default
        values = np.random.default_rng(0).random((1, 1, z, y, x)).astype(engine.image_dtype)
        image = gpuarray.to_gpu(values)
        embedding = engine.encode_device(image)

        centre = (z // 2, y // 2, x // 2)
        logits = gpuarray.zeros((1, 1, z, y, x), engine.logits_dtype)
        engine.decode_device(embedding, [[centre]], [[1]], out=logits)
        print("one click:", int((logits.get() > 0).sum()), "voxels")

        engine.decode_device(embedding, [[centre, (0, 0, 0)]], [[1, 0]], out=logits)
        print("two clicks:", int((logits.get() > 0).sum()), "voxels")


if __name__ == "__main__":
    main(*sys.argv[1:])

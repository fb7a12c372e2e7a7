"""CuPy: an array on the GPU is clicked through."""

from __future__ import annotations

import sys

import cupy

from gstk.engines import open_engine
from gstk.engines.tensorrt import TensorRTEngine


def main(bundle: str = "tiny") -> None:
    with open_engine(bundle, "tensorrt") as engine:
        assert isinstance(engine, TensorRTEngine)
        z, y, x = engine.bundle.manifest.roi.default
        image = cupy.random.random((1, 1, z, y, x)).astype(engine.image_dtype)
        embedding = engine.encode_device(image)  # CuPy says itself which stream wrote the array

        centre = (z // 2, y // 2, x // 2)
        logits = cupy.asarray(engine.decode_device(embedding, [[centre]], [[1]]))
        print("one click:", int((logits > 0).sum()), "voxels")

        engine.decode_device(embedding, [[centre, (0, 0, 0)]], [[1, 0]], out=logits)
        print("two clicks:", int((logits > 0).sum()), "voxels")


if __name__ == "__main__":
    main(*sys.argv[1:])

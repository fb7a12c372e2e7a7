"""PyTorch: a tensor on the GPU is clicked through, on a stream of the program's own."""

from __future__ import annotations

import sys

import torch

from gstk.engines import open_engine
from gstk.engines.tensorrt import TensorRTEngine


def main(bundle: str = "tiny") -> None:
    with open_engine(bundle, "tensorrt") as engine:
        assert isinstance(engine, TensorRTEngine)
        z, y, x = engine.bundle.manifest.roi.default
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            image = torch.rand((1, 1, z, y, x), device="cuda")
            image = image.to(torch.float16 if engine.image_dtype == "float16" else torch.float32)
        embedding = engine.encode_device(image, stream=stream.cuda_stream)  # begins when the stream is there

        centre = (z // 2, y // 2, x // 2)
        logits = torch.as_tensor(engine.decode_device(embedding, [[centre]], [[1]]), device="cuda")
        print("one click:", int((logits > 0).sum()), "voxels")

        # A correction writes into the same tensor.
        engine.decode_device(embedding, [[centre, (0, 0, 0)]], [[1, 0]], out=logits)
        print("two clicks:", int((logits > 0).sum()), "voxels")


if __name__ == "__main__":
    main(*sys.argv[1:])

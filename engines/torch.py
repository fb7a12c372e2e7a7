"""torch: the reference, and a way to a GPU where ONNX Runtime's build for it is not at hand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gstk.engines.base import BundleEngine
from gstk.engines.devices import Device
from gstk.engines.options import option
from gstk.errors import BackendMissing, EngineError

__all__ = ["TorchEngine", "TorchOptions"]

_KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""How many kernels oneDNN keeps, which torch computes with on a processor; read when the first one is made.

Each shape has its own. The 1,024 of the default take 1 GB once images of different shapes have come.
"""
_MOST_KERNELS = "256"


@dataclass(frozen=True)
class TorchOptions:
    """Settings of `TorchEngine`."""

    amp: str = option("off", "torch.autocast for an FP32 bundle", ("off", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile; the first run of each shape takes a minute")
    tf32: bool = option(False, "round FP32 products to 10 bits on the GPU, for the whole process")


def _torch() -> tuple[Any, Any]:
    """The package, and what runs a graph with it."""
    os.environ.setdefault(_KERNELS, _MOST_KERNELS)
    try:
        import torch

        from gstk.engines.torch_graph import TorchGraph
    except ImportError as error:
        raise BackendMissing(f'torch cannot be used ({error}); pip install "gstk[train]"') from None
    return torch, TorchGraph


class TorchEngine(BundleEngine):
    """See `Engine`. Regions of any admitted shape; FP32 and FP16, each computed as the graph says."""

    name: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    options_type: ClassVar[type[Any]] = TorchOptions

    @classmethod
    def devices(cls) -> list[Device]:
        """See `BundleEngine`: GPUs first, in torch's order."""
        torch, _ = _torch()
        gpus = [
            Device(f"cuda:{index}", torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index))
            for index in range(torch.cuda.device_count())
        ]
        return [*gpus, Device("cpu")]

    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        torch, graph_class = _torch()
        self.version = torch.__version__
        self._torch = torch
        self._where = torch.device(self.device.id)
        self._amp = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.options.amp]
        if self._amp is not None and self.precision != "fp32":
            raise EngineError(f"got amp={self.options.amp} with precision {self.precision}, expected fp32; drop one")
        if self.device.is_gpu:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.options.tf32
        elif self.options.tf32:
            raise EngineError("got tf32=on with device cpu, expected a GPU; drop it, or take --device cuda")
        if threads is not None:
            torch.set_num_threads(threads)
        self._graphs = [graph_class(path, self._where).eval() for path in (encoder, decoder)]
        self._types = [graph.types for graph in self._graphs]
        if self.options.compile:
            # For each shape anew: with dynamic shapes Inductor fails on the slices of the folded convolution (2.13).
            self._graphs = [torch.compile(graph, dynamic=False) for graph in self._graphs]

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        embedding = self._run(0, {"image": image})
        return embedding, embedding.numel() * embedding.element_size()

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = self._run(1, {"embedding": handle, "point_coords": coords, "point_labels": labels})
        return np.asarray(logits.float().cpu().numpy())

    def _class_features(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(self._graphs) == 2:
            _, graph_class = _torch()
            graph = graph_class(self._class_graph(), self._where).eval()
            self._types.append(graph.types)
            self._graphs.append(self._torch.compile(graph, dynamic=False) if self.options.compile else graph)
        return np.asarray(self._run(2, {"image": image})[0].float().cpu().numpy())

    def _run(self, index: int, inputs: dict[str, Any]) -> Any:
        torch = self._torch
        tensors = {
            name: torch.as_tensor(value, dtype=self._types[index].get(name), device=self._where)
            for name, value in inputs.items()
        }
        with torch.inference_mode(), torch.autocast(self._where.type, self._amp, enabled=self._amp is not None):
            return self._graphs[index](tensors)[0]

    def _release(self) -> None:
        self._graphs.clear()
        if self.device.is_gpu:
            self._torch.cuda.empty_cache()

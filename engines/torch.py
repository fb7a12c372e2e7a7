"""torch: the reference, and a way to a GPU where ONNX Runtime's build for it is not at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gstk.engines.base import BundleEngine
from gstk.errors import BackendMissing

__all__ = ["TorchEngine"]


def _torch() -> tuple[Any, Any]:
    """The package, and what runs a graph with it."""
    try:
        import torch

        from gstk.engines.torch_graph import TorchGraph
    except ImportError as error:
        raise BackendMissing(f'torch cannot be used ({error}); pip install "gstk[train]"') from None
    return torch, TorchGraph


class TorchEngine(BundleEngine):
    """See `Engine`. Regions of any admitted shape; FP32 and FP16, each computed as the graph says.

    On an NVIDIA GPU where torch finds one, on the processor otherwise.
    """

    name: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")

    @classmethod
    def devices(cls) -> list[str]:
        """See `BundleEngine`: GPUs first, in torch's order."""
        torch, _ = _torch()
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return [*(f"cuda:{index}: {name}" for index, name in enumerate(gpus)), "cpu"]

    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        torch, graph_class = _torch()
        self.version = torch.__version__
        self._torch = torch
        self._where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device = self.devices()[0]
        if threads is not None:
            torch.set_num_threads(threads)
        self._graphs = [graph_class(path, self._where).eval() for path in (encoder, decoder)]

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        embedding = self._run(0, {"image": image})
        return embedding, embedding.numel() * embedding.element_size()

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = self._run(1, {"embedding": handle, "point_coords": coords, "point_labels": labels})
        return np.asarray(logits.float().cpu().numpy())

    def _run(self, index: int, inputs: dict[str, Any]) -> Any:
        graph, torch = self._graphs[index], self._torch
        tensors = {
            name: torch.as_tensor(value, dtype=graph.types.get(name), device=self._where)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            return graph(tensors)[0]

    def _release(self) -> None:
        self._graphs.clear()
        if self._where.type == "cuda":
            self._torch.cuda.empty_cache()

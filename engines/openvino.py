"""OpenVINO on the CPU: the fastest way there without a GPU."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gstk.engines.base import BundleEngine
from gstk.engines.openvino_norm import split_instance_norms
from gstk.errors import BackendMissing

__all__ = ["OpenVINOEngine"]

KEEP_MAP_BYTES = 24 * 4 * 128**3
"""A feature map of 24 channels at 128³: 2.0 GB for both graphs."""


class OpenVINOEngine(BundleEngine):
    """See `Engine`. Regions of any admitted shape, FP32 arithmetic."""

    name: ClassVar[str] = "openvino"

    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendMissing(f'OpenVINO cannot be imported ({error}); pip install "gstk[cpu]"') from None
        self.version = openvino.__version__.split("-")[0]
        core = openvino.Core()
        self.device = f"cpu: {core.get_property('CPU', 'FULL_DEVICE_NAME')}"
        # Without the precision hint OpenVINO computes in bfloat16 where the CPU has it, without saying so.
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads

        def compile_graph(path: Path) -> Any:
            model = core.read_model(path)
            split_instance_norms(model)
            return core.compile_model(model, "CPU", config)

        self._graphs = [compile_graph(encoder), compile_graph(decoder)]
        self._requests = [graph.create_infer_request() for graph in self._graphs]
        self._width = self._graphs[0].output(0).partial_shape[1].get_length()

    def _encode(self, image: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        self._free_idle(1, self._decoding, image.size)
        embedding = self._run(0, {"image": image})
        return embedding, embedding.nbytes

    def _decode(
        self, handle: NDArray[np.float32], coords: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        self._free_idle(0, self._encoding, 8 * math.prod(handle.shape[2:]))
        return self._run(1, {"embedding": handle, "point_coords": coords, "point_labels": labels})

    def _run(self, index: int, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        request = self._requests[index]
        request.infer(inputs, share_inputs=True)
        # The request's tensor is written again by its next run, hence the copy.
        return np.array(request.get_output_tensor(0).data)

    def _free_idle(self, index: int, busy: threading.Lock, voxels: int) -> None:
        """Frees the intermediate tensors that the other graph kept from its last run, where regions are large.

        Both graphs together keep about twelve maps of the region at full resolution. Allocating them anew costs half
        as much as a decode, so up to `KEEP_MAP_BYTES` a map they stay.
        """
        if 4 * self._width * voxels > KEEP_MAP_BYTES and busy.acquire(blocking=False):
            try:
                self._graphs[index].release_memory()
            finally:
                busy.release()

    def _release(self) -> None:
        self._requests.clear()
        self._graphs.clear()

"""OpenVINO on the CPU: the fastest way there without a GPU."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gstk.engines.base import BundleEngine
from gstk.engines.openvino_fold import convolve_last_product
from gstk.engines.openvino_int8 import is_quantised, widen_unsigned
from gstk.engines.openvino_norm import split_instance_norms
from gstk.errors import BackendMissing

__all__ = ["OpenVINOEngine"]

MAPS = 12
"""Maps of the region at full resolution that both graphs keep from their last run, about."""
KEEP_SHARE = 0.25
"""Share of the machine's memory that they may keep so."""


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendMissing(f'OpenVINO cannot be imported ({error}); pip install "gstk[cpu]"') from None
    return openvino


def _processor(core: Any) -> str:
    return f"cpu: {core.get_property('CPU', 'FULL_DEVICE_NAME')}"


class OpenVINOEngine(BundleEngine):
    """See `Engine`. Regions of any admitted shape; FP32 arithmetic for FP16 graphs too, INT8 for INT8 encoders."""

    name: ClassVar[str] = "openvino"

    @classmethod
    def devices(cls) -> list[str]:
        """See `BundleEngine`. gstk runs OpenVINO on the processor."""
        return [_processor(_openvino().Core())]

    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        openvino = _openvino()
        self.version = openvino.__version__.split("-")[0]
        core = openvino.Core()
        self.device = _processor(core)
        # Without the precision hint OpenVINO computes in bfloat16 where the CPU has it, without saying so.
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads

        models = [core.read_model(path) for path in (encoder, decoder)]
        models[1].reshape({"point_coords": [1, -1, 3], "point_labels": [1, -1]})
        convolve_last_product(models[1])
        for model in models:
            # Among INT8 convolutions the plugin pulls scales through the averages of split norms, and what comes out is
            # 0 everywhere. Rounding in whole norms is then the smaller error by far.
            if is_quantised(model):
                widen_unsigned(model)
            else:
                split_instance_norms(model)
        self._graphs = [core.compile_model(model, "CPU", config) for model in models]
        self._requests = [graph.create_infer_request() for graph in self._graphs]
        self._width = self._graphs[0].output(0).partial_shape[1].get_length()
        self._image_type = self._graphs[0].input(0).element_type.to_dtype()
        self._embedding_type = self._graphs[0].output(0).element_type.to_dtype()

    def _encode(self, image: NDArray[np.float32]) -> tuple[NDArray[Any], int]:
        self._free_idle(1, self._decoding, image.size)
        embedding = np.empty((1, self._width, *(side // 2 for side in image.shape[2:])), self._embedding_type)
        self._infer(0, {"image": image.astype(self._image_type, copy=False)}, embedding)
        return embedding, embedding.nbytes

    def _decode(
        self, handle: NDArray[Any], coords: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        self._free_idle(0, self._encoding, 8 * math.prod(handle.shape[2:]))
        objects, shape = len(labels), tuple(2 * side for side in handle.shape[2:])
        logits = np.empty((objects, 1, *shape), np.float32)
        for b in range(objects):
            one = slice(b, b + 1)
            self._infer(1, {"embedding": handle, "point_coords": coords[one], "point_labels": labels[one]}, logits[one])
        return logits

    def _infer(self, index: int, inputs: dict[str, NDArray[Any]], output: NDArray[Any]) -> None:
        request = self._requests[index]
        request.infer(inputs, share_inputs=True)
        # The request's tensor is written again by its next run, hence the copy.
        np.copyto(output, request.get_output_tensor(0).data)

    def _free_idle(self, index: int, busy: threading.Lock, voxels: int) -> None:
        """Frees the intermediate tensors that the other graph kept from its last run, where they are large.

        Allocating them anew costs half as much as a decode, so up to a share of the machine's memory they stay.
        """
        kept_bytes = MAPS * 4 * self._width * voxels
        if kept_bytes > KEEP_SHARE * memory_bytes() and busy.acquire(blocking=False):
            try:
                self._graphs[index].release_memory()
            finally:
                busy.release()

    def _release(self) -> None:
        self._requests.clear()
        self._graphs.clear()

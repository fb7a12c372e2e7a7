"""ONNX Runtime on the CPU: it runs nearly everywhere, and in the least memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gstk.engines.base import BundleEngine
from gstk.errors import BackendMissing

__all__ = ["ONNXRuntimeEngine"]

_ERRORS_ONLY = 3
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(f'ONNX Runtime cannot be imported ({error}); pip install "gstk[cpu]"') from None
    return onnxruntime


class ONNXRuntimeEngine(BundleEngine):
    """See `Engine`. Regions of any admitted shape; FP32 arithmetic for FP16 graphs too, INT8 for INT8 encoders."""

    name: ClassVar[str] = "onnxruntime"

    @classmethod
    def devices(cls) -> list[str]:
        """See `BundleEngine`."""
        _onnxruntime()
        return ["cpu"]

    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        onnxruntime = _onnxruntime()
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        # Regions change shape from run to run: an arena keeps the largest of each (3 GB for 16 channels at 128³, 1 GB
        # without it), and memory patterns are planned for a shape that does not come again.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        self._sessions = [
            onnxruntime.InferenceSession(str(path), options, providers=providers) for path in (encoder, decoder)
        ]
        self._image_type = _FLOATS[self._sessions[0].get_inputs()[0].type]

    def _encode(self, image: NDArray[np.float32]) -> tuple[NDArray[Any], int]:
        embedding = self._run(0, {"image": image.astype(self._image_type, copy=False)})
        return embedding, embedding.nbytes

    def _decode(
        self, handle: NDArray[Any], coords: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        logits = self._run(1, {"embedding": handle, "point_coords": coords, "point_labels": labels})
        return logits.astype(np.float32, copy=False)

    def _run(self, index: int, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        result: NDArray[Any] = self._sessions[index].run(None, inputs)[0]
        return result

    def _release(self) -> None:
        self._sessions.clear()

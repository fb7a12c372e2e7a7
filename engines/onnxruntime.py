"""ONNX Runtime: on processors nearly everywhere and in the least memory; on NVIDIA GPUs with its CUDA build."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gstk.engines.base import BundleEngine
from gstk.engines.devices import Device, nvidia_gpus
from gstk.engines.onnxruntime_norm import exact_graph
from gstk.engines.onnxruntime_tensorrt import tensorrt_options
from gstk.engines.options import option
from gstk.engines.processor import this_processor
from gstk.errors import BackendMissing, DriverMissing, EngineError

__all__ = ["GIVE_MEMORY_BACK", "WEIGHTS_FOLDER", "ONNXRuntimeEngine", "ONNXRuntimeOptions", "keep_int8_exact"]

_ERRORS_ONLY = 3
_EXACT_PRODUCTS = "session.x64quantprecision"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Setting of a session: where the weights lie that its graph names by their place in a file."""
GIVE_MEMORY_BACK = ("memory.enable_memory_arena_shrinkage", "cpu:0")
"""Setting of a run, and its value: the arena's memory goes back to the system at its end."""
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CUDA, _TENSORRT, _CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True)
class ONNXRuntimeOptions:
    """Settings of `ONNXRuntimeEngine`. All but `arena` are for GPUs."""

    arena: bool | None = option(None, "keep memory of the processor from one run to the next; off by default")
    memory_limit_mb: int | None = option(None, "memory of the GPU for both graphs together, each gets half")
    conv_search: str = option("heuristic", "how cuDNN's kernels are chosen", ("heuristic", "exhaustive", "default"))
    tf32: bool = option(False, "round FP32 products to 10 bits on the GPU")
    tensorrt: bool = option(False, "let TensorRT 10 run the graphs")
    tensorrt_profile: str = option("64:128:192", "sides of a region for TensorRT, smallest:usual:largest")
    tensorrt_cache: Path | None = option(None, "folder where TensorRT's engines are kept")


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(f'ONNX Runtime cannot be imported ({error}); pip install "gstk[cpu]"') from None
    return onnxruntime


def keep_int8_exact(options: Any) -> None:
    """Has INT8 products added in 32 bits where this processor's fastest kernels would add them in 16, and saturate.

    Weights are then unsigned, whose kernels are exact and take a fifth longer.

    Args:
        options: an `onnxruntime.SessionOptions`, of a session on the processor.
    """
    if this_processor().saturates_int8:
        options.add_session_config_entry(_EXACT_PRODUCTS, "1")


class ONNXRuntimeEngine(BundleEngine):
    """See `Engine`. Regions of any admitted shape, or within the profile where TensorRT runs them.

    On a processor FP32 arithmetic for FP16 graphs too, INT8 for INT8 encoders; on a GPU what the graph says. There an
    embedding stays on the GPU.
    """

    name: ClassVar[str] = "onnxruntime"
    options_type: ClassVar[type[Any]] = ONNXRuntimeOptions

    @classmethod
    def devices(cls) -> list[Device]:
        """See `BundleEngine`."""
        gpus: list[Device] = []
        if _CUDA in _onnxruntime().get_available_providers():
            with suppress(DriverMissing):
                gpus = nvidia_gpus()
        return [*gpus, Device("cpu")]

    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        onnxruntime = _onnxruntime()
        self.version = onnxruntime.__version__
        self._place = ("cuda", self.device.index) if self.device.is_gpu else ("cpu", 0)
        self._largest: int | None = None
        self._runs: dict[int, Any] = {}
        providers = self._providers(onnxruntime)

        def open_session(path: Path, kind: int) -> Any:
            file = path.resolve()
            return onnxruntime.InferenceSession(
                str(file) if self.device.is_gpu else exact_graph(file),
                self._session_options(file.parent, threads),
                providers=[(name, dict(values[kind])) for name, values in providers],
            )

        self._open_session = open_session
        self._sessions = [open_session(path, kind) for kind, path in enumerate((encoder, decoder))]
        # The CUDA build goes on with the processor where its libraries cannot be loaded, and only logs why.
        first = providers[0][0]
        for session in self._sessions:
            if first not in session.get_providers():
                raise BackendMissing(
                    f"ONNX Runtime {self.version} cannot start its {first}: CUDA, cuDNN or TensorRT of its version are "
                    'not there; pip install "gstk[gpu]", or take --device cpu'
                )
        self._image_type = _FLOATS[self._sessions[0].get_inputs()[0].type]

    def _session_options(self, weights: Path, threads: int | None) -> Any:
        """Settings of a session on a graph whose weights lie in the folder `weights`."""
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        # Regions change shape from run to run, and memory patterns are planned for a shape that does not come again.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        if self.device.is_gpu:
            options.enable_cpu_mem_arena = False
            return options
        options.add_session_config_entry(WEIGHTS_FOLDER, str(weights))
        if self.precision == "int8":
            keep_int8_exact(options)
        return options

    def _providers(self, onnxruntime: Any) -> list[tuple[str, tuple[dict[str, str], dict[str, str]]]]:
        """Execution providers, the preferred one first, with their settings for encoder and decoder."""
        chosen = self.options
        if not self.device.is_gpu:
            if chosen != ONNXRuntimeOptions(arena=chosen.arena):
                raise EngineError(
                    f"got options for a GPU with device {self.device.id}; take --device cuda, or drop them"
                )
            return [(_CPU, ({}, {}))]
        if chosen.arena is not None:
            raise EngineError(f"got option arena for {self.device.id}, which is for the cpu; drop it")
        cuda = {
            "device_id": str(self.device.index),
            # Exhaustive search is run anew for each shape, and "default" is cuDNN's slow fallback.
            "cudnn_conv_algo_search": chosen.conv_search.upper(),
            "cudnn_conv_use_max_workspace": "1",
            # Growing by powers of two would hold twice what the largest region needs.
            "arena_extend_strategy": "kSameAsRequested",
            "do_copy_in_default_stream": "1",
            "use_tf32": "1" if chosen.tf32 else "0",
        }
        if chosen.memory_limit_mb is not None:
            cuda["gpu_mem_limit"] = str(chosen.memory_limit_mb * 2**20 // 2)
        providers = [(_CUDA, (cuda, cuda)), (_CPU, ({}, {}))]
        if chosen.tensorrt:
            if _TENSORRT not in onnxruntime.get_available_providers():
                raise BackendMissing(
                    f"ONNX Runtime {self.version} is a build without TensorRT; "
                    'pip install "gstk[gpu]", or drop tensorrt=on'
                )
            found = tensorrt_options(self.bundle, self.precision, self.device, chosen, self.version)
            self._smallest, self._largest = found.smallest, found.largest
            providers.insert(0, (_TENSORRT, (found.encoder, found.decoder)))
        return providers

    def _check_region(self, shape: tuple[int, int, int]) -> None:
        super()._check_region(shape)
        if self._largest is not None and not all(self._smallest <= side <= self._largest for side in shape):
            raise EngineError(
                f"got a region of {shape}, expected sides in {self._smallest}..{self._largest} as tensorrt_profile "
                "says; beyond it TensorRT would build its engine anew"
            )

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        embedding = self._run(0, {"image": image.astype(self._image_type, copy=False)})
        if not self.device.is_gpu:
            return embedding, embedding.nbytes
        item = np.dtype(_FLOATS[embedding.data_type()]).itemsize
        return embedding, math.prod(embedding.shape()) * item

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        inputs = {"embedding": handle, "point_coords": coords, "point_labels": labels}
        logits: NDArray[Any] = self._run(1, inputs, keep_on_device=False)
        return logits.astype(np.float32, copy=False)

    def _class_features(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(self._sessions) == 2:
            self._sessions.append(self._open_session(self._class_graph(), 0))
        features = self._run(2, {"image": image.astype(self._image_type, copy=False)}, keep_on_device=False)
        return np.asarray(features[0], np.float32)

    def _run(self, index: int, inputs: dict[str, Any], keep_on_device: bool = True) -> Any:
        """Runs a graph on arrays, and on values that ONNX Runtime holds on a GPU.

        Returns:
            The output: an array, or, of a GPU where `keep_on_device`, ONNX Runtime's own value.
        """
        session = self._sessions[index]
        binding = session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        output = session.get_outputs()[0]
        run = self._runs[index] = _onnxruntime().RunOptions()
        if self.device.is_gpu:
            binding.bind_output(output.name, *(self._place if keep_on_device else ("cpu", 0)))
            session.run_with_iobinding(binding, run)
            found = binding.get_outputs()[0]
            return found if keep_on_device else found.numpy()
        # Within a run, the arena gives a layer's memory to the next one; from the system each would be new, page by
        # page, which took a fifth to a third of the time. Kept, it would hold the largest of every shape.
        if not self.options.arena:
            run.add_run_config_entry(*GIVE_MEMORY_BACK)
        # An array of our own: in the arena, an embedding that is kept would keep all that lies in one piece with it.
        result = np.empty(_output_shape(output.name, output.shape[1], inputs), _FLOATS[output.type])
        binding.bind_output(output.name, "cpu", 0, result.dtype.type, result.shape, result.ctypes.data)
        session.run_with_iobinding(binding, run)
        return result

    def _interrupt(self) -> None:
        for run in list(self._runs.values()):
            run.terminate = True

    def _release(self) -> None:
        self._sessions.clear()


def _output_shape(name: str, channels: int, inputs: dict[str, NDArray[Any]]) -> tuple[int, ...]:
    """Shape of an embedding [1,C,H/2,W/2,D/2], of features [1,C,H,W,D], or of logits [B,1,H,W,D]."""
    if name == "logits":
        return (len(inputs["point_labels"]), channels, *(2 * side for side in inputs["embedding"].shape[2:]))
    halvings = 1 if name == "embedding" else 0
    return (1, channels, *(side >> halvings for side in inputs["image"].shape[2:]))

"""Builds one TensorRT plan from one ONNX graph. Import this module inside functions alone: it imports TensorRT.

The module uses only the API that TensorRT 10.12 to 11.x have in common. Networks are strongly typed: the graph alone
decides which operators compute in half precision. Enumerations are looked up by name, since 11 changed their values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import tensorrt as trt

from gstk.engines.cuda import on_device
from gstk.engines.failures import failure
from gstk.engines.tensorrt_layers import count_types, require_types
from gstk.engines.tensorrt_log import logger, what_went_wrong
from gstk.engines.tensorrt_profiles import Profiles
from gstk.engines.tensorrt_record import Settings
from gstk.errors import EngineError, PlanError

__all__ = ["Built", "build_plan", "load_engine"]

T = TypeVar("T")
Report = Callable[[str, str | None, int, int], None]
"""Arguments: phase, containing phase, completed steps, total steps; the last two are equal when the phase has ended."""
_HARDWARE = {
    "exact": trt.HardwareCompatibilityLevel.NONE,
    "same-capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    "ampere-plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
}
_POLL_S = 0.2


class Built(NamedTuple):
    """The result of a build.

    Attributes:
        plan: bytes of the plan.
        timing_cache: TensorRT's kernel timings on this GPU, for the next build.
        dtypes: types of inputs and outputs, by name.
        layers: number of layer outputs of each type.
        memory_bytes: largest memory that a run needs, for each profile.
    """

    plan: bytes
    timing_cache: bytes
    dtypes: dict[str, str]
    layers: dict[str, int]
    memory_bytes: tuple[int, ...]


class _Progress(trt.IProgressMonitor):
    """Reports steps, and ends the build when it was cancelled. TensorRT calls it from several threads."""

    def __init__(self, on_progress: Report, cancelled: threading.Event) -> None:
        trt.IProgressMonitor.__init__(self)
        self._on_progress, self._cancelled = on_progress, cancelled
        self._phases: dict[str, tuple[str | None, int]] = {}
        self.error: Exception | None = None

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._phases[phase_name] = (parent_phase, num_steps)
        self._tell(phase_name, parent_phase, 0, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        parent, steps = self._phases.get(phase_name, (None, step + 2))
        self._tell(phase_name, parent, min(step + 1, steps - 1), steps)
        return not self._cancelled.is_set()

    def phase_finish(self, phase_name: str) -> None:
        parent, steps = self._phases.pop(phase_name, (None, 1))
        self._tell(phase_name, parent, steps, steps)

    def _tell(self, phase: str, parent: str | None, done: int, steps: int) -> None:
        try:
            self._on_progress(phase, parent, done, steps)
        except Exception as error:  # it must not pass through TensorRT, so it is raised after the build
            self.error = error
            self._cancelled.set()


def build_plan(
    onnx: Path,
    kind: str,
    precision: str,
    profiles: Profiles,
    settings: Settings,
    device: int,
    timing_cache: bytes = b"",
    on_progress: Report = lambda phase, parent, done, steps: None,
) -> Built:
    """Builds the plan of a graph on a GPU; takes minutes.

    An interrupt (Ctrl-C) ends the build at TensorRT's next step.

    Args:
        onnx: the graph's file.
        kind: `encoder`, `prompt_decoder` or `class_encoder`.
        precision: precision of the graph; the finished plan is checked to compute in it.
        profiles: shapes that the plan is built for.
        settings: see `Settings`.
        device: index of the GPU.
        timing_cache: from an earlier build on this GPU; a cache from another GPU is ignored.
        on_progress: called after each step.

    Raises:
        PlanError: TensorRT cannot parse the graph, cannot build a plan, or built it in another precision.
    """
    cancelled = threading.Event()
    found: list[Built] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with on_device(device):
                monitor = _Progress(on_progress, cancelled)
                found.append(_build(onnx, kind, precision, profiles, settings, timing_cache, monitor))
        except BaseException as error:  # raised below, in the caller's thread
            failed.append(error)

    # TensorRT in the caller's thread would delay an interrupt until the build is done.
    worker = threading.Thread(target=work, name="gstk-build", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(_POLL_S)
    except KeyboardInterrupt:
        cancelled.set()
        worker.join()
        raise
    if failed:
        raise failed[0]
    return found[0]


def load_engine(plan: bytes, code_allowed: bool) -> trt.ICudaEngine:
    """Loads a plan as an engine on this thread's GPU.

    Args:
        plan: bytes of the plan, from a trusted source.
        code_allowed: allow the plan to run host code that it contains; version compatible plans contain some.

    Raises:
        PlanError: TensorRT cannot load the plan.
    """
    runtime = trt.Runtime(logger())
    runtime.engine_host_code_allowed = code_allowed
    return _given(runtime.deserialize_cuda_engine(plan), "load the plan", "build it again with gstk build --rebuild")


def _build(
    onnx: Path,
    kind: str,
    precision: str,
    profiles: Profiles,
    settings: Settings,
    timing_cache: bytes,
    monitor: _Progress,
) -> Built:
    builder = trt.Builder(logger())
    # TensorRT 10 needs the flag: without it TensorRT chooses types. In 11 every network is strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger())  # the parser holds the weights until the plan is built
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors)
        raise PlanError(f"TensorRT {trt.__version__} does not take {onnx.name}: {said or what_went_wrong('parse it')}")
    _require_typed(network, precision, kind)
    for tensor in _ends(network):  # by TensorRT's header, all layouts are allowed otherwise
        tensor.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)
    config = _config(builder, network, profiles, settings)
    config.progress_monitor = monitor
    # The cache must live for as long as the configuration that refers to it.
    cache = _timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if monitor.error is not None:
        raise monitor.error
    plan = _given(plan, f"build {onnx.name}", "look at the GPU's free memory")
    content = bytes(memoryview(plan))
    engine = load_engine(content, settings.version_compatible)
    inspected = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = count_types(inspected)
    require_types(precision, layers, kind)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    dtypes = {name: engine.get_tensor_dtype(name).name for name in names}
    _require_same_ends(network, dtypes)
    memory = [engine.get_device_memory_size_for_profile_v2(index) for index in range(engine.num_optimization_profiles)]
    return Built(content, bytes(memoryview(cache.serialize())), dtypes, layers, tuple(memory))


def _timing_cache(config: trt.IBuilderConfig, content: bytes) -> trt.ITimingCache:
    """The timing cache for the build; an empty one if the content is missing or from another GPU."""
    for blob in (content, b""):
        cache: trt.ITimingCache = config.create_timing_cache(blob)
        if cache and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    raise PlanError(what_went_wrong("make a timing cache"))


def _given(value: T | None, task: str, remedy: str) -> T:
    """The value that TensorRT returned; raises an error if it is None."""
    if value is None:
        reason = what_went_wrong(task)
        known = failure("tensorrt", task, RuntimeError(reason))
        raise PlanError(f"{known}; {remedy}") if type(known) is EngineError else known
    return value


def _config(
    builder: trt.Builder, network: trt.INetworkDefinition, profiles: Profiles, settings: Settings
) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    chosen = [builder.create_optimization_profile() for _ in profiles.ranges]
    for tensor in inputs:
        dims = [tensor.shape[axis] for axis in range(len(tensor.shape))]
        for profile, shapes in zip(chosen, profiles.shapes(tensor.name, dims), strict=True):
            profile.set_shape(tensor.name, *(trt.Dims(list(shape)) for shape in shapes))
    for profile, span in zip(chosen, profiles.ranges, strict=True):
        if config.add_optimization_profile(profile) < 0:
            raise PlanError(f"TensorRT refuses the profile {span}: {what_went_wrong('take it')}")
    config.builder_optimization_level = settings.level
    config.hardware_compatibility_level = _HARDWARE[settings.hardware]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # otherwise the inspector names no types
    config.max_aux_streams = 0  # one stream needs the least memory, and a CUDA graph captures all work
    # Memory is sized for the shapes of each run, not for the largest shapes of the profile.
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if settings.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mb * 2**20)
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        # Refitting puts back identical weights, which gives TensorRT the most freedom.
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    return config


def _require_typed(network: trt.INetworkDefinition, precision: str, kind: str) -> None:
    """Raises an error if the graph's convolutions are not in its precision, before a build that takes minutes."""
    expected = trt.DataType.HALF if precision == "fp16" else trt.DataType.FLOAT
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION):
            found = layer.get_input(0).dtype
            if found != expected:
                raise PlanError(
                    f"got {layer.name} of the {kind} in {found.name}, expected {expected.name} for {precision}; "
                    "export the bundle again"
                )


def _require_same_ends(network: trt.INetworkDefinition, dtypes: dict[str, str]) -> None:
    """Raises an error if an input or output of the plan does not have the graph's type."""
    for tensor in _ends(network):
        if dtypes.get(tensor.name) != tensor.dtype.name:
            raise PlanError(
                f"got {tensor.name} in {dtypes.get(tensor.name)} from TensorRT, expected {tensor.dtype.name} as the "
                "graph has it; report this with TensorRT's version"
            )


def _ends(network: trt.INetworkDefinition) -> list[trt.ITensor]:
    """The inputs and outputs of a network."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    return tensors + [network.get_output(index) for index in range(network.num_outputs)]

"""One ONNX graph becomes one TensorRT plan. Import this module inside functions alone: it imports TensorRT.

Only what 10.12 to 11.x have in common is used: strongly typed networks, in which the graph alone says what is computed
in half precision. Enumerations go by name, since 11 numbers them anew.
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
"""Of a build: phase, the phase it is part of, steps done, steps in all; the last two are equal where it ended."""
_HARDWARE = {
    "exact": trt.HardwareCompatibilityLevel.NONE,
    "same-capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    "ampere-plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
}
_POLL_S = 0.2


class Built(NamedTuple):
    """What a build gave.

    Attributes:
        plan: its bytes.
        timing_cache: what was learnt of this GPU, for the next build.
        dtypes: of inputs and outputs, by name.
        layers: how many results inside are of each type.
        memory_bytes: that a run needs at the most, for each profile.
    """

    plan: bytes
    timing_cache: bytes
    dtypes: dict[str, str]
    layers: dict[str, int]
    memory_bytes: tuple[int, ...]


class _Progress(trt.IProgressMonitor):
    """Reports steps, and ends the build where it was cancelled. TensorRT calls it from several threads."""

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
        except Exception as error:  # it must not travel through TensorRT: the build ends, and then it is raised
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

    An interrupt (Ctrl-C) ends it at TensorRT's next step.

    Args:
        onnx: the graph's file.
        kind: `encoder` or `prompt_decoder`.
        precision: that the graph is in; the plan is checked to compute in it.
        profiles: shapes that it is built for.
        settings: see `Settings`.
        device: index of the GPU.
        timing_cache: from an earlier build on this GPU; one of another is left aside.
        on_progress: told of each step.

    Raises:
        PlanError: TensorRT does not take the graph, cannot build it, or built it in another precision.
    """
    cancelled = threading.Event()
    found: list[Built] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with on_device(device):
                monitor = _Progress(on_progress, cancelled)
                found.append(_build(onnx, kind, precision, profiles, settings, timing_cache, monitor))
        except BaseException as error:  # it is raised below, in the caller's thread
            failed.append(error)

    # In the caller's thread TensorRT would keep Python from seeing an interrupt until it is done.
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
    """An engine from a plan, on this thread's GPU.

    Args:
        plan: its bytes, from a source that is trusted.
        code_allowed: let it run code of its own, as a version compatible plan has it.

    Raises:
        PlanError: TensorRT does not take it.
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
    # Required in 10, where 0 means that TensorRT chooses types; in 11 every network is typed so.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger())  # it holds the weights until the plan is built
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors)
        raise PlanError(f"TensorRT {trt.__version__} does not take {onnx.name}: {said or what_went_wrong('parse it')}")
    _require_typed(network, precision, kind)
    config = _config(builder, network, profiles, settings)
    config.progress_monitor = monitor
    # It must live for as long as the configuration that refers to it.
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
    """The cache that the build uses; an empty one where the content is another GPU's or none at all."""
    for blob in (content, b""):
        cache: trt.ITimingCache = config.create_timing_cache(blob)
        if cache and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    raise PlanError(what_went_wrong("make a timing cache"))


def _given(value: T | None, task: str, remedy: str) -> T:
    """What TensorRT returned, where it is something."""
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
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # without it the inspector names no types
    config.max_aux_streams = 0  # one stream: least memory, and a graph is captured whole
    # Memory for the shapes that come, and not for the largest of the profile.
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if settings.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mb * 2**20)
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        # The weights that come back are the very ones, which leaves TensorRT the most freedom.
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    return config


def _require_typed(network: trt.INetworkDefinition, precision: str, kind: str) -> None:
    """Raises where the graph's convolutions are not in its precision, before minutes are spent on it."""
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
    """Raises where inputs or outputs of the plan are not of the graph's types."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in tensors:
        if dtypes.get(tensor.name) != tensor.dtype.name:
            raise PlanError(
                f"got {tensor.name} in {dtypes.get(tensor.name)} from TensorRT, expected {tensor.dtype.name} as the "
                "graph has it; report this with TensorRT's version"
            )

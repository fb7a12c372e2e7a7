"""A stand-in for TensorRT that keeps its rules and computes with ONNX Runtime on the processor.

What it keeps: networks are strongly typed or refused; a plan belongs to a version and a GPU; shapes outside of a
profile, missing addresses and too little memory make a call return False, with the reason in the logger alone; the
first run after a change of shape cannot be captured; the memory that a context was given is overwritten by each run.
Names and parameters are those of the real package (`test_tensorrt_names.py` compares them); a plan of it is none of
TensorRT's.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import importlib.machinery
import json
import math
import random
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCUDA
from fake_cuda import module as cuda_module

from gstk.engines import devices, failures
from gstk.engines.devices import Device

GPU = Device("cuda:0", "NVIDIA Fake 24GB", (8, 9))
MAGIC = b"fake plan "
HEAVY = ("cuda", "tensorrt_log", "tensorrt_network", "tensorrt_runs", "tensorrt_slots", "tensorrt_execution")
"""Modules of gstk that import TensorRT or CUDA when they are imported."""


class Fake:
    """What a test sees and sets.

    Attributes:
        cuda: the device.
        module: what `import tensorrt` gives.
        gpu: on which plans are built and loaded.
        runs: of each execution: input shapes by name, and whether it was captured.
        contexts: made so far.
        builds: of each build: settings that TensorRT was given.
        on_step, on_capture: called at each step of a build, and while a run is captured.
        float_only: build FP32 plans whatever the graph says.
        on_host: inputs and outputs that are said to lie in the host's memory.
        channels: that outputs are said to have; None for those of the graph.
        most_contexts: beyond which there is no memory for another.
        break_run: called by each run, which then fails as for `reason`.
        scratch_bytes: of a run, for each voxel and object.
    """

    def __init__(self, version: str) -> None:
        self.cuda = FakeCUDA()
        self.gpu = GPU
        self.runs: list[tuple[dict[str, tuple[int, ...]], bool]] = []
        self.contexts = 0
        self.builds: list[dict[str, Any]] = []
        self.on_step: Any = None
        self.on_capture: Any = None
        self.float_only = False
        self.on_host: set[str] = set()
        self.channels: int | None = None
        self.most_contexts: int | None = None
        self.break_run: Any = None
        self.reason = "misaligned address"
        self.scratch_bytes = 64
        self.module = _module(self, version)


@contextmanager
def installed(version: str = "10.13.0.35") -> Iterator[Fake]:
    """TensorRT, CUDA and a GPU, for as long as the block lasts."""
    fake = Fake(version)
    bindings, root = types.ModuleType("cuda.bindings"), types.ModuleType("cuda")
    bindings.runtime = cuda_module(fake.cuda)  # type: ignore[attr-defined]
    root.bindings = bindings  # type: ignore[attr-defined]
    parts = {
        "tensorrt": fake.module,
        "cuda": root,
        "cuda.bindings": bindings,
        "cuda.bindings.runtime": bindings.runtime,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, part in parts.items():
            part.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="fake")
            patch.setitem(sys.modules, name, part)
        for name in HEAVY:
            patch.delitem(sys.modules, f"gstk.engines.{name}", raising=False)
        patch.setattr(devices, "_ask_driver", lambda: (fake.gpu,))
        patch.setattr(failures, "_lost", [])
        for module in ("tensorrt_record", "devices"):
            patch.setattr(f"gstk.engines.{module}.cuda_version", lambda: (13, 0))
            patch.setattr(f"gstk.engines.{module}.driver_version", lambda: "580.00")
        yield fake
    for name in HEAVY:  # they hold the stand-in
        sys.modules.pop(f"gstk.engines.{name}", None)


def _module(fake: Fake, version: str) -> types.ModuleType:
    is_11 = version.startswith("11")
    trt = types.ModuleType("tensorrt")
    trt.__version__ = version  # type: ignore[attr-defined]

    def public(kind: Any) -> Any:
        setattr(trt, kind.__name__, kind)
        return kind

    def enumeration(name: str, *members: str) -> Any:
        # TensorRT 11 numbers anew: whoever writes numbers for names fails in one of the two.
        numbers = {member: index + (0 if is_11 else 1) for index, member in enumerate(members)}
        return public(enum.IntEnum(name, numbers))

    types_ = enumeration("DataType", "FLOAT", "HALF", "INT8", "INT32", "INT64", "BOOL")
    flags = enumeration("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
    enumeration("BuilderFlag", "TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL")
    enumeration("HardwareCompatibilityLevel", "NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
    verbosity = enumeration("ProfilingVerbosity", "LAYER_NAMES_ONLY", "DETAILED")
    enumeration("LayerInformationFormat", "JSON")
    enumeration("MemoryPoolType", "WORKSPACE")
    formats = enumeration("TensorFormat", "LINEAR", "HWC8")
    locations = enumeration("TensorLocation", "DEVICE", "HOST")
    enumeration("PreviewFeature", "RUNTIME_ACTIVATION_RESIZE_10_10")
    strategies = enumeration("ExecutionContextAllocationStrategy", "STATIC", "USER_MANAGED")
    layers = enumeration("LayerType", "CONVOLUTION", "DECONVOLUTION", "CAST")
    onnx_types = {1: types_.FLOAT, 10: types_.HALF, 3: types_.INT8, 6: types_.INT32, 7: types_.INT64, 9: types_.BOOL}

    @public
    class ILogger:
        Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)

        def log(self, severity, msg):
            raise NotImplementedError

    class Reporting:
        """What fails says so to the logger alone."""

        def fail(self, text: str) -> None:
            fake.logger.log(ILogger.Severity.ERROR, text)

    @public
    class IProgressMonitor:
        pass

    @public
    class Dims(tuple):
        def __new__(cls, shape):
            assert isinstance(shape, list)
            return super().__new__(cls, shape)

    class Tensor:
        def __init__(self, name, dtype, shape):
            self.name, self.dtype, self.shape = name, dtype, Dims(list(shape))
            self.allowed_formats = sum(1 << int(layout) for layout in formats)

    class Layer:
        def __init__(self, node, types_of):
            self.name = node.name
            self.type = {"Conv": layers.CONVOLUTION, "ConvTranspose": layers.DECONVOLUTION}.get(
                node.op_type, layers.CAST
            )
            self._inputs = [Tensor(name, types_of.get(name, types_.FLOAT), ()) for name in node.input]

        def get_input(self, index):
            return self._inputs[index]

    @public
    class INetworkDefinition:
        def __init__(self):
            self._inputs, self._outputs, self._layers = [], [], []

        num_inputs = property(lambda self: len(self._inputs))
        num_outputs = property(lambda self: len(self._outputs))
        num_layers = property(lambda self: len(self._layers))

        def get_input(self, index):
            return self._inputs[index]

        def get_output(self, index):
            return self._outputs[index]

        def get_layer(self, index):
            return self._layers[index]

    class ParserError:
        def __init__(self, text):
            self._text = text

        def desc(self):
            return self._text

        def node_name(self):
            return "node"

        def node_operator(self):
            return "Operator"

    @public
    class OnnxParser(Reporting):
        def __init__(self, network, logger):
            self._network, self._errors = network, []

        num_errors = property(lambda self: len(self._errors))

        def get_error(self, index):
            return self._errors[index]

        def parse_from_file(self, model):
            import onnx

            assert isinstance(model, str)
            try:
                graph = onnx.load(model)
                full = onnx.shape_inference.infer_shapes(graph).graph
            except Exception as error:
                self._errors.append(ParserError(f"not ONNX: {error}"))
                return False
            named = [*full.value_info, *full.input, *full.output]
            types_of = {v.name: onnx_types.get(v.type.tensor_type.elem_type, types_.FLOAT) for v in named}
            if fake.float_only:
                types_of = {k: types_.FLOAT if v == types_.HALF else v for k, v in types_of.items()}
            network = self._network
            for values, ends in ((full.input, network._inputs), (full.output, network._outputs)):
                for value in values:
                    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim]
                    dtype = onnx_types[value.type.tensor_type.elem_type]
                    ends.append(Tensor(value.name, dtype, dims))
            network._layers += [Layer(node, types_of if not fake.float_only else {}) for node in full.node]
            if fake.float_only:  # the graph looks right, and what is built is not
                for layer, node in zip(network._layers, full.node, strict=True):
                    layer._inputs = [Tensor(name, types_.HALF, ()) for name in node.input]
            network._model = graph.SerializeToString()
            network._results = [(out, types_of.get(out)) for node in full.node for out in node.output]
            return True

    @public
    class IOptimizationProfile:
        def __init__(self):
            self._shapes = {}

        def set_shape(self, input, min, opt, max):
            if not (len(min) == len(opt) == len(max)) or any(not a <= b <= c for a, b, c in zip(min, opt, max)):  # noqa: B905
                raise ValueError("inconsistent shapes")
            self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    @public
    class IHostMemory(bytes):
        nbytes = property(lambda self: len(self))

    @public
    class ITimingCache:
        def __init__(self, content):
            self._content = content

        def serialize(self):
            return IHostMemory(self._content + b"t")

    @public
    class IBuilderConfig(Reporting):
        def __init__(self):
            self._profiles, self._flags, self._given = [], {trt.BuilderFlag.TF32}, {}
            self.builder_optimization_level, self.max_aux_streams = 3, None
            self.hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE
            self.profiling_verbosity = verbosity.LAYER_NAMES_ONLY
            self.progress_monitor = None

        def add_optimization_profile(self, profile):
            self._profiles.append(profile._shapes)
            return len(self._profiles) - 1

        def set_flag(self, flag):
            self._flags.add(flag)

        def clear_flag(self, flag):
            self._flags.discard(flag)

        def set_preview_feature(self, feature, enable):
            self._given[feature.name] = enable

        def set_memory_pool_limit(self, pool, pool_size):
            self._given[pool.name] = pool_size

        def create_timing_cache(self, serialized_timing_cache):
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache, ignore_mismatch):
            assert ignore_mismatch is False
            if cache._content and cache._content.strip(b"t"):
                self.fail("the timing cache is of another device")
                return False
            self._cache = cache
            return True

        def get_timing_cache(self):
            return self._cache

    @public
    class Builder(Reporting):
        def __init__(self, logger):
            assert isinstance(logger, ILogger)
            fake.logger = logger

        def create_network(self, flags):
            wanted = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
            assert is_11 or flags == wanted, "a weakly typed network"
            return INetworkDefinition()

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            monitor = config.progress_monitor
            if monitor is not None:
                monitor.phase_start("Building the engine", None, 3)
                for step in range(3):
                    monitor.phase_start("Timing kernels", "Building the engine", 2)
                    going = monitor.step_complete("Timing kernels", 0)
                    monitor.phase_finish("Timing kernels")
                    if fake.on_step is not None:
                        fake.on_step()
                    if not (going and monitor.step_complete("Building the engine", step)):
                        monitor.phase_finish("Building the engine")
                        self.fail("the build was cancelled")
                        return None
                monitor.phase_finish("Building the engine")
            for tensor in network._inputs:
                for profile in config._profiles:
                    if tensor.name not in profile:
                        self.fail(f"no shape of {tensor.name} in a profile")
                        return None
            header = {
                "version": version,
                "gpu": fake.gpu.name,
                "hardware": config.hardware_compatibility_level.name,
                "flags": sorted(flag.name for flag in config._flags),
                "profiles": config._profiles,
                "ends": [
                    (t.name, t.dtype.name, list(t.shape), m)
                    for m, ts in ((0, network._inputs), (1, network._outputs))
                    for t in ts
                ],
                "results": [(name, kind.name) for name, kind in network._results if kind is not None],
                # What may have another layout gets one.
                "layouts": {
                    t.name: (formats.LINEAR if t.allowed_formats == 1 << int(formats.LINEAR) else formats.HWC8).name
                    for t in (*network._inputs, *network._outputs)
                },
                "detailed": config.profiling_verbosity == verbosity.DETAILED,
            }
            fake.builds.append(
                {
                    "level": config.builder_optimization_level,
                    "aux_streams": config.max_aux_streams,
                    "cache": config._cache._content,
                    **header,
                    **config._given,
                }
            )
            return IHostMemory(MAGIC + json.dumps(header).encode() + b"\n" + network._model)

    @public
    class Runtime(Reporting):
        def __init__(self, logger):
            assert fake.gpu is not None, "without a GPU TensorRT crashes here"
            fake.logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, serialized_engine):
            content = bytes(serialized_engine)
            if not content.startswith(MAGIC):
                self.fail("Serialization assertion magicTag failed")
                return None
            head, _, model = content[len(MAGIC) :].partition(b"\n")
            header = json.loads(head)
            if "VERSION_COMPATIBLE" in header["flags"] and not self.engine_host_code_allowed:
                self.fail("the plan has host code, which is not allowed")
                return None
            if header["version"] != version and "VERSION_COMPATIBLE" not in header["flags"]:
                self.fail("the engine plan file is not compatible with this version")
                return None
            if header["gpu"] != fake.gpu.name and header["hardware"] == "NONE":
                self.fail("the engine plan file was generated on a different device")
                return None
            return ICudaEngine(header, model)

    class EngineInspector:
        def __init__(self, header):
            self._header = header

        def get_engine_information(self, format):
            if not self._header["detailed"]:
                return json.dumps({"Layers": [name for name, _ in self._header["results"]]})
            words = {"HALF": "Half", "FLOAT": "Float", "INT8": "Int8", "INT64": "Int64"}
            field = {"DataType": "FP16"} if is_11 else {}
            rows = [
                {
                    "Name": f"float layer {name}",
                    "Outputs": [
                        {
                            "Name": name,
                            **(
                                {"Format": "Linear", "DataType": words.get(kind, kind)}
                                if field
                                else {"Format/Datatype": words.get(kind, kind)}
                            ),
                        }
                    ],
                }
                for name, kind in self._header["results"]
            ]
            return json.dumps({"Layers": rows})

    @public
    class ICudaEngine(Reporting):
        def __init__(self, header, model):
            self._header, self._model = header, model
            self._stripped = "STRIP_PLAN" in header["flags"]
            self._ends = {name: (types_[kind], dims, mode) for name, kind, dims, mode in header["ends"]}
            self.num_io_tensors = len(self._ends)
            self.num_optimization_profiles = len(header["profiles"])

        @functools.cached_property
        def _session(self):
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])

        def get_tensor_name(self, index):
            return list(self._ends)[index]

        def get_tensor_dtype(self, name):
            return self._ends[name][0]

        def get_tensor_location(self, name):
            return locations.HOST if name in fake.on_host else locations.DEVICE

        def get_tensor_format(self, name, profile_index):
            return formats[self._header["layouts"][name]]

        def create_engine_inspector(self):
            return EngineInspector(self._header)

        def get_device_memory_size_for_profile_v2(self, profile_index):
            profile = self._header["profiles"][profile_index]
            return self._scratch({name: shapes[2] for name, shapes in profile.items()})

        def _scratch(self, shapes):
            objects = shapes.get("point_coords", (1,))[0]
            region = shapes.get("image") or [2 * side for side in shapes["embedding"]]
            return fake.scratch_bytes * objects * math.prod(region[2:])

        def create_execution_context(self, strategy):
            assert strategy == strategies.USER_MANAGED
            if fake.most_contexts is not None and fake.contexts >= fake.most_contexts:
                self.fail("Error Code 2: OutOfMemory (no further information)")
                return None
            fake.contexts += 1
            return IExecutionContext(self)

    @public
    class IExecutionContext(Reporting):
        def __init__(self, engine):
            self._engine, self._profile = engine, 0
            self._shapes, self._addresses = {}, {}
            self._memory, self._flushed = (0, 0), False

        def set_optimization_profile_async(self, profile_index, stream_handle):
            self._profile, self._shapes = profile_index, {}
            return 0 <= profile_index < self._engine.num_optimization_profiles

        def set_input_shape(self, name, shape):
            low, _, high = self._engine._header["profiles"][self._profile][name]
            if len(shape) != len(low) or not all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
                self.fail(f"{name}: {shape} is outside of {low}..{high}")
                return False
            self._shapes[name], self._flushed = tuple(shape), False
            return True

        def infer_shapes(self):
            inputs = [name for name, (_, _, mode) in self._engine._ends.items() if mode == 0]
            return [name for name in inputs if name not in self._shapes]

        def update_device_memory_size_for_shapes(self):
            return self._engine._scratch(self._shapes)

        def get_tensor_shape(self, name):
            dims = self._engine._ends[name][1]
            if name in self._shapes:
                return Dims(list(self._shapes[name]))
            sides = self._shapes.get("image", self._shapes.get("embedding"))[2:]
            if name == "embedding":
                sides = [side // 2 for side in sides]
            elif "image" not in self._shapes:
                sides = [2 * side for side in sides]
            objects = self._shapes.get("point_coords", (1,))[0]
            return Dims([objects, fake.channels or (1 if name == "logits" else dims[1]), *sides])

        def set_tensor_address(self, name, memory):
            if memory % 256:
                self.fail(f"the address of {name} is not aligned")
                return False
            self._addresses[name] = memory
            return True

        def set_device_memory(self, memory, size):
            self._memory = (memory, size)

        def execute_async_v3(self, stream_handle):
            engine, shapes, addresses, memory = self._engine, dict(self._shapes), dict(self._addresses), self._memory
            missing = set(engine._ends) - set(addresses)
            needed = engine._scratch(shapes)
            stream = fake.cuda.stream(stream_handle)
            captured = stream.captured is not None
            if engine._stripped:
                self.fail("weights are missing: refit the engine")
                return False
            if fake.break_run is not None:
                fake.break_run()
                self.fail(f"Error Code 1: Cuda Runtime ({fake.reason})")
                return False
            if fake.cuda.last:
                self.fail(f"Error Code 1: Cuda Runtime ({fake.cuda.last.name}), which another call left")
                return False
            if missing or memory[1] < needed:
                self.fail(f"no address of {missing}, or {memory[1]} of {needed} bytes of memory")
                return False
            if captured and not self._flushed:
                self.fail("changed shapes cannot be captured")
                return False
            self._flushed = True
            if captured and fake.on_capture is not None:
                fake.on_capture()
            fake.runs.append((shapes, captured))

            def work() -> None:
                feeds = {}
                for name, shape in shapes.items():
                    feeds[name] = _array(fake.cuda, addresses[name], shape, _numpy(engine._ends[name][0].name)).copy()
                output = next(name for name, (_, _, mode) in engine._ends.items() if mode == 1)
                result = engine._session.run([output], feeds)[0]
                _array(fake.cuda, *memory, np.dtype(np.uint8))[:] = random.randrange(256)
                _array(fake.cuda, addresses[output], result.shape, result.dtype)[:] = result

            stream.add(work)
            return True

    @public
    class Refitter(Reporting):
        def __init__(self, engine, logger):
            self._engine, self._parsed = engine, False

        def refit_cuda_engine(self):
            self._engine._stripped = not self._parsed
            return self._parsed

    @public
    class OnnxParserRefitter(Reporting):
        def __init__(self, refitter, logger):
            self._refitter = refitter

        def refit_from_file(self, model):
            if not Path(model).is_file():
                self.fail("no such file")
                return False
            self._refitter._parsed = True
            return True

    assert flags
    return trt


def _numpy(name: str) -> np.dtype[Any]:
    return np.dtype({"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}[name])


def _array(cuda: FakeCUDA, address: int, shape: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Device memory as an array; an address that nobody allocated ends the context, as on a GPU."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = math.prod(shape) * dtype.itemsize
    if not cuda.holds(address, size):
        from fake_cuda import cudaError_t

        cuda.sticky = cudaError_t.cudaErrorIllegalAddress
        return np.zeros(shape, dtype)
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), np.uint8).view(dtype).reshape(shape)

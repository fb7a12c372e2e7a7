"""Runs of a plan: TensorRT execution contexts, each on one profile, and CUDA graphs of their work.

Import this module inside functions alone: it imports TensorRT and CUDA.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorrt as trt

from gstk.engines.cuda import CUDAError, Graph, Stream, capture
from gstk.engines.tensorrt_log import logger, what_went_wrong
from gstk.engines.tensorrt_network import load_engine
from gstk.engines.tensorrt_profiles import Dims
from gstk.errors import OutOfMemory, PlanError

__all__ = ["PlanRuns", "Run"]

T = TypeVar("T")
_log = logging.getLogger("gstk.tensorrt")
_NUMPY = {trt.DataType.FLOAT: np.float32, trt.DataType.HALF: np.float16, trt.DataType.INT64: np.int64}
_LEAST_BYTES = 256


class Run:
    """An execution context and the shapes of its inputs. It queues work; the caller sees to the order of calls.

    The caller owns the context's memory, and may share that memory between runs that are queued on the same stream.
    """

    def __init__(self, engine: trt.ICudaEngine, profile: int, stream: Stream) -> None:
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._engine, self._profile = engine, profile
        self._context = _made(engine.create_execution_context(strategy), "create a context")
        if not self._context.set_optimization_profile_async(profile, stream.handle):
            raise RuntimeError(what_went_wrong(f"choose profile {profile}"))
        stream.synchronise()  # selecting a profile may copy to the GPU, and other streams do not wait for that
        self._shapes: Mapping[str, Dims] = {}
        self._bound: tuple[Any, ...] = ()
        self._graph: Graph | None = None
        self._flushed, self._capturable = False, True
        self._memory_bytes = 0

    def shape(self, shapes: Mapping[str, Dims], outputs: Mapping[str, Dims]) -> int:
        """Sets the shapes of the inputs.

        Args:
            shapes: of the inputs.
            outputs: shapes of the outputs that the caller has memory for; the inputs' shapes decide them.

        Returns:
            The memory in bytes that the run needs in addition to inputs and outputs.

        Raises:
            PlanError: an output has another shape, and would be written beyond its memory.
            RuntimeError: TensorRT refuses a shape.
        """
        if shapes == self._shapes:
            return self._memory_bytes
        self._forget()
        self._shapes = {}
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise RuntimeError(what_went_wrong(f"take {name} of {shape}"))
        missing = self._context.infer_shapes()
        if missing:
            raise RuntimeError(f"TensorRT wants shapes of {', '.join(missing)} that the plan's graph does not have")
        for name, expected in outputs.items():
            given = self._context.get_tensor_shape(name)
            found = tuple(given[axis] for axis in range(len(given)))
            if found != expected:
                raise PlanError(f"got a plan whose {name} has the shape {found}, expected {expected}; build it again")
        needed = self._context.update_device_memory_size_for_shapes()
        # TensorRT returns 0 on failure, too; the largest size of the profile is always enough.
        self._memory_bytes = needed or self._engine.get_device_memory_size_for_profile_v2(self._profile)
        self._memory_bytes = max(self._memory_bytes, _LEAST_BYTES)
        self._shapes = dict(shapes)
        return self._memory_bytes

    def queue(self, stream: Stream, addresses: Mapping[str, int], memory: int, size_bytes: int, graph: bool) -> None:
        """Queues one execution.

        Args:
            stream: the stream to queue on; no other thread may queue on it during the call.
            addresses: addresses of all inputs and outputs.
            memory, size_bytes: address and size of the context's memory, at least the size that `shape` returned.
            graph: capture the work as a CUDA graph when the same addresses are used for the second time.
        """
        bound = (*addresses.items(), memory, size_bytes)
        if bound != self._bound:
            self._bind(addresses, memory, size_bytes)
            self._bound = bound
        if graph and self._graph is None and self._flushed and self._capturable:
            self._capture(stream)
        if self._graph is not None:
            self._graph.launch(stream)
        else:
            self._execute(stream)
            self._flushed = True  # TensorRT applies changed shapes in the first execution, which is not captured

    def close(self) -> None:
        """Frees the CUDA graph; the context is freed with this object."""
        self._forget()

    def _bind(self, addresses: Mapping[str, int], memory: int, size_bytes: int) -> None:
        self._forget()
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise RuntimeError(what_went_wrong(f"take an address for {name}"))
        self._context.set_device_memory(memory, size_bytes)

    def _forget(self) -> None:
        """Drops the CUDA graph, which is only valid for the shapes and addresses that it was captured with."""
        graph, self._graph = self._graph, None
        self._bound, self._flushed = (), False
        if graph is not None:
            graph.close()

    def _execute(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(stream.handle):
            raise RuntimeError(what_went_wrong("run the plan"))

    def _capture(self, stream: Stream) -> None:
        found: list[Graph] = []
        try:
            with capture(stream, found):
                self._execute(stream)
        except (CUDAError, RuntimeError, OutOfMemory) as error:
            # A failed capture is not fatal: the work is then queued without a graph, and a GPU error shows up there.
            _log.warning("the decoder cannot be captured as a CUDA graph (%s)", error)
            self._capturable = False
            return
        self._graph = found[0]


class PlanRuns:
    """A loaded plan and its runs.

    Attributes:
        dtypes: NumPy types of inputs and outputs, by name.
    """

    def __init__(self, plan: bytes, code_allowed: bool, weights: Path | None, stream: Stream, limit: int) -> None:
        """Loads a plan.

        Args:
            plan: bytes of the plan, from a trusted source.
            code_allowed: allow the plan to run host code that it contains.
            weights: ONNX file with the weights of a stripped plan.
            stream: the stream on which contexts are set up.
            limit: largest number of contexts in addition to one for each profile.
        """
        self._engine = load_engine(plan, code_allowed)
        if weights is not None:
            _refit(self._engine, weights)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        for name in names:
            _require_plain(self._engine, name)
        self.dtypes = {name: np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)]) for name in names}
        self._stream, self._limit = stream, limit
        self._plain: dict[int, Run] = {}
        self._own: OrderedDict[Hashable, Run | None] = OrderedDict()
        self._has_room = True

    def plain(self, profile: int) -> Run:
        """The run of a profile that serves all shapes."""
        if profile not in self._plain:
            self._plain[profile] = Run(self._engine, profile, self._stream)
        return self._plain[profile]

    def own(self, profile: int, shapes: Hashable) -> Run | None:
        """A run for these shapes alone if they were used before, otherwise None. A CUDA graph needs its own context.

        The least recently used run is dropped when there are too many.
        """
        key = (profile, shapes)
        seen = key in self._own
        run = self._own.get(key)
        if seen and run is None and self._has_room:
            try:
                run = Run(self._engine, profile, self._stream)
            except (RuntimeError, OutOfMemory) as error:  # a context has memory of its own
                _log.warning("decodes of other shapes get no CUDA graph (%s)", error)
                self._has_room = False
        self._own[key] = run
        self._own.move_to_end(key)
        while len(self._own) > self._limit:
            _, old = self._own.popitem(last=False)
            if old is not None:
                self._stream.synchronise()
                old.close()
        return run

    def close(self) -> None:
        """Frees the graphs, the contexts and the plan."""
        for run in (*self._plain.values(), *self._own.values()):
            if run is not None:
                run.close()
        self._plain.clear()
        self._own.clear()
        del self._engine


def _require_plain(engine: trt.ICudaEngine, name: str) -> None:
    """Raises an error if an input or output is not a row-major array in GPU memory, as which it is used."""
    where = engine.get_tensor_location(name)
    layouts = {engine.get_tensor_format(name, index) for index in range(engine.num_optimization_profiles)}
    if where != trt.TensorLocation.DEVICE or layouts != {trt.TensorFormat.LINEAR}:
        found = ", ".join(sorted(layout.name for layout in layouts))
        raise PlanError(
            f"got a plan whose {name} is on the {where.name} in the layout {found}, expected DEVICE and LINEAR; build "
            "it again with gstk build --rebuild"
        )


def _refit(engine: trt.ICudaEngine, onnx: Path) -> None:
    """Puts the weights of an ONNX graph into a stripped plan."""
    refitter = trt.Refitter(engine, logger())
    parser = trt.OnnxParserRefitter(refitter, logger())
    if not parser.refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
        raise PlanError(f"TensorRT cannot put the weights of {onnx.name} into the plan: {what_went_wrong('refit it')}")


def _made(value: T | None, task: str) -> T:
    if value is None:
        raise RuntimeError(what_went_wrong(task))
    return value

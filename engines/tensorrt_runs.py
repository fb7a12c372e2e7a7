"""Runs of a plan: contexts of TensorRT, each on one profile, and CUDA graphs of what they queue.

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
    """A context with the shapes of its inputs. It queues work; whoever calls sees to the order.

    Its memory belongs to whoever calls, and may serve other runs that are queued on the same stream.
    """

    def __init__(self, engine: trt.ICudaEngine, profile: int, stream: Stream) -> None:
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._engine, self._profile = engine, profile
        self._context = _made(engine.create_execution_context(strategy), "create a context")
        if not self._context.set_optimization_profile_async(profile, stream.handle):
            raise RuntimeError(what_went_wrong(f"choose profile {profile}"))
        stream.synchronise()  # the choice may copy to the GPU, and other streams know nothing of it
        self._shapes: Mapping[str, Dims] = {}
        self._bound: tuple[Any, ...] = ()
        self._graph: Graph | None = None
        self._flushed, self._capturable = False, True
        self._memory_bytes = 0

    def shape(self, shapes: Mapping[str, Dims]) -> int:
        """Gives the inputs their shapes.

        Returns:
            The memory in bytes that the run needs besides inputs and outputs.
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
        needed = self._context.update_device_memory_size_for_shapes()
        # 0 also stands for a failure; the profile's largest need is right then.
        self._memory_bytes = needed or self._engine.get_device_memory_size_for_profile_v2(self._profile)
        self._memory_bytes = max(self._memory_bytes, _LEAST_BYTES)
        self._shapes = dict(shapes)
        return self._memory_bytes

    def queue(self, stream: Stream, addresses: Mapping[str, int], memory: int, size_bytes: int, graph: bool) -> None:
        """Queues one execution.

        Args:
            stream: where; no other thread queues on it meanwhile.
            addresses: of all inputs and outputs.
            memory, size_bytes: address and size of the memory that `shape` asked for.
            graph: capture what is queued, from the second time on that all addresses are the same.
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
            self._flushed = True  # TensorRT carries out changed shapes with the first execution, which is not captured

    def close(self) -> None:
        """Gives the graph back; the context goes with the object."""
        self._forget()

    def _bind(self, addresses: Mapping[str, int], memory: int, size_bytes: int) -> None:
        self._forget()
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise RuntimeError(what_went_wrong(f"take an address for {name}"))
        self._context.set_device_memory(memory, size_bytes)

    def _forget(self) -> None:
        """A graph holds shapes and addresses: it ends with them."""
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
            # Not an error of the work: what follows runs it kernel by kernel, and an error of the GPU shows there.
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
            plan: its bytes, trusted.
            code_allowed: let it run code of its own.
            weights: ONNX file that a plan without weights takes them from.
            stream: where contexts are set up.
            limit: contexts besides one for each profile.
        """
        self._engine = load_engine(plan, code_allowed)
        if weights is not None:
            _refit(self._engine, weights)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.dtypes = {name: np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)]) for name in names}
        self._stream, self._limit = stream, limit
        self._plain: dict[int, Run] = {}
        self._own: OrderedDict[Hashable, Run | None] = OrderedDict()

    def plain(self, profile: int) -> Run:
        """The profile's run for any shapes."""
        if profile not in self._plain:
            self._plain[profile] = Run(self._engine, profile, self._stream)
        return self._plain[profile]

    def own(self, profile: int, shapes: Hashable) -> Run | None:
        """A run for these shapes alone, where they have come before: a graph wants a context of its own.

        The one that was not used for longest gives way where there are too many.
        """
        key = (profile, shapes)
        seen = key in self._own
        run = self._own.get(key)
        if seen and run is None:
            run = Run(self._engine, profile, self._stream)
        self._own[key] = run
        self._own.move_to_end(key)
        while len(self._own) > self._limit:
            _, old = self._own.popitem(last=False)
            if old is not None:
                self._stream.synchronise()
                old.close()
        return run

    def close(self) -> None:
        """Gives back graphs, contexts and the plan."""
        for run in (*self._plain.values(), *self._own.values()):
            if run is not None:
                run.close()
        self._plain.clear()
        self._own.clear()
        del self._engine


def _refit(engine: trt.ICudaEngine, onnx: Path) -> None:
    """Puts the weights of a graph into a plan that was built without."""
    refitter = trt.Refitter(engine, logger())
    parser = trt.OnnxParserRefitter(refitter, logger())
    if not parser.refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
        raise PlanError(f"TensorRT cannot put the weights of {onnx.name} into the plan: {what_went_wrong('refit it')}")


def _made(value: T | None, task: str) -> T:
    if value is None:
        raise RuntimeError(what_went_wrong(task))
    return value

"""A stand-in for `cuda.bindings.runtime` in the processor's memory, which shows what real CUDA hides.

Work on a stream is only queued; it runs when somebody waits for it, so that a copy that was not waited for, or memory
that was reused too early, gives wrong numbers. Each address is checked when the work runs. Names and parameters are
those of the real package (`test_tensorrt_names.py` compares them).
"""

from __future__ import annotations

import ctypes
import enum
import threading
import types
from collections import deque
from collections.abc import Callable
from typing import Any


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemoryType(enum.IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyDefault = 4


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


cudaStreamNonBlocking = 1
cudaEventDisableTiming = 2
_GOOD = cudaError_t.cudaSuccess
_ALIGNMENT = 256


class Stream:
    """Work in order. Handle 1 is the legacy default stream, on which a host of these tests works."""

    def __init__(self) -> None:
        self.work: deque[Callable[[], None]] = deque()
        self.queued = self.done = 0
        self.captured: list[Callable[[], None]] | None = None
        self.capturer: int | None = None
        self.intruders = 0  # what other threads queued while one captured

    def add(self, work: Callable[[], None]) -> None:
        if self.captured is not None:
            self.intruders += self.capturer != threading.get_ident()
            self.captured.append(work)
        else:
            self.work.append(work)
            self.queued += 1

    def run(self, until: int) -> None:
        while self.done < until:
            self.work.popleft()()
            self.done += 1


class FakeCUDA:
    """State of the device.

    Attributes:
        limit_bytes: memory of the GPU.
        sticky: the error that every call gives from now on; None as long as the context is whole.
        last: the error that the next to ask for it gets, as TensorRT and torch ask after each launch.
        elsewhere: GPU, and kind of memory, of addresses that are not this GPU's.
        no_capture: let captures fail.
        captures, launches: of graphs, so far.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.limit_bytes = 1 << 30
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {1: Stream()}
        self.events: dict[int, tuple[Stream, int] | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.current = threading.local()
        self.sticky: cudaError_t | None = None
        self.last = cudaError_t.cudaSuccess
        self.elsewhere: dict[int, tuple[int, cudaMemoryType]] = {}
        self.no_capture = False
        self.captures = self.launches = self.most_bytes = 0
        self._next = 100

    @property
    def used_bytes(self) -> int:
        return sum(size for _, size in self.device.values())

    def handle(self) -> int:
        self._next += 1
        return self._next

    def allocate(self, table: dict[int, Any], size: int) -> int:
        raw = (ctypes.c_ubyte * (size + _ALIGNMENT))()
        address = -(-ctypes.addressof(raw) // _ALIGNMENT) * _ALIGNMENT
        ctypes.memset(address, 0xAB, size)  # memory is not empty when it is handed out
        table[address] = (raw, size)
        return address

    def holds(self, address: int, size: int) -> bool:
        tables = (*self.device.items(), *self.pinned.items())
        return any(start <= address and address + size <= start + length for start, (_, length) in tables)

    def on_device(self, address: int) -> bool:
        return any(start <= address < start + length for start, (_, length) in self.device.items())

    def capturing(self) -> bool:
        """Whether this thread captures: then CUDA forbids it what is not part of a stream."""
        return any(stream.capturer == threading.get_ident() for stream in self.streams.values())

    def stream(self, handle: Any) -> Stream:
        return self.streams[int(handle)]

    def copy(self, target: int, source: int, size: int) -> None:
        if not (self.holds(target, size) and self.holds(source, size)):
            self.sticky = cudaError_t.cudaErrorIllegalAddress
            return
        ctypes.memmove(target, source, size)


def module(state: FakeCUDA) -> types.ModuleType:
    """The module `cuda.bindings.runtime` on a device."""
    found = types.ModuleType("cuda.bindings.runtime")

    def public(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        def guarded(*args: Any) -> tuple[Any, ...]:
            with state.lock:
                if state.sticky is not None and function.__name__ != "cudaGetErrorString":
                    return (state.sticky, None)
                result = function(*args)
                if result[0] != _GOOD and function.__name__ != "cudaGetLastError":
                    state.last = result[0]
                return result

        guarded.__name__, guarded.__wrapped__ = function.__name__, function  # type: ignore[attr-defined]
        setattr(found, function.__name__, guarded)
        return guarded

    for kind in (cudaError_t, cudaMemcpyKind, cudaMemoryType, cudaStreamCaptureMode):
        setattr(found, kind.__name__, kind)
    found.cudaStreamNonBlocking, found.cudaEventDisableTiming = cudaStreamNonBlocking, cudaEventDisableTiming

    @public
    def cudaGetErrorString(error):
        return _GOOD, {700: b"an illegal memory access was encountered"}.get(int(error), b"an error")

    @public
    def cudaGetLastError():
        last, state.last = state.last, _GOOD
        return (last,)

    @public
    def cudaPointerGetAttributes(ptr):
        kind = (
            cudaMemoryType.cudaMemoryTypeDevice if state.on_device(ptr) else cudaMemoryType.cudaMemoryTypeUnregistered
        )
        device, kind = state.elsewhere.get(ptr, (0, kind))
        return _GOOD, types.SimpleNamespace(type=kind, device=device)

    @public
    def cudaGetDevice():
        return _GOOD, getattr(state.current, "index", 0)

    @public
    def cudaSetDevice(device):
        state.current.index = device
        return (_GOOD,)

    @public
    def cudaMemGetInfo():
        return _GOOD, state.limit_bytes - state.used_bytes, state.limit_bytes

    @public
    def cudaMalloc(size):
        if state.capturing():
            return cudaError_t.cudaErrorStreamCaptureUnsupported, None
        if state.used_bytes + size > state.limit_bytes:
            return cudaError_t.cudaErrorMemoryAllocation, None
        address = state.allocate(state.device, size)
        state.most_bytes = max(state.most_bytes, state.used_bytes)
        return _GOOD, address

    @public
    def cudaFree(devPtr):
        for stream in state.streams.values():  # it waits for the device
            stream.run(stream.queued)
        return (_GOOD if state.device.pop(devPtr, None) else cudaError_t.cudaErrorInvalidValue,)

    @public
    def cudaMallocHost(size):
        return _GOOD, state.allocate(state.pinned, size)

    @public
    def cudaFreeHost(ptr):
        return (_GOOD if state.pinned.pop(ptr, None) else cudaError_t.cudaErrorInvalidValue,)

    @public
    def cudaMemcpyAsync(dst, src, count, kind, stream):
        assert kind is cudaMemcpyKind.cudaMemcpyDefault
        state.stream(stream).add(lambda: state.copy(dst, src, count))
        return (_GOOD,)

    @public
    def cudaStreamCreateWithFlags(flags):
        assert flags == cudaStreamNonBlocking
        handle = state.handle()
        state.streams[handle] = Stream()
        return _GOOD, handle

    @public
    def cudaStreamDestroy(stream):
        state.streams.pop(int(stream))
        return (_GOOD,)

    @public
    def cudaStreamSynchronize(stream):
        found = state.stream(stream)
        if found.captured is not None:
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        found.run(found.queued)
        return (state.sticky or _GOOD,)

    @public
    def cudaStreamWaitEvent(stream, event, flags):
        waited = state.events[int(event)]
        if waited is not None:
            other, position = waited
            state.stream(stream).add(lambda: other.run(position))
        return (_GOOD,)

    @public
    def cudaEventCreateWithFlags(flags):
        assert flags == cudaEventDisableTiming
        handle = state.handle()
        state.events[handle] = None
        return _GOOD, handle

    @public
    def cudaEventRecord(event, stream):
        found = state.stream(stream)
        state.events[int(event)] = (found, found.queued)
        return (_GOOD,)

    @public
    def cudaEventSynchronize(event):
        waited = state.events[int(event)]
        if waited is not None:
            waited[0].run(waited[1])
        return (state.sticky or _GOOD,)

    @public
    def cudaEventDestroy(event):
        state.events.pop(int(event))
        return (_GOOD,)

    @public
    def cudaStreamBeginCapture(stream, mode):
        found = state.stream(stream)
        found.captured, found.capturer = [], threading.get_ident()
        return (_GOOD,)

    @public
    def cudaStreamEndCapture(stream):
        found = state.stream(stream)
        captured, found.captured, found.capturer = found.captured, None, None
        if state.no_capture or captured is None:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        handle = state.handle()
        state.graphs[handle] = captured
        return _GOOD, handle

    @public
    def cudaGraphInstantiate(graph, flags):
        handle = state.handle()
        state.graphs[handle] = list(state.graphs[graph])
        state.captures += 1
        return _GOOD, handle

    @public
    def cudaGraphDestroy(graph):
        state.graphs.pop(graph)
        return (_GOOD,)

    @public
    def cudaGraphLaunch(graphExec, stream):
        state.launches += 1
        for work in state.graphs[graphExec]:
            state.stream(stream).add(work)
        return (_GOOD,)

    @public
    def cudaGraphExecDestroy(graphExec):
        state.graphs.pop(graphExec)
        return (_GOOD,)

    return found

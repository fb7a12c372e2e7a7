"""CUDA through `cuda.bindings.runtime`: memory, streams, events and graphs. Import this module inside functions alone.

Every call returns a tuple that begins with an error code, which only `check` reads. The runtime uses the device's
primary context, as torch and CuPy do, so all of them can share memory.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import DTypeLike, NDArray

from gstk.errors import EngineError, OutOfMemory

__all__ = [
    "Block",
    "CUDAError",
    "Event",
    "Graph",
    "Memory",
    "PinnedArea",
    "Stream",
    "capture",
    "check",
    "copy",
    "device_of",
    "memory_bytes",
    "on_device",
]


class CUDAError(RuntimeError):
    """A CUDA call failed. The engine turns it into one of gstk's errors."""


class MemoryBytes(NamedTuple):
    """Free and total memory of a GPU, bytes."""

    free: int
    total: int


def check(result: tuple[Any, ...]) -> Any:
    """The result of a CUDA call, without its error code.

    Args:
        result: the tuple that `cuda.bindings` returned.

    Returns:
        None, the value, or a tuple of values.

    Raises:
        OutOfMemory: the GPU's memory is full; existing memory stays valid.
        CUDAError: any other code.
    """
    code, *values = result
    if code != cudart.cudaError_t.cudaSuccess:
        cudart.cudaGetLastError()  # otherwise the next to ask for it, such as torch, takes it for its own
    if code == cudart.cudaError_t.cudaErrorMemoryAllocation:
        raise OutOfMemory("CUDA has no memory left (cudaErrorMemoryAllocation); take smaller regions, or free memory")
    if code != cudart.cudaError_t.cudaSuccess:
        raise CUDAError(f"{code.name}: {_text(code)}")
    return values[0] if len(values) == 1 else tuple(values) or None


def _text(code: Any) -> str:
    _, words = cudart.cudaGetErrorString(code)
    return words.decode(errors="replace") if isinstance(words, bytes) else str(words)


@contextmanager
def on_device(index: int) -> Iterator[None]:
    """Makes a GPU this thread's current device, and restores the previous one at the end."""
    before = check(cudart.cudaGetDevice())
    check(cudart.cudaSetDevice(index))
    try:
        yield
    finally:
        if before != index:
            check(cudart.cudaSetDevice(before))


def device_of(address: int) -> int | None:
    """The index of the GPU that memory lies on; None for managed memory, which all GPUs reach.

    Raises:
        EngineError: the memory is the host's, or CUDA does not know it.
    """
    about, kinds = check(cudart.cudaPointerGetAttributes(address)), cudart.cudaMemoryType
    if about.type == kinds.cudaMemoryTypeManaged:
        return None
    if about.type != kinds.cudaMemoryTypeDevice:
        raise EngineError(
            f"got an array at the address {address:#x}, no memory of a GPU that CUDA knows; copy it to one first"
        )
    return int(about.device)


def memory_bytes() -> MemoryBytes:
    """Free and total memory of this thread's GPU."""
    return MemoryBytes(*check(cudart.cudaMemGetInfo()))


class Stream:
    """A stream that does not synchronise with the default stream, which would make TensorRT wait for the device."""

    def __init__(self) -> None:
        self._stream = check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self.handle = int(self._stream)

    def synchronise(self) -> None:
        """Waits until all queued work is done."""
        check(cudart.cudaStreamSynchronize(self._stream))

    def wait(self, event: Event) -> None:
        """Makes all work that is queued from now on wait for the event."""
        check(cudart.cudaStreamWaitEvent(self._stream, event.event, 0))

    def close(self) -> None:
        """Gives it back."""
        check(cudart.cudaStreamDestroy(self._stream))


class Event:
    """A point on a stream."""

    def __init__(self) -> None:
        self.event = check(cudart.cudaEventCreateWithFlags(cudart.cudaEventDisableTiming))

    def record(self, stream: int) -> None:
        """Records the event after all work that the stream (a handle) has queued so far."""
        check(cudart.cudaEventRecord(self.event, stream))

    def synchronise(self) -> None:
        """Waits until the stream has reached the event."""
        check(cudart.cudaEventSynchronize(self.event))

    def close(self) -> None:
        """Gives it back."""
        check(cudart.cudaEventDestroy(self.event))


def copy(target: int, source: int, size_bytes: int, stream: Stream) -> None:
    """Queues a copy between pinned or device memory and pinned or device memory.

    Args:
        target, source: addresses.
        size_bytes: number of bytes to copy.
        stream: the stream on which the copy is queued.
    """
    kind = cudart.cudaMemcpyKind.cudaMemcpyDefault  # unified addressing tells host from device by the address
    check(cudart.cudaMemcpyAsync(target, source, size_bytes, kind, stream.handle))


class _Returned:
    """Collects memory blocks that nothing refers to any more."""

    def __init__(self) -> None:
        self.pieces: deque[tuple[int, int, bool]] = deque()
        self.closed = False

    def take(self, address: int, size_bytes: int, shared: list[bool]) -> None:
        """Adds a block. Python may collect a block in any thread, also while a graph is captured, so CUDA is not called
        here as long as a later call can free the block."""
        if self.closed:
            cudart.cudaFree(address)
        else:
            self.pieces.append((address, size_bytes, shared[0]))


class Block:
    """A memory block on a GPU. It goes back to its allocator when nothing refers to it any more.

    Attributes:
        address, size_bytes: address and size; CUDA aligns the address to 256 bytes.
    """

    def __init__(self, address: int, size_bytes: int, returned: _Returned) -> None:
        self.address, self.size_bytes = address, size_bytes
        self._shared = [False]
        weakref.finalize(self, returned.take, address, size_bytes, self._shared).atexit = False

    def share(self) -> None:
        """Records that a host program has the address. Such memory is not reused but freed, which waits for the GPU."""
        self._shared[0] = True


class Memory:
    """Allocates memory on one GPU, and reuses it.

    A returned block is reused for a request of the same size without a call to CUDA; otherwise returned blocks are
    freed before more memory is allocated. All blocks are used on one stream, so the next user of a block runs after
    the previous one.
    """

    def __init__(self) -> None:
        self._returned = _Returned()
        self._lock = threading.Lock()

    def allocate(self, size_bytes: int) -> Block:
        """Allocates a block of that size.

        Raises:
            OutOfMemory: the GPU does not have enough free memory.
        """
        with self._lock:
            address = self._reuse(size_bytes)
            if address is None:
                try:
                    address = int(check(cudart.cudaMalloc(size_bytes)))
                except OutOfMemory:
                    free, total = memory_bytes()
                    raise OutOfMemory(
                        f"got a GPU with {free / 1e6:.0f} of {total / 1e6:.0f} MB free, expected "
                        f"{size_bytes / 1e6:.0f} MB more; take smaller regions or fewer objects, or free memory"
                    ) from None
            return Block(address, size_bytes, self._returned)

    def free_returned(self) -> None:
        """Frees all returned blocks."""
        with self._lock:
            self._reuse(-1)

    def close(self) -> None:
        """Frees all returned blocks; blocks that are returned later are freed at once."""
        self._returned.closed = True
        self.free_returned()

    def _reuse(self, size_bytes: int) -> int | None:
        found = None
        kept = []
        pieces = self._returned.pieces
        while pieces:
            address, size, shared = pieces.popleft()
            if found is None and size == size_bytes and not shared:
                found = address
            else:
                kept.append((address, size, shared))
        if found is not None:  # memory suffices: the other returned blocks are kept for later requests
            pieces.extend(kept)
            return found
        for address, _, _ in kept:
            check(cudart.cudaFree(address))
        return None


class PinnedArea:
    """Pinned host memory for asynchronous copies. It grows as needed; growing loses its content."""

    def __init__(self) -> None:
        self._address, self._size_bytes = 0, 0

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """The area's first bytes as an array, valid until the next call. No queued copy may still use the area."""
        kind = np.dtype(dtype)
        size_bytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if size_bytes > self._size_bytes:
            self.close()
            self._address = int(check(cudart.cudaMallocHost(size_bytes)))
            self._size_bytes = size_bytes
        raw = memoryview((ctypes.c_ubyte * size_bytes).from_address(self._address))
        found: NDArray[Any] = np.frombuffer(raw.cast("B"), np.uint8).view(kind).reshape(shape)
        return found

    def close(self) -> None:
        """Gives it back."""
        if self._address:
            address, self._address, self._size_bytes = self._address, 0, 0
            check(cudart.cudaFreeHost(address))


class Graph:
    """A captured CUDA graph, which can be launched repeatedly. Its addresses and shapes are fixed."""

    def __init__(self, executable: Any) -> None:
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        """Queues the graph on a stream."""
        check(cudart.cudaGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        """Gives it back."""
        check(cudart.cudaGraphExecDestroy(self._executable))


@contextmanager
def capture(stream: Stream, found: list[Graph]) -> Iterator[None]:
    """Captures the work that the `with` block queues on the stream, without running it.

    Other threads may call CUDA during the capture, but must not queue work on this stream.

    Args:
        stream: the stream that is captured.
        found: list to which the graph is added.
    """
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    check(cudart.cudaStreamBeginCapture(stream.handle, mode))
    try:
        yield
    except BaseException:
        cudart.cudaStreamEndCapture(stream.handle)  # makes the stream usable again; the graph is discarded
        cudart.cudaGetLastError()
        raise
    captured = check(cudart.cudaStreamEndCapture(stream.handle))
    try:
        found.append(Graph(check(cudart.cudaGraphInstantiate(captured, 0))))
    finally:
        check(cudart.cudaGraphDestroy(captured))

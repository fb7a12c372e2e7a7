"""Runs the plans of a bundle on one GPU, with one stream and one block of memory for all.

Import this module inside functions alone: it imports TensorRT and CUDA.

All work is queued on one stream under one lock, so the plans can use the same memory. A thread holds the lock while it
queues work, but not while it waits for results.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.engines.arguments import Shape
from gstk.engines.cuda import Block, CUDAError, Event, Memory, PinnedArea, Stream, copy, device_of, on_device
from gstk.engines.device_arrays import DeviceArray, ExternalDeviceArray
from gstk.engines.failures import lost_device
from gstk.engines.tensorrt_profiles import Dims, buckets
from gstk.engines.tensorrt_runs import PlanRuns, Run
from gstk.engines.tensorrt_slots import Slots
from gstk.errors import EngineError, OutOfMemory

__all__ = ["DecodeRequest", "Encoded", "Execution", "LoadedPlan"]

_log = logging.getLogger("gstk.tensorrt")
_ALIGNMENT = 256
"""Alignment in bytes that TensorRT requires of addresses."""
_GRAPHS = 16


@dataclass(frozen=True, eq=False)
class Encoded:
    """An embedding on the GPU.

    Attributes:
        block: the memory that holds the embedding.
        shape: (1, C, H/2, W/2, D/2).
    """

    block: Block
    shape: Dims

    @property
    def roi_shape(self) -> Shape:
        z, y, x = (2 * side for side in self.shape[2:])
        return z, y, x


@dataclass(frozen=True, eq=False)
class DecodeRequest:
    """Prompts of B objects in a region.

    Attributes:
        encoded: the embedding of the region, from `Execution.encode`.
        coords: [B,N,3].
        labels: [B,N].
        profile: index of the plan's profile for the region.
        most: largest number of objects that the profile takes at once.
    """

    encoded: Encoded
    coords: NDArray[np.float32]
    labels: NDArray[np.int64]
    profile: int
    most: int


@dataclass(frozen=True)
class LoadedPlan:
    """The content of a plan, and how to load it.

    Attributes:
        content: bytes of the plan, from a trusted source.
        code_allowed: allow the plan to run host code that it contains.
        weights: ONNX file with the weights of a stripped plan.
    """

    content: bytes
    code_allowed: bool
    weights: Path | None


class Execution:
    """Runs the plans: one encode and one decode at a time, which may come from different threads.

    Attributes:
        image_dtype, logits_dtype: types of the encoder's input and the decoder's output.
    """

    def __init__(self, device: int, encoder: LoadedPlan, decoder: LoadedPlan, graphs: bool) -> None:
        """Loads the plans.

        Args:
            device: index of the GPU.
            encoder, decoder: the plans.
            graphs: whether to capture decodes as CUDA graphs.
        """
        self._device, self._graphs = device, graphs
        self._queue = threading.Lock()
        self._plans: list[PlanRuns] = []
        self._classes: PlanRuns | None = None
        self._pinned = [PinnedArea() for _ in range(5)]
        self._image, self._coords, self._labels, self._logits, self._features = self._pinned
        with on_device(device):
            self._memory = Memory()
            self._stream = Stream()
            self._slots = Slots(self._memory, self._stream)
            self._events = [Event(), Event()]
            self._in_slot: weakref.ref[Encoded] | None = None
            try:
                for plan in (encoder, decoder):
                    self._plans.append(PlanRuns(plan.content, plan.code_allowed, plan.weights, self._stream, _GRAPHS))
            except BaseException:
                self.close()
                raise
        self._encoder, self._decoder = self._plans
        self.image_dtype = self._encoder.dtypes["image"]
        self._embedding_dtype = self._encoder.dtypes["embedding"]
        self.logits_dtype = self._decoder.dtypes["logits"]
        if self._decoder.dtypes["embedding"] != self._embedding_dtype:
            raise EngineError(
                f"got an encoder that gives {self._embedding_dtype} and a decoder that takes "
                f"{self._decoder.dtypes['embedding']}; export and build again"
            )

    def encode(self, image: NDArray[Any] | ExternalDeviceArray, channels: int, profile: int) -> Encoded:
        """Encodes a region, and waits for the result.

        Args:
            image: [1,1,H,W,D], in host memory, or on the GPU in `image_dtype`.
            channels: number of the embedding's channels.
            profile: index of the plan's profile.
        """
        shape: Dims = (1, channels, *(side // 2 for side in image.shape[2:]))
        done = self._events[0]
        with on_device(self._device):
            if not isinstance(image, ExternalDeviceArray):
                pinned = self._image.array(image.shape, self.image_dtype)
                np.copyto(pinned, image, casting="same_kind")
                image = pinned
            with self._queued(done):
                run = self._encoder.plain(profile)
                needed = run.shape({"image": image.shape}, {"embedding": shape})
                image_bytes = math.prod(image.shape) * self.image_dtype.itemsize
                self._reserve({"scratch": needed, "image": image_bytes})
                block = self._memory.allocate(math.prod(shape) * self._embedding_dtype.itemsize)
                source = self._queue_image(image, image_bytes)
                self._queue_run(run, {"image": source, "embedding": block.address}, graph=False)
        return Encoded(block, shape)

    @property
    def has_classes(self) -> bool:
        """Whether the plan for classes is loaded."""
        return self._classes is not None

    def load_classes(self, plan: LoadedPlan) -> None:
        """Loads the plan for classes."""
        with on_device(self._device), self._queue:
            self._classes = PlanRuns(plan.content, plan.code_allowed, plan.weights, self._stream, _GRAPHS)
            self._plans.append(self._classes)

    def class_features(self, image: NDArray[np.float32], channels: int, profile: int) -> NDArray[np.float32]:
        """Encodes a region for class prompts.

        Args:
            image: [1,1,H,W,D] in host memory.
            channels: number of features of a voxel.
            profile: index of the plan's profile.

        Returns:
            features [C,H,W,D], a fresh array.
        """
        assert self._classes is not None, "load_classes comes first"
        image_dtype, dtype = self._classes.dtypes["image"], self._classes.dtypes["features"]
        found = np.empty((channels, *image.shape[2:]), np.float32)
        voxels, done = math.prod(image.shape), self._events[0]
        with on_device(self._device):
            staged = self._image.array(image.shape, image_dtype)
            np.copyto(staged, image, casting="same_kind")
            with self._queued(done):
                run = self._classes.plain(profile)
                needed = run.shape({"image": image.shape}, {"features": (1, *found.shape)})
                sizes = {"scratch": needed, "image": voxels * image_dtype.itemsize}
                sizes["features"] = channels * voxels * dtype.itemsize
                self._reserve(sizes)
                source = self._queue_image(staged, sizes["image"])
                features = self._slots.address("features")
                self._queue_run(run, {"image": source, "features": features}, graph=False)
            # A channel at a time: all of them in pinned memory would be 0.4 GB at 128³. Encodes, which alone may move
            # this buffer, wait for the caller's lock.
            for channel, target in enumerate(found):
                landing = self._features.array(target.shape, dtype)
                with self._queued(done):
                    address = features + channel * voxels * dtype.itemsize
                    copy(landing.ctypes.data, address, landing.nbytes, self._stream)
                np.copyto(target, landing)
        return found

    def decode(self, request: DecodeRequest) -> NDArray[np.float32]:
        """Decodes B objects into host memory.

        Returns:
            logits [B,1,H,W,D], a fresh array.
        """
        found = np.empty((len(request.labels), 1, *request.encoded.roi_shape), np.float32)
        with on_device(self._device):
            for first, count in self._decoded(request, None):
                part = found[first : first + count]
                np.copyto(part, self._logits.array(part.shape, self.logits_dtype))
        return found

    def decode_to_device(self, request: DecodeRequest, out: ExternalDeviceArray | None) -> DeviceArray:
        """Decodes into GPU memory: into `out`, or into a new array if it is None."""
        shape = (len(request.labels), 1, *request.encoded.roi_shape)
        with on_device(self._device):
            if out is None:
                with self._queue:
                    block = self._memory.allocate(math.prod(shape) * self.logits_dtype.itemsize)
                block.share()
                address, owner = block.address, block
            else:
                address, owner = out.address, out.owner
                self._wait_for(out, self._events[1])
            for _ in self._decoded(request, address):
                pass
        return DeviceArray(address, shape, self.logits_dtype, self._device, owner)

    def _decoded(self, request: DecodeRequest, target: int | None) -> Iterator[tuple[int, int]]:
        """Decodes the objects in groups; yields the first object and the size of each group when its logits are ready.

        Args:
            request: the prompts.
            target: address on the GPU for all logits; None puts the logits of each group into pinned memory.
        """
        first, objects, most = 0, len(request.labels), request.most
        while first < objects:
            bucket = buckets(objects - first, most)[0]
            count = min(bucket, objects - first)
            try:
                self._decode_group(request, first, count, bucket, target)
            except OutOfMemory:
                if bucket == 1:
                    raise
                most = bucket // 2
                _log.info("the GPU has no memory for %d objects at once; trying %d", bucket, most)
                continue
            yield first, count
            first += count

    def _decode_group(self, request: DecodeRequest, first: int, count: int, bucket: int, target: int | None) -> None:
        """Decodes one group of objects, and waits for the result."""
        encoded, dtypes = request.encoded, self._decoder.dtypes
        # Objects are independent: copies of the last one fill the group, and their logits are ignored.
        padded = np.minimum(np.arange(first, first + bucket), len(request.labels) - 1)
        given: dict[str, NDArray[Any]] = {
            "point_coords": request.coords[padded],
            "point_labels": request.labels[padded],
        }
        areas = {"point_coords": self._coords, "point_labels": self._labels}
        staged = {name: areas[name].array(values.shape, dtypes[name]) for name, values in given.items()}
        for name, values in given.items():
            np.copyto(staged[name], values, casting="same_kind")
        shapes = {"embedding": encoded.shape} | {name: values.shape for name, values in staged.items()}
        object_bytes = math.prod(encoded.roi_shape) * self.logits_dtype.itemsize
        landing = self._logits.array((count, object_bytes), np.uint8).ctypes.data if target is None else target
        if target is not None:
            landing += first * object_bytes
        with self._queued(self._events[1]):
            own = self._decoder.own(request.profile, tuple(shapes.values())) if self._graphs else None
            run = own or self._decoder.plain(request.profile)
            sizes = {name: values.nbytes for name, values in staged.items()}
            logits = {"logits": (bucket, 1, *encoded.roi_shape)}
            sizes |= {"scratch": run.shape(shapes, logits), "logits": bucket * object_bytes}
            sizes["embedding"] = encoded.block.size_bytes
            self._reserve(sizes)
            for name, values in staged.items():
                copy(self._slots.address(name), values.ctypes.data, values.nbytes, self._stream)
            if self._in_slot is None or self._in_slot() is not encoded:
                copy(self._slots.address("embedding"), encoded.block.address, encoded.block.size_bytes, self._stream)
                self._in_slot = weakref.ref(encoded)
            addresses = {name: self._slots.address(name) for name in (*shapes, "logits")}
            self._queue_run(run, addresses, graph=own is not None)
            copy(landing, addresses["logits"], count * object_bytes, self._stream)

    @contextmanager
    def _queued(self, done: Event) -> Iterator[None]:
        """Queues the block's work while no other thread queues any, and waits until it is done.

        Where the block or the wait ends early, as by Ctrl-C, what was queued ends first, since it uses the caller's
        memory. A CUDA error that made the block fail shows itself there.
        """
        try:
            with self._queue:
                yield
                done.record(self._stream.handle)
            done.synchronise()
        except BaseException:
            self._in_slot = None
            self._stream.synchronise()
            raise

    def _wait_for(self, array: ExternalDeviceArray, event: Event) -> None:
        """Makes the stream wait for what a host program has queued on an array so far, where it names a stream."""
        if array.stream is not None:
            event.record(array.stream)
            self._stream.wait(event)

    def device_of(self, address: int) -> int | None:
        """See `gstk.engines.cuda.device_of`."""
        with on_device(self._device):
            return device_of(address)

    def _reserve(self, sizes: Mapping[str, int]) -> None:
        if "embedding" in self._slots.reserve(sizes):
            self._in_slot = None

    def _queue_image(self, image: NDArray[Any] | ExternalDeviceArray, size_bytes: int) -> int:
        """Queues the copies that bring an image to the encoder's input; returns the address of that input."""
        slot = self._slots.address("image")
        if isinstance(image, ExternalDeviceArray):
            self._wait_for(image, self._events[0])
            if image.address % _ALIGNMENT == 0:
                return image.address
            copy(slot, image.address, size_bytes, self._stream)
        else:
            copy(slot, image.ctypes.data, size_bytes, self._stream)
        return slot

    def _queue_run(self, run: Run, addresses: Mapping[str, int], graph: bool) -> None:
        scratch = self._slots.address("scratch"), self._slots.size_bytes("scratch")
        run.queue(self._stream, addresses, *scratch, graph=graph)

    def close(self) -> None:
        """Frees all GPU resources; does nothing if the GPU was lost."""
        self._in_slot = None
        self._slots.clear()
        if lost_device():
            self._plans.clear()
            return
        with suppress(CUDAError), on_device(self._device):
            self._stream.synchronise()
            for plan in self._plans:
                plan.close()
            self._plans.clear()
            self._memory.close()
            for area in self._pinned:
                area.close()
            for event in self._events:
                event.close()
            self._stream.close()

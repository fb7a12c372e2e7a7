"""The base class of engines: it checks arguments, calls the backend, and owns the memory.

Axis letters: B objects, N points, H W D voxels of the region, in the order (z,y,x).
"""

from __future__ import annotations

import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gstk.core.bundle import Bundle
from gstk.core.class_vectors import load_class_vectors
from gstk.core.manifest import CLASS_GRAPH
from gstk.engines.arguments import (
    NOVEL_LABELS,
    Shape,
    check_finite,
    check_region,
    checked_points,
    image_array,
    image_shape,
)
from gstk.engines.devices import Device, find_device
from gstk.engines.failures import failure, refuse_lost_device
from gstk.engines.options import NoOptions, read_options
from gstk.engines.point_padding import IGNORED
from gstk.errors import EngineError, GstkError, Interrupted

__all__ = ["BundleEngine", "Device", "Embedding", "Engine", "Sample"]

_serial = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded region. It stays on the engine's device, and only the engine that made it can decode it.

    Attributes:
        engine_id: which engine made it.
        roi_shape: (H, W, D) voxels of the region.
        handle: the backend's own object.
        size_bytes: memory that it holds, for a cache to count.
    """

    engine_id: int
    roi_shape: Shape
    handle: Any
    size_bytes: int


class Sample(NamedTuple):
    """The input of an encode and a decode.

    Attributes:
        image: float32 [1,1,H,W,D], 0–1.
        coords: float32 [B,N,3] voxel indices (z,y,x) of the region.
        labels: int64 [B,N].
    """

    image: NDArray[np.float32]
    coords: NDArray[np.float32]
    labels: NDArray[np.int64]


class Engine(ABC):
    """The two halves of a network, ready to run.

    Calls from several threads are safe: one region is encoded and one decoded at a time, and a decode does not wait for
    an encode. Use it as a context manager, or call `close`.

    Attributes:
        name: the backend.
        precision: what it computes in.
        version: version of the backend's package.
        device: what it runs on.
        zero_shot: whether its decoder takes the labels of objects that are of no trained class.
        ignored_points: whether its decoder takes the label of points that it ignores.
        most_points: largest number of points of an object.
        decode_voxels: voxels that one run of the decoder takes; more objects than fit run in groups, since memory grows
            with their number (1 GB for one at 128³ and 16 channels) and on a CPU speed does not.
    """

    name: ClassVar[str]
    decode_voxels: ClassVar[int] = 128**3
    precision: str
    version: str = ""
    device: Device = Device("cpu")
    zero_shot: bool = True
    ignored_points: bool = False
    most_points: int = 2**31 - 1

    def __init__(self, multiple: int, minimum: int, max_voxels: int = 2**31 - 1) -> None:
        """Begins an engine.

        Args:
            multiple, minimum: every side of a region is a multiple of the first and at least the second, in voxels.
            max_voxels: of a region.
        """
        self._multiple, self._minimum, self._max_voxels = multiple, minimum, max_voxels
        self._id = next(_serial)
        self._encoding, self._decoding = threading.Lock(), threading.Lock()
        self._closed = False
        self._interrupts = 0

    def encode(self, image: ArrayLike) -> Embedding:
        """Encodes a region once, for any number of `decode` calls.

        Args:
            image: float32 [1,1,H,W,D], normalised as the bundle's manifest says (0–1), every side a multiple of
                `roi.multiple` and at least `roi.minimum`. Other real dtypes are converted.

        Returns:
            The embedding; it outlives later calls, and holds memory until it is dropped.

        Raises:
            EngineError: the image is not as above, the engine is closed, or the backend failed.
            OutOfMemory: the region is too large for the memory that is left.
            Interrupted: see `interrupt`.
            DeviceError: a CUDA error, in this call or before; the GPU is of no more use to this process.
        """
        array, shape = self._checked_image(image)
        with self._encoding, self._failing_as(f"encode a region of {shape}"):
            self._require_open()
            handle, size_bytes = self._encode(array)
        return Embedding(self._id, shape, handle, size_bytes)

    def decode(self, embedding: Embedding, coords: ArrayLike, labels: ArrayLike) -> NDArray[np.float32]:
        """Decodes the prompts of B objects in one region.

        Args:
            embedding: from `encode` of this engine.
            coords: float32 [B,N,3], voxel indices (z,y,x) of the region, integers at voxel centres.
            labels: int64 [B,N]: -1 padding (its coordinates are ignored), 0/1 background/foreground, 2/3 the same for
                special classes, 4/5 for an object of no trained class; -2, where `ignored_points` is true, for a point
                that is ignored, as if it were not there. Padding (-1) is MONAI's, a token of the network that the
                logits depend on. Every object has a point that is neither.

        Returns:
            logits, float32 [B,1,H,W,D], a fresh array: above 0 is the object.

        Raises:
            EngineError: an argument is not as above, the engine is closed, or the backend failed.
            OutOfMemory, DeviceError: see `encode`.
        """
        coords, labels = self._checked_prompts(embedding, coords, labels)
        objects = len(labels)
        group = max(1, self.decode_voxels // math.prod(embedding.roi_shape))
        with self._decoding, self._failing_as(f"decode {objects} objects in a region of {embedding.roi_shape}"):
            self._require_open()
            parts = [
                self._decode(embedding.handle, coords[first : first + group], labels[first : first + group])
                for first in range(0, objects, group)
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def class_features(self, image: ArrayLike) -> NDArray[np.float32]:
        """Encodes a region for class prompts: the logits of a class are its vector times the features.

        Args:
            image: as of `encode`.

        Returns:
            features, float32 [C,H,W,D], a fresh array.

        Raises:
            EngineError: see `encode`; also where the backend or the bundle has no class prompts.
            Interrupted, OutOfMemory, DeviceError: see `encode`.
        """
        array, shape = self._checked_image(image)
        with self._encoding, self._failing_as(f"encode a region of {shape} for classes"):
            self._require_open()
            return self._class_features(array)

    def class_vectors(self) -> NDArray[np.float32]:
        """The vector of each class id, float32 [n_classes,C].

        Raises:
            EngineError: the backend or the bundle has no class prompts.
        """
        raise EngineError(f"the {self.name} engine runs no class prompts; take another backend, such as openvino")

    def interrupt(self) -> None:
        """Ends the calls under way, from another thread: they raise `Interrupted` at the next layer of the network.

        A call that the backend cannot end runs on. Calls that begin later run normally.
        """
        self._interrupts += 1
        if not self._closed:
            self._interrupt()

    def close(self) -> None:
        """Frees the engine's memory after the calls under way; closing again does nothing."""
        with self._encoding, self._decoding:
            if not self._closed:
                self._closed = True
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        """The embedding's handle and its size in bytes."""

    @abstractmethod
    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """The logits, a fresh array."""

    def _class_features(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features, a fresh array."""
        raise EngineError(f"the {self.name} engine runs no class prompts; take another backend, such as openvino")

    @abstractmethod
    def _release(self) -> None:
        """Drops the backend's objects."""

    def _interrupt(self) -> None:  # noqa: B027 - not every backend can
        """Asks the backend to end the calls under way; these then raise the backend's own error."""

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError(f"the {self.name} engine is closed; open another with gstk.engines.open_engine")
        if self.device.kind == "cuda":
            refuse_lost_device()

    def _checked_image(self, image: ArrayLike) -> tuple[NDArray[np.float32], Shape]:
        self._require_open()
        array = image_array(image)
        shape = image_shape(array.shape)
        self._check_region(shape)
        check_finite(array)
        return array, shape

    def _check_region(self, shape: Shape) -> None:
        check_region(shape, self._multiple, self._minimum, self._max_voxels)

    def _checked_prompts(
        self, embedding: Embedding, coords: ArrayLike, labels: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        self._require_open()
        if not isinstance(embedding, Embedding) or embedding.engine_id != self._id:
            raise EngineError("got an embedding of another engine, expected one that this engine's encode returned")
        coords, labels = checked_points(coords, labels, embedding.roi_shape)
        if not self.ignored_points and labels.min() == IGNORED:
            raise EngineError(
                f"got points with the label {IGNORED} for a bundle of an older gstk, whose graph ignores none; leave "
                "them out, or export it again"
            )
        if not self.zero_shot and labels.max() >= NOVEL_LABELS[0]:
            raise EngineError(
                "got points of a novel object for a bundle of an older gstk, whose graph has no token for them; export "
                "it again"
            )
        return coords, labels

    @contextmanager
    def _failing_as(self, task: str) -> Iterator[None]:
        """Turns any error of a backend into an EngineError that names the task."""
        interrupts = self._interrupts
        try:
            yield
        except GstkError:
            raise
        except Exception as error:
            if self._interrupts != interrupts and not self.device.is_gpu:
                raise Interrupted(f"interrupted: {self.name} was to {task}") from error
            raise failure(self.name, task, error) from error


class BundleEngine(Engine):
    """A bundle opened by a backend.

    Attributes:
        bundle: what it runs.
        precision: which graphs of the bundle it runs.
        threads: CPU threads that were asked for; None where it was left to the backend.
        reason: why this backend and device were chosen; empty where they were asked for.
        options: the backend's own settings, an instance of `options_type`.
        clicks_later: whether a backend that can load the graphs for clicks when the first click comes does so.
        options_type: the dataclass of these settings.
        precisions: those that the backend can run.
        computed_from: precisions that need no graphs of their own, and whose graphs they compute.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    computed_from: ClassVar[Mapping[str, str]] = {"bf16": "fp32"}
    options_type: ClassVar[type[Any]] = NoOptions
    reason: str = ""

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "fp32",
        device: str = "auto",
        threads: int | None = None,
        options: Mapping[str, object] | None = None,
        *,
        clicks_later: bool = False,
    ) -> None:
        """Opens a bundle.

        Args:
            bundle: an opened bundle.
            precision: `fp32`, or another that the bundle holds.
            device: `auto` for the best that the backend has here, `cpu`, `cuda`, `cuda:N`, `gpu` or `gpu:N`.
            threads: CPU threads to compute with; None leaves it to the backend.
            options: settings of this backend alone, see its `options_type`.
            clicks_later: whether to load the graphs for clicks when the first click comes, since class prompts do not
                need them. OpenVINO can; other backends load them now.

        Raises:
            BundleError: the bundle holds no graphs of that precision.
            BackendMissing: the backend's package or device is not there.
            EngineError: `threads` is below 1 or meant for a GPU, an option is not one of this backend, or it cannot
                load the graphs.
            DeviceError: a GPU is asked for after this process had a CUDA error.
        """
        if threads is not None and threads < 1:
            raise EngineError(f"got {threads} threads, expected 1 or more, or None for the backend's choice")
        self.bundle = bundle
        self.zero_shot, self.ignored_points = bundle.manifest.zero_shot, bundle.manifest.ignored_points
        self.precision = precision
        self.threads = threads
        self.clicks_later = clicks_later
        self.options = read_options(self.options_type, options or {}, self.name)
        roi = bundle.manifest.roi
        super().__init__(roi.multiple, roi.minimum, roi.max_voxels)
        encoder, decoder = (bundle.graph(kind, self.graphs_precision) for kind in ("encoder", "prompt_decoder"))
        if precision not in self.precisions:
            raise EngineError(
                f"got precision {precision!r} for the {self.name} engine, expected {' or '.join(self.precisions)}"
            )
        named = self.named_devices() if device.startswith("gpu") else []
        self.device = find_device(device, [*self.devices(), *named], self.name)
        if self.device.kind == "cuda":
            refuse_lost_device()
        if self.device.is_gpu and threads is not None:
            raise EngineError(f"got {threads} threads for {self.device.id}, expected none; threads are for the cpu")
        with self._failing_as(f"load the graphs of {bundle.path}"):
            self._load(encoder, decoder, threads)

    @property
    def graphs_precision(self) -> str:
        """The precision of the bundle's graphs that are run; another than `precision` where those compute in it."""
        return self.computed_from.get(self.precision, self.precision)

    def _class_graph(self) -> Path:
        """The graph of class prompts, which is loaded at the first class prompt.

        Raises:
            EngineError: the bundle has none.
        """
        if CLASS_GRAPH not in self.bundle.manifest.graphs:
            raise EngineError(
                f"got a class prompt for the bundle {self.bundle.manifest.name!r}, which has no graph for classes; "
                "export it with a profile that has the branch `classes`"
            )
        return self.bundle.graph(CLASS_GRAPH, self.graphs_precision)

    def class_vectors(self) -> NDArray[np.float32]:
        """See `Engine`."""
        self._class_graph()
        return load_class_vectors(self.bundle.path / self.bundle.manifest.class_vectors)

    @classmethod
    @abstractmethod
    def devices(cls) -> list[Device]:
        """The devices of this machine that the backend can use, the best first.

        Raises:
            BackendMissing: the backend's package cannot be imported.
        """

    @classmethod
    def named_devices(cls) -> list[Device]:
        """Further devices of this machine, which the backend takes only where they are asked for by name."""
        return []

    @abstractmethod
    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        """Loads the graphs for `self.device` with `self.options`; sets `version`."""

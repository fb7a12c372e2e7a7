"""What every engine does: check what it is given, hand it to its backend, own what it holds.

Axis letters: B objects, N points, H W D voxels of the region, in the order (z,y,x).
"""

from __future__ import annotations

import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gstk.errors import EngineError, GstkError
from gstk.export.bundle import Bundle

__all__ = ["BundleEngine", "Embedding", "Engine", "Sample"]

Shape = tuple[int, int, int]

PADDING_LABEL = -1
LABELS = range(-1, 4)
_serial = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded region. It stays where the engine put it and is of use to that engine only.

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
    """What an engine is run on.

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
        device: what it runs on, in words.
        decode_voxels: voxels that one run of the decoder takes; more objects than fit run in groups, since memory grows
            with their number (1 GB for one at 128³ and 16 channels) and on a CPU speed does not.
    """

    name: ClassVar[str]
    decode_voxels: ClassVar[int] = 128**3
    precision: str
    version: str = ""
    device: str = "cpu"

    def __init__(self, multiple: int, minimum: int, max_voxels: int = 2**31 - 1) -> None:
        """Begins an engine.

        Args:
            multiple, minimum: what sides of a region are multiples of, and their least, voxels.
            max_voxels: of a region.
        """
        self._multiple, self._minimum, self._max_voxels = multiple, minimum, max_voxels
        self._id = next(_serial)
        self._encoding, self._decoding = threading.Lock(), threading.Lock()
        self._closed = False

    def encode(self, image: ArrayLike) -> Embedding:
        """Encodes a region once, for any number of `decode` calls.

        Args:
            image: float32 [1,1,H,W,D], normalised as the bundle's manifest says (0–1), every side a multiple of
                `roi.multiple` and at least `roi.minimum`. Other real dtypes are converted.

        Returns:
            The embedding; it outlives later calls, and holds memory until it is dropped.

        Raises:
            EngineError: the image is not as above, the engine is closed, or the backend failed.
        """
        self._require_open()
        array = _as_dtype("image", image, np.float32)
        shape = self._checked_image(array)
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
                special classes. Every object has a point that is not padding.

        Returns:
            logits, float32 [B,1,H,W,D], a fresh array: above 0 is the object.

        Raises:
            EngineError: an argument is not as above, the engine is closed, or the backend failed.
        """
        self._require_open()
        if not isinstance(embedding, Embedding) or embedding.engine_id != self._id:
            raise EngineError("got an embedding of another engine, expected one that this engine's encode returned")
        coords = _as_dtype("coords", coords, np.float32)
        labels = _as_dtype("labels", labels, np.int64)
        _check_points(coords, labels, embedding.roi_shape)
        objects = len(labels)
        group = max(1, self.decode_voxels // math.prod(embedding.roi_shape))
        with self._decoding, self._failing_as(f"decode {objects} objects in a region of {embedding.roi_shape}"):
            self._require_open()
            parts = [
                self._decode(embedding.handle, coords[first : first + group], labels[first : first + group])
                for first in range(0, objects, group)
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Frees what the engine holds, after the calls under way; closing again does nothing."""
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
        """The logits, an array that nothing else refers to."""

    @abstractmethod
    def _release(self) -> None:
        """Drops the backend's objects."""

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError(f"the {self.name} engine is closed; open another with gstk.engines.open_engine")

    def _checked_image(self, image: NDArray[np.float32]) -> Shape:
        shape = image.shape
        if len(shape) != 5 or shape[:2] != (1, 1):
            raise EngineError(f"got an image {shape}, expected (1, 1, H, W, D); add or drop axes")
        if any(side % self._multiple or side < self._minimum for side in shape[2:]):
            raise EngineError(
                f"got a region of {shape[2:]}, expected sides that are multiples of {self._multiple} and at least "
                f"{self._minimum}; pad or crop it"
            )
        if math.prod(shape[2:]) > self._max_voxels:
            raise EngineError(
                f"got a region of {shape[2:]}, expected at most {self._max_voxels} voxels; crop it or sample it coarser"
            )
        if not np.isfinite(image).all():
            raise EngineError("got an image with NaN or infinity, expected finite values in 0..1; replace them first")
        return shape[2], shape[3], shape[4]

    @contextmanager
    def _failing_as(self, what: str) -> Iterator[None]:
        """Turns whatever a backend raises into one EngineError that says what it was doing."""
        try:
            yield
        except GstkError:
            raise
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EngineError(f"{self.name} failed to {what}: {reason[:300]}") from error


class BundleEngine(Engine):
    """A bundle opened by a backend.

    Attributes:
        bundle: what it runs.
        precision: which graphs of the bundle it runs.
        precisions: those that the backend can run.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")

    def __init__(self, bundle: Bundle, precision: str = "fp32", threads: int | None = None) -> None:
        """Opens a bundle.

        Args:
            bundle: an opened bundle.
            precision: `fp32`, or another that the bundle holds.
            threads: CPU threads to compute with; None leaves it to the backend.

        Raises:
            BundleError: the bundle holds no graphs of that precision.
            BackendMissing: the backend's package or device is not there.
            EngineError: `threads` is below 1, or the backend cannot load the graphs.
        """
        if threads is not None and threads < 1:
            raise EngineError(f"got {threads} threads, expected 1 or more, or None for the backend's choice")
        self.bundle = bundle
        self.precision = precision
        roi = bundle.manifest.roi
        super().__init__(roi.multiple, roi.minimum, roi.max_voxels)
        encoder, decoder = (bundle.graph(kind, precision) for kind in ("encoder", "prompt_decoder"))
        if precision not in self.precisions:
            raise EngineError(
                f"got precision {precision!r} for the {self.name} engine, expected {' or '.join(self.precisions)}"
            )
        with self._failing_as(f"load the graphs of {bundle.path}"):
            self._load(encoder, decoder, threads)

    @classmethod
    @abstractmethod
    def devices(cls) -> list[str]:
        """What it runs on here, in words.

        Raises:
            BackendMissing: the backend's package cannot be imported.
        """

    @abstractmethod
    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        """Loads the graphs; sets `version` and `device`."""


def _check_points(coords: NDArray[np.float32], labels: NDArray[np.int64], roi_shape: Shape) -> None:
    if coords.ndim != 3 or coords.shape[2] != 3 or 0 in coords.shape:
        raise EngineError(f"got coords {coords.shape}, expected (B, N, 3) with one object and one point or more")
    if labels.shape != coords.shape[:2]:
        raise EngineError(f"got labels {labels.shape}, expected {coords.shape[:2]} as coords {coords.shape} have it")
    if labels.min() < LABELS[0] or labels.max() > LABELS[-1]:
        raise EngineError(f"got labels {np.unique(labels).tolist()}, expected values in {LABELS[0]}..{LABELS[-1]}")
    real = labels != PADDING_LABEL
    if not real.any(axis=1).all():
        empty = np.flatnonzero(~real.any(axis=1)).tolist()
        raise EngineError(f"got objects {empty} with padding points only, expected a prompt for each; leave them out")
    if not np.isfinite(coords).all():
        raise EngineError("got coords with NaN or infinity, expected voxel indices; padding points may be 0")
    outside = real & ((coords < -0.5) | (coords > np.array(roi_shape) - 0.5)).any(axis=2)
    if outside.any():
        raise EngineError(
            f"got a point at {coords[outside][0].tolist()}, expected (z, y, x) inside the region of {roi_shape}; "
            "give voxel indices of the region, not of the volume"
        )


def _as_dtype(name: str, values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    """The values as a contiguous array: integers must stay what they are, reals may be rounded to float32."""
    array = np.asarray(values)
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "biuf":
        raise EngineError(f"got {name} of dtype {array.dtype}, expected {np.dtype(dtype)}; convert it first")
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinity, which is refused below
        converted = np.ascontiguousarray(array, dtype=dtype)
    if np.issubdtype(dtype, np.integer) and not np.array_equal(converted, array):
        raise EngineError(f"got {name} of dtype {array.dtype} with values that no {np.dtype(dtype)} holds")
    return converted

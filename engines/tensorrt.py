"""The TensorRT engine for NVIDIA GPUs. It runs plans built by `gstk build`, on the regions that they were built for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gstk.core.manifest import CLASS_GRAPH
from gstk.engines.arguments import Shape, image_shape
from gstk.engines.base import BundleEngine, Embedding
from gstk.engines.device_arrays import DeviceArray, ExternalDeviceArray, read_device_array
from gstk.engines.devices import Device
from gstk.engines.options import option
from gstk.engines.point_padding import pad_points
from gstk.engines.tensorrt_package import require_gpu, require_tensorrt
from gstk.engines.tensorrt_plans import build_command, find_plans, read_plan, search_folders
from gstk.engines.tensorrt_record import BuildTarget, PlanFile
from gstk.errors import EngineError, PlanError

if TYPE_CHECKING:
    from gstk.engines.tensorrt_execution import DecodeRequest, LoadedPlan

__all__ = ["TensorRTEngine", "TensorRTOptions"]


@dataclass(frozen=True)
class TensorRTOptions:
    """Settings of `TensorRTEngine`. Build settings are options of `gstk build` instead."""

    plans: Path | None = option(None, "folder of the plans; engines in the bundle, or the user's cache, otherwise")
    graphs: bool = option(True, "launch decodes of shapes that come again as one CUDA graph each")


class TensorRTEngine(BundleEngine):
    """See `Engine`. The plans fix the admitted regions and the number of points; FP32, FP16 or INT8 as in the bundle.

    Embeddings stay on the GPU. Encodes and decodes from all threads share one stream and one block of memory, so a
    decode starts on the GPU only after every encode that was queued earlier.
    """

    name: ClassVar[str] = "tensorrt"
    decode_voxels: ClassVar[int] = 2**62  # profiles say how many objects fit
    options_type: ClassVar[type[Any]] = TensorRTOptions

    @classmethod
    def devices(cls) -> list[Device]:
        """See `BundleEngine`.

        Raises:
            BackendMissing: no TensorRT that gstk can use.
            DriverMissing: no NVIDIA driver, or no GPU.
        """
        return require_gpu()

    def _load(self, encoder: Path, decoder: Path, threads: int | None) -> None:
        self.version = require_tensorrt()
        host = BuildTarget.here(self.device, self.version)
        plans = find_plans(self.bundle, self.precision, host, search_folders(self.bundle, self.options.plans))
        self.plans = plans
        record = plans["encoder"].record
        self._profiles = record.profiles
        self.most_points = self._profiles.points
        self._channels = int(self.bundle.manifest.architecture["width"])

        from gstk.engines.tensorrt_execution import Execution

        self._execution = Execution(
            self.device.index,
            _loaded(plans["encoder"], encoder),
            _loaded(plans["prompt_decoder"], decoder),
            self.options.graphs,
        )

    def encode_device(self, image: object, stream: int | None = None) -> Embedding:
        """Encodes an image that is already on the GPU, from torch, CuPy, PyCUDA or any other library.

        Args:
            image: [1,1,H,W,D] of type `image_dtype`, contiguous, on this engine's GPU, with
                `__cuda_array_interface__` or `__dlpack__`. Its values must be finite; this is not checked.
            stream: handle of the CUDA stream that writes the image; None if the image names its stream itself, or if
                the write has finished.

        Returns:
            The embedding; its computation has finished.

        Raises:
            EngineError, OutOfMemory, DeviceError: see `encode`.
        """
        self._require_open()
        array = self._checked_device_array("image", image, self._execution.image_dtype)
        shape = image_shape(array.shape)
        self._check_region(shape)
        if stream is not None:
            array = replace(array, stream=stream)
        with self._encoding, self._failing_as(f"encode a region of {shape}"):
            self._require_open()
            encoded = self._execution.encode(array, self._channels, self._profile(shape))
        return Embedding(self._id, shape, encoded, encoded.block.size_bytes)

    def decode_device(
        self, embedding: Embedding, coords: ArrayLike, labels: ArrayLike, out: object | None = None
    ) -> DeviceArray:
        """Decodes like `decode`, and leaves the logits on the GPU.

        Args:
            embedding, coords, labels: see `decode`; the prompts are arrays in host memory.
            out: array to write the logits to, with the result's shape and type, contiguous, on this engine's GPU; None
                allocates a new one.

        Returns:
            logits [B,1,H,W,D] of type `logits_dtype`; their computation has finished. `torch.as_tensor`,
            `cupy.asarray` and `from_dlpack` of any library share the memory.

        Raises:
            EngineError, OutOfMemory, DeviceError: see `decode`.
        """
        coords, labels = self._checked_prompts(embedding, coords, labels)
        region = embedding.roi_shape
        target = None
        if out is not None:
            target = self._checked_device_array("out", out, self._execution.logits_dtype)
            if target.read_only:
                raise EngineError("got out, an array that is read-only, expected one to write to")
            if target.shape != (len(labels), 1, *region):
                raise EngineError(f"got out {target.shape}, expected {(len(labels), 1, *region)}")
        with self._decoding, self._failing_as(f"decode {len(labels)} objects in a region of {region}"):
            self._require_open()
            return self._execution.decode_to_device(self._request(embedding.handle, coords, labels), target)

    @property
    def image_dtype(self) -> np.dtype[Any]:
        """The type of the image that `encode_device` takes."""
        return self._execution.image_dtype

    @property
    def logits_dtype(self) -> np.dtype[Any]:
        """The type of the logits that `decode_device` returns."""
        return self._execution.logits_dtype

    def _check_region(self, shape: Shape) -> None:
        super()._check_region(shape)
        self._profile(shape)

    def _profile(self, shape: Shape) -> int:
        found = self._profiles.find(shape)
        if found is None:
            raise EngineError(
                f"got a region of {shape}, expected one of {self._profiles} as the plans were built; pad or crop it, "
                "or build for it with gstk build --roi or --wide"
            )
        return found

    def _request(self, encoded: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> DecodeRequest:
        from gstk.engines.tensorrt_execution import DecodeRequest

        if labels.shape[1] > self._profiles.points:
            raise EngineError(
                f"got {labels.shape[1]} points for an object, expected at most {self._profiles.points} as the plans "
                f"were built; build them with gstk build --points {labels.shape[1]}"
            )
        if self.ignored_points:  # a few numbers of points, so that each has a CUDA graph soon
            coords, labels = pad_points(coords, labels, self._profiles.points)
        profile = self._profile(encoded.roi_shape)
        return DecodeRequest(encoded, coords, labels, profile, self._profiles.ranges[profile].objects)

    def _checked_device_array(self, name: str, source: object, dtype: np.dtype[Any]) -> ExternalDeviceArray:
        array = read_device_array(name, source)
        if array.dtype != dtype:
            raise EngineError(
                f"got {name} of dtype {array.dtype}, expected {dtype} as the plan has it; convert it first"
            )
        # An array's interface names no GPU, and work on another GPU's memory ends all use of both.
        device = self._execution.device_of(array.address) if array.device is None else array.device
        if device not in (None, self.device.index):
            raise EngineError(f"got {name} on cuda:{device}, expected {self.device.id}; copy it there first")
        return array

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        z, y, x = image.shape[2:]
        encoded = self._execution.encode(image, self._channels, self._profile((z, y, x)))
        return encoded, encoded.block.size_bytes

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._execution.decode(self._request(handle, coords, labels))

    def _class_features(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        onnx = self._class_graph()
        if not self._execution.has_classes:
            if CLASS_GRAPH not in self.plans:
                raise PlanError(
                    f"got a class prompt, and the TensorRT plans of {self.bundle.manifest.name!r} are without one of "
                    f"its graph for classes; run: {build_command(self.bundle, self.precision)}"
                )
            self._execution.load_classes(_loaded(self.plans[CLASS_GRAPH], onnx))
        z, y, x = image.shape[2:]
        return self._execution.class_features(image, self._channels, self._profile((z, y, x)))

    def _release(self) -> None:
        self._execution.close()
        del self._execution


def _loaded(plan: PlanFile, onnx: Path) -> LoadedPlan:
    """A plan's content, and the graph that a stripped plan takes its weights from."""
    from gstk.engines.tensorrt_execution import LoadedPlan

    settings = plan.record.settings
    return LoadedPlan(read_plan(plan), settings.version_compatible, onnx if settings.stripped else None)

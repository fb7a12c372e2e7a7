"""TensorRT on NVIDIA GPUs: plans that `gstk build` made, each for the regions that it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gstk.engines.arguments import Shape, image_shape
from gstk.engines.base import BundleEngine, Embedding
from gstk.engines.device_arrays import DeviceArray, ExternalDeviceArray, read_device_array
from gstk.engines.devices import Device
from gstk.engines.options import option
from gstk.engines.tensorrt_package import require_gpu, require_tensorrt
from gstk.engines.tensorrt_plans import find_plans, read_plan, search_folders
from gstk.engines.tensorrt_record import BuildTarget, PlanFile
from gstk.errors import EngineError

if TYPE_CHECKING:
    from gstk.engines.tensorrt_execution import DecodeRequest

__all__ = ["TensorRTEngine", "TensorRTOptions"]


@dataclass(frozen=True)
class TensorRTOptions:
    """Settings of `TensorRTEngine`; those of a plan are given to `gstk build`."""

    plans: Path | None = option(None, "folder of the plans; engines in the bundle, or the user's cache, otherwise")
    graphs: bool = option(True, "launch decodes of shapes that come again as one CUDA graph each")


class TensorRTEngine(BundleEngine):
    """See `Engine`. Regions that the plans were built for, and as many points; FP32, FP16 or INT8 as the bundle has it.

    An embedding stays on the GPU. Encodes and decodes from several threads share one stream and one block of memory, so
    on the GPU a decode waits for an encode that was asked for before it.
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
        self._channels = int(self.bundle.manifest.architecture["width"])

        from gstk.engines.tensorrt_execution import Execution, LoadedPlan

        def loaded(plan: PlanFile, onnx: Path) -> LoadedPlan:
            settings = plan.record.settings
            return LoadedPlan(read_plan(plan), settings.version_compatible, onnx if settings.stripped else None)

        self._execution = Execution(
            self.device.index,
            loaded(plans["encoder"], encoder),
            loaded(plans["prompt_decoder"], decoder),
            self.options.graphs,
        )

    def encode_device(self, image: object, stream: int | None = None) -> Embedding:
        """As `encode`, of an image that is on the GPU already: torch's, CuPy's, PyCUDA's or any other library's.

        Args:
            image: float32 or float16, whichever `image_dtype` says, [1,1,H,W,D], contiguous, on this engine's GPU, with
                `__cuda_array_interface__` or `__dlpack__`; finite values, which is not checked here.
            stream: handle of the CUDA stream that wrote it; None where the image says so itself, or is written already.

        Returns:
            The embedding, finished.

        Raises:
            EngineError, OutOfMemory, DeviceError: see `encode`.
        """
        self._require_open()
        array = self._checked_device_array("image", image, self._execution.image_dtype)
        shape = image_shape(array.shape)
        self._check_region(shape)
        if stream is not None:
            array = ExternalDeviceArray(array.address, array.shape, array.dtype, array.device, stream, array.owner)
        with self._encoding, self._failing_as(f"encode a region of {shape}"):
            self._require_open()
            encoded = self._execution.encode(array, self._channels, self._profile(shape))
        return Embedding(self._id, shape, encoded, encoded.block.size_bytes)

    def decode_device(
        self, embedding: Embedding, coords: ArrayLike, labels: ArrayLike, out: object | None = None
    ) -> DeviceArray:
        """As `decode`, with logits that stay on the GPU.

        Args:
            embedding, coords, labels: see `decode`; prompts are small and come from the processor.
            out: where to write: an array like the result, contiguous, on this engine's GPU; None for memory of its own.

        Returns:
            logits [B,1,H,W,D], finished, in `logits_dtype`: `torch.as_tensor`, `cupy.asarray` and `from_dlpack` of any
            library share it.

        Raises:
            EngineError, OutOfMemory, DeviceError: see `decode`.
        """
        coords, labels = self._checked_prompts(embedding, coords, labels)
        region = embedding.roi_shape
        target = None
        if out is not None:
            target = self._checked_device_array("out", out, self._execution.logits_dtype)
            if target.shape != (len(labels), 1, *region):
                raise EngineError(f"got out {target.shape}, expected {(len(labels), 1, *region)}")
        with self._decoding, self._failing_as(f"decode {len(labels)} objects in a region of {region}"):
            self._require_open()
            return self._execution.decode_to_device(self._request(embedding.handle, coords, labels), target)

    @property
    def image_dtype(self) -> np.dtype[Any]:
        """What `encode_device` takes."""
        return self._execution.image_dtype

    @property
    def logits_dtype(self) -> np.dtype[Any]:
        """What `decode_device` gives."""
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
        profile = self._profile(encoded.roi_shape)
        return DecodeRequest(encoded, coords, labels, profile, self._profiles.ranges[profile].objects)

    def _checked_device_array(self, name: str, source: object, dtype: np.dtype[Any]) -> ExternalDeviceArray:
        array = read_device_array(name, source)
        if array.dtype != dtype:
            raise EngineError(
                f"got {name} of dtype {array.dtype}, expected {dtype} as the plan has it; convert it first"
            )
        if array.device is not None and array.device != self.device.index:
            raise EngineError(f"got {name} on cuda:{array.device}, expected {self.device.id}; copy it there first")
        return array

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        z, y, x = image.shape[2:]
        encoded = self._execution.encode(image, self._channels, self._profile((z, y, x)))
        return encoded, encoded.block.size_bytes

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._execution.decode(self._request(handle, coords, labels))

    def _release(self) -> None:
        self._execution.close()
        del self._execution

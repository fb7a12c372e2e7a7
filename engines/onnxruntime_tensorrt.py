"""Settings of ONNX Runtime's TensorRT provider: one explicit profile, and engines kept under a key of their own.

The published wheels link TensorRT 10; for 11 the `tensorrt` backend runs plans itself. Without a profile the provider
builds an engine anew for each shape that it has not seen, and it does not notice that a kept engine belongs to another
model or version, so the folder's name says which it is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gstk.core.bundle import Bundle
from gstk.engines.devices import Device
from gstk.errors import EngineError

if TYPE_CHECKING:
    from gstk.engines.onnxruntime import ONNXRuntimeOptions

__all__ = ["TensorRTOptions", "tensorrt_options"]

_OBJECTS, _POINTS = (1, 1, 8), (1, 4, 32)
"""Objects and points of an object: smallest, usual, largest."""


class TensorRTOptions(NamedTuple):
    """Settings of the provider for both graphs.

    Attributes:
        encoder, decoder: its settings for each graph.
        smallest, largest: sides of a region that the profile covers, voxels.
    """

    encoder: dict[str, str]
    decoder: dict[str, str]
    smallest: int
    largest: int


def tensorrt_options(
    bundle: Bundle, precision: str, device: Device, options: ONNXRuntimeOptions, version: str
) -> TensorRTOptions:
    """The settings for a bundle.

    Args:
        bundle: what is run.
        precision: which of its graphs.
        device: the GPU.
        options: `tensorrt_profile` and `tensorrt_cache` of it are used.
        version: of ONNX Runtime.

    Raises:
        EngineError: the profile is malformed, or does not fit the bundle's regions.
    """
    sides = _sides(bundle, options.tensorrt_profile)
    width = bundle.manifest.architecture["width"]
    image = ["1x1x" + "x".join([str(side)] * 3) for side in sides]
    embedding = [f"1x{width}x" + "x".join([str(side // 2)] * 3) for side in sides]
    coords = [f"{b}x{n}x3" for b, n in zip(_OBJECTS, _POINTS, strict=True)]
    labels = [f"{b}x{n}" for b, n in zip(_OBJECTS, _POINTS, strict=True)]
    shapes = [{"image": image}, {"embedding": embedding, "point_coords": coords, "point_labels": labels}]
    common = {
        "device_id": str(device.index),
        # TensorRT 10 types networks weakly here, and half types need the flag.
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
        "trt_layer_norm_fp32_fallback": "True",
        "trt_auxiliary_streams": "0",
    }
    if options.tensorrt_cache is not None:
        folder = str(options.tensorrt_cache / _key(bundle, precision, device, sides, version))
        common |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
        }
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    encoder, decoder = (
        common
        | {
            f"trt_profile_{end}_shapes": ",".join(f"{name}:{texts[place]}" for name, texts in inputs.items())
            for place, end in enumerate(("min", "opt", "max"))
        }
        for inputs in shapes
    )
    return TensorRTOptions(encoder, decoder, sides[0], sides[2])


def _sides(bundle: Bundle, profile: str) -> tuple[int, int, int]:
    roi = bundle.manifest.roi
    try:
        low, usual, high = (int(part) for part in profile.split(":"))
    except ValueError:
        raise EngineError(
            f"got tensorrt_profile={profile}, expected smallest:usual:largest, such as 64:128:192"
        ) from None
    fits = all(side % roi.multiple == 0 for side in (low, usual, high)) and roi.minimum <= low <= usual <= high
    if not fits or high**3 > roi.max_voxels:
        raise EngineError(
            f"got tensorrt_profile={profile}, expected rising multiples of {roi.multiple} from {roi.minimum} on with "
            f"at most {roi.max_voxels} voxels"
        )
    return low, usual, high


def _key(bundle: Bundle, precision: str, device: Device, sides: tuple[int, int, int], version: str) -> str:
    about = {
        "bundle": bundle.sha256,
        "precision": precision,
        "device": [device.name, device.capability],
        "sides": sides,
        "onnxruntime": version,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]

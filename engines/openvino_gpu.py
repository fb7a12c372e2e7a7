"""OpenVINO on a GPU, such as Intel's graphics: the devices, and a comparison of answers with the processor's.

The plugin runs the graphs that the processor runs. Nothing else compares them, so that a driver that computes wrongly
would give wrong masks without an error: each graph that is compiled for a GPU answers one small input on both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.engines.devices import Device
from gstk.errors import EngineError

__all__ = ["DIFFERENCE", "compare_with_processor", "openvino_gpus", "plugin_name"]

DIFFERENCE = {"fp32": 1e-3, "fp16": 1e-3, "int8": 0.1}
"""Greatest difference of a GPU's answer from the processor's, root mean square over that of the answer, by precision.

Rounding makes 1e-6 to 1e-5 in float32. INT8 rounds to one of 255 steps, and the two plugins may round at other places.
"""


def openvino_gpus(core: Any) -> list[Device]:
    """The GPUs that OpenVINO can use, in its order; asking loads the plugin and the graphics driver.

    Args:
        core: an `openvino.Core`.
    """
    names = [name for name in core.available_devices if name.partition(".")[0] == "GPU"]
    return [Device(f"gpu:{n}", core.get_property(name, "FULL_DEVICE_NAME")) for n, name in enumerate(names)]


def plugin_name(core: Any, device: Device) -> str:
    """What OpenVINO calls a device: `CPU`, `GPU`, or `GPU.N` where there are several."""
    if not device.is_gpu:
        return "CPU"
    return str([name for name in core.available_devices if name.partition(".")[0] == "GPU"][device.index])


def compare_with_processor(
    gpu: Any, processor: Any, region: tuple[int, int, int], precision: str, device: Device, graph: str
) -> None:
    """Compares the answers of a graph that was compiled for both to one made-up input.

    Args:
        gpu: an `openvino.CompiledModel` for the GPU.
        processor: the same graph for the processor.
        region: sides of the input, z,y,x voxels.
        precision: `fp32`, `fp16` or `int8`.
        device: the GPU, for the message.
        graph: what the graph is, for the message.

    Raises:
        EngineError: they differ by more than `DIFFERENCE`, or the GPU's is not finite.
    """
    inputs = _inputs(processor, region)
    found, expected = (np.asarray(compiled(inputs)[0], np.float64) for compiled in (gpu, processor))
    largest = DIFFERENCE[precision]
    difference = np.inf
    if found.shape == expected.shape:
        difference = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
    if not difference <= largest:  # not a number, too
        raise EngineError(
            f"got answers of the {graph} on {device} that differ from the processor's by {difference:.1e} of their "
            f"size, expected {largest:.0e} at most; update the graphics driver, or take --device cpu"
        )


def _inputs(compiled: Any, region: tuple[int, int, int]) -> dict[str, NDArray[Any]]:
    """An image or an embedding of noise, and a click in the middle."""
    rng = np.random.default_rng(0)
    inputs: dict[str, NDArray[Any]] = {}
    for port in compiled.inputs:
        name, dtype = port.get_any_name(), port.element_type.to_dtype()
        if name == "image":
            inputs[name] = rng.random((1, 1, *region)).astype(dtype)
        elif name == "embedding":
            channels = port.partial_shape[4].get_length()
            inputs[name] = rng.standard_normal((1, *(side // 2 for side in region), channels)).astype(dtype)
        elif name == "point_coords":
            inputs[name] = np.array([[[side // 2 for side in region]]], dtype)
        else:
            inputs[name] = np.ones((1, 1), dtype)
    return inputs

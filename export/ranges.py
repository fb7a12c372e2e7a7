"""Ranges of the values inside a graph: values in float16 must stay well below 65504.

A copy of the float32 graph has an additional output for each value, its largest magnitude, so values need not be kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gstk.core.drafts import temporary_folder
from gstk.engines.base import Sample
from gstk.errors import BackendMissing, ExportError
from gstk.export.half import FLOAT16_LIMIT, half_values
from gstk.export.onnx_writer import save_graph

__all__ = ["MOST", "activation_ranges", "check_ranges"]

MOST = FLOAT16_LIMIT / 2
"""Largest accepted magnitude; it leaves a margin, since another image may double a value."""


def activation_ranges(
    models: Mapping[str, ir.Model], samples: Iterable[Sample | NDArray[np.float32]]
) -> dict[str, float]:
    """Runs samples and keeps the largest magnitude of every value that `gstk.export.half.to_fp16_graph` makes float16.

    Args:
        models: the float32 `encoder` and `prompt_decoder`, or the `class_encoder`; they are left as they are.
        samples: one or more; images alone, float32 [1,1,H,W,D], for the class encoder.

    Returns:
        Layer (`encoder/image_encoder.encoder.conv_init`) → largest magnitude, in order of computation. A layer without
        weights goes by its node's name.

    Raises:
        BackendMissing: ONNX Runtime is not installed.
        ExportError: no samples.
    """
    with temporary_folder() as folder:
        probes = {kind: _Probe(kind, model, folder) for kind, model in models.items()}
        count = 0
        for count, sample in enumerate(samples, start=1):  # noqa: B007 - counted
            if not isinstance(sample, Sample):
                probes["class_encoder"].run({"image": sample})
                continue
            embedding = probes["encoder"].run({"image": sample.image})
            probes["prompt_decoder"].run(
                {"embedding": embedding, "point_coords": sample.coords, "point_labels": sample.labels}
            )
    if count == 0:
        raise ExportError("got no samples to measure ranges on, expected one or more")
    return {f"{kind}/{layer}": value for kind, probe in probes.items() for layer, value in probe.layers().items()}


def check_ranges(ranges: Mapping[str, float]) -> None:
    """Raises an error if a range comes near the limit of float16.

    Raises:
        ExportError: the largest is beyond `MOST`, or not finite.
    """
    layer, largest = max(ranges.items(), key=lambda item: item[1] if np.isfinite(item[1]) else np.inf)
    if not largest <= MOST:
        raise ExportError(
            f"got values up to {largest:.3g} at {layer}, expected at most {MOST:g}: float16 ends at "
            f"{FLOAT16_LIMIT:g}; export without --fp16"
        )


class _Probe:
    def __init__(self, kind: str, model: ir.Model, folder: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendMissing(f'ranges are measured with ONNX Runtime ({error}); pip install "gstk[cpu]"') from None
        copy = model.clone()
        self._names = half_values(copy)
        self._layers = _layer_names(copy, self._names)
        self._largest = np.zeros(len(self._names))
        for number, name in enumerate(self._names):
            _add_magnitude(copy.graph, name, f"magnitude_{number}")
        file, *_ = save_graph(copy, folder / f"{kind}.onnx")
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Runs the graph, updates the largest magnitudes, and returns the graph's original output."""
        first, *magnitudes = self._session.run(None, inputs)
        # `np.maximum` propagates NaN.
        self._largest = np.maximum(self._largest, np.array(magnitudes, np.float64))
        result: NDArray[np.float32] = first
        return result

    def layers(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for layer, value in zip(self._layers, self._largest.tolist(), strict=True):
            found[layer] = float(np.maximum(found.get(layer, 0.0), value))
        return found


def _add_magnitude(graph: ir.Graph, name: str, output: str) -> None:
    value = next(v for node in graph for v in node.outputs if v.name == name)
    magnitude = ir.node("Abs", [value])
    largest = ir.node("ReduceMax", [magnitude.outputs[0]], {"keepdims": 0})
    largest.outputs[0].name, largest.outputs[0].dtype = output, ir.DataType.FLOAT
    largest.outputs[0].shape = ir.Shape([])
    graph.extend([magnitude, largest])
    graph.outputs.append(largest.outputs[0])


def _layer_names(model: ir.Model, names: Sequence[str]) -> list[str]:
    wanted = dict.fromkeys(names, "")
    for node in model.graph:
        weights = [str(v.name) for v in node.inputs if v is not None and v.name in model.graph.initializers]
        dotted = [name.rsplit(".", 1)[0] for name in weights if name.endswith((".weight", ".bias"))]
        for value in node.outputs:
            if value.name in wanted:
                wanted[str(value.name)] = dotted[0] if dotted else str(node.name)
    return list(wanted.values())

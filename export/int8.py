"""Quantises the encoder to INT8 with NNCF after training, as Q/DQ ONNX; harmful activations stay in floating point.

Scales are symmetric and signed, one for each activation tensor and one for each channel of weights. TensorRT requires
this, and OpenVINO and ONNX Runtime support it. Quality is measured on masks from clicks on labelled cases.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from gstk.calibration.quality import MOST_DROP
from gstk.engines.onnxruntime import keep_int8_exact
from gstk.errors import BackendMissing, ExportError
from gstk.export.onnx_writer import SINGLE_FILE_BYTES, drop_unused_weights, quiet, strip

__all__ = ["MOST_DROP", "Int8Report", "mean_score", "quantise", "restore_until"]

_RANKED_ON = 4

Scores = Mapping[str, Sequence[float]]


class Int8Report(NamedTuple):
    """The loss of quality by quantisation.

    Attributes:
        scores, float_scores: case → mean Dice after each click, with the INT8 and with the float encoder.
        restored: activations that stay in floating point.
        quantised: activations in INT8.
        windows: number of regions from which the scales were computed.
    """

    scores: Scores
    float_scores: Scores
    restored: tuple[str, ...]
    quantised: int
    windows: int

    @property
    def drop(self) -> float:
        """Mean Dice over cases and clicks, float minus INT8."""
        return mean_score(self.float_scores) - mean_score(self.scores)

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "dice_drop": self.drop,
            "dice_drop_allowed": MOST_DROP,
            "dice_float": {name: list(values) for name, values in self.float_scores.items()},
            "dice_int8": {name: list(values) for name, values in self.scores.items()},
            "restored": list(self.restored),
            "quantised_activations": self.quantised,
            "calibration_windows": self.windows,
        }


def mean_score(scores: Scores) -> float:
    """Mean over cases of the mean over clicks."""
    return float(np.mean([np.mean(values) for values in scores.values()]))


def quantise(model: ir.Model, images: Sequence[NDArray[np.float32]]) -> ir.Model:
    """A float32 encoder with its convolutions and sums in INT8.

    Args:
        model: the float32 graph; it is left as it is.
        images: [1,1,H,W,D] regions as the encoder meets them in use, from which the scales are taken.

    Raises:
        BackendMissing: NNCF is not installed.
        ExportError: no images, or a graph too large for one file.
    """
    try:
        os.environ.setdefault("NNCF_CI", "1")  # otherwise it reports its use to its makers, unasked
        with quiet("nncf"):
            import nncf
    except ImportError as error:
        raise BackendMissing(f'INT8 needs NNCF ({error}); pip install "gstk[export]"') from None
    if not images:
        raise ExportError("got no regions to take INT8 scales from, expected one or more")
    proto = ir.to_proto(model)
    if proto.ByteSize() > SINGLE_FILE_BYTES:
        raise ExportError(f"got an encoder of {proto.ByteSize() / 1e9:.1f} GB, expected at most 1.8 GB for INT8")
    with quiet("nncf"):
        result = nncf.quantize(
            onnx.shape_inference.infer_shapes(proto),
            nncf.Dataset([{"image": image} for image in images]),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(images),
        )
    quantised: ir.Model = ir.from_proto(result)
    _sign(quantised)
    _tidy(quantised, model)
    return quantised


def restore_until(
    model: ir.Model,
    reference: ir.Model,
    images: Sequence[NDArray[np.float32]],
    accepts: Callable[[ir.Model], bool],
    on_progress: Callable[[str], None],
) -> tuple[ir.Model, tuple[str, ...]] | None:
    """Restores activations to floating point, the most harmful first, until the masks are good enough.

    Args:
        model: from `quantise`.
        reference: the float32 graph.
        images: regions to rank on; the first few are taken.
        accepts: whether a model's masks are good enough.

    Returns:
        The first accepted model and its restored activations, tried with 1, 2, 4, ... of them; None if restoring half
        of all activations does not suffice.
    """
    names = _pairs(model)
    expected = [_run(reference, image) for image in images[:_RANKED_ON]]
    errors = {}
    for number, name in enumerate(names, start=1):
        on_progress(f"INT8: how much does each activation cost, {number}/{len(names)}")
        candidate = _without(model, [name])
        errors[name] = sum(
            float(np.square(_run(candidate, image) - embedding).sum())
            for image, embedding in zip(images[:_RANKED_ON], expected, strict=True)
        )
    ranked = sorted(names, key=errors.__getitem__)
    count = 1
    while count <= len(ranked) // 2:
        on_progress(f"INT8: trying with {count} of {len(ranked)} activations in floating point")
        candidate = _without(model, ranked[:count])
        if accepts(candidate):
            return candidate, tuple(ranked[:count])
        count *= 2
    return None


def _pairs(model: ir.Model) -> list[str]:
    """Names of the QuantizeLinear nodes on activations; weights are stored as INT8 and have none."""
    return [str(node.name) for node in model.graph if node.op_type == "QuantizeLinear"]


def _without(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy without the QuantizeLinear and DequantizeLinear nodes of the named activations."""
    copy = model.clone()
    for node in list(copy.graph):
        if node.op_type == "QuantizeLinear" and node.name in names:
            source = node.inputs[0]
            assert source is not None
            for use in list(node.outputs[0].uses()):
                ir.convenience.replace_all_uses_with(use.node.outputs[0], source)
                copy.graph.remove(use.node, safe=True)
            copy.graph.remove(node, safe=True)
    drop_unused_weights(copy)
    return copy


def _run(model: ir.Model, image: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    keep_int8_exact(options)
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: NDArray[np.float32] = session.run(None, {"image": image})[0]
    return result


def _sign(model: ir.Model) -> None:
    """Converts the range 0..255 of non-negative values to 0..127, since TensorRT has no unsigned type."""
    for node in list(model.graph):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        if scale is None or zero is None or zero.const_value is None or zero.dtype != ir.DataType.UINT8:
            continue
        offsets = zero.const_value.numpy()
        if offsets.any() or scale.const_value is None:
            raise ExportError(f"got an asymmetric scale at {node.name}, expected a symmetric one, as TensorRT needs it")
        wider = np.asarray(scale.const_value.numpy() * np.float32(255 / 127), np.float32)
        node.replace_input_with(1, _constant(model, f"{node.name}.scale", wider))
        node.replace_input_with(2, _constant(model, f"{node.name}.zero_point", np.zeros_like(offsets, np.int8)))
        if node.op_type == "QuantizeLinear":
            node.outputs[0].type = ir.TensorType(ir.DataType.INT8)


def _constant(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.dtype, value.shape = ir.DataType(value.const_value.dtype), ir.Shape(array.shape)  # type: ignore[union-attr]
    model.graph.register_initializer(value)
    return value


def _tidy(model: ir.Model, source: ir.Model) -> None:
    """Restores the producer, names of axes and bare values of the source graph, which NNCF does not keep."""
    strip(model)
    for values, named in ((model.graph.inputs, source.graph.inputs), (model.graph.outputs, source.graph.outputs)):
        for value, before in zip(values, named, strict=True):
            value.shape = before.shape
    drop_unused_weights(model)

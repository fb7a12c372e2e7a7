"""Writes a traced graph as an ONNX file without any information about the machine that made it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from gstk.core.foreign_text import reason_of
from gstk.errors import ExportError
from gstk.export.graphs import CLEAN_OPS, GraphSpec

__all__ = [
    "OPSET",
    "SINGLE_FILE_BYTES",
    "drop_unused_weights",
    "quiet",
    "save_graph",
    "store_weights_fp16",
    "strip",
    "trace_graph",
]

OPSET = 20
"""The first opset with Gelu as one operator."""
SINGLE_FILE_BYTES = 1_800_000_000
"""Larger weights are stored in a separate file, since a protobuf message is limited to 2 GiB."""


def trace_graph(graph: GraphSpec) -> ir.Model:
    """Traces a graph to float32 ONNX of clean operators, with its axes named and every value's type known.

    Raises:
        ExportError: the trace failed, or holds an operator outside of `CLEAN_OPS`.
    """
    model = _trace(graph)
    _check_operators(model, graph.kind)
    strip(model)
    _name_axes(model, graph)
    return model


def save_graph(model: ir.Model, file: Path, external_weights: bool = False) -> list[Path]:
    """Writes a graph.

    Args:
        model: the graph.
        file: where to; its folder exists.
        external_weights: store the weights in a separate file; weights over `SINGLE_FILE_BYTES` always are.

    Returns:
        The written files: the graph, and then its weights if they are separate.
    """
    size_bytes = sum(_size_bytes(value) for value in model.graph.initializers.values())
    if not external_weights and size_bytes <= SINGLE_FILE_BYTES:
        ir.save(model, file)
        return [file]
    weights = file.with_name(f"{file.name}.data")
    ir.save(model, file, external_data=weights.name)
    return [file, weights]


def _trace(graph: GraphSpec) -> ir.Model:
    try:
        with torch.no_grad(), quiet("torch.onnx"):
            program = torch.onnx.export(
                graph.module,
                graph.example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=graph.dynamic,
                verbose=False,
            )
    except Exception as error:  # the exporter raises errors of many kinds, each many lines long
        raise ExportError(
            f"torch {torch.__version__} could not trace the {graph.kind}: {reason_of(error, 200)}"
        ) from error
    if program is None:
        raise ExportError(f"torch {torch.__version__} returned no graph for the {graph.kind}")
    return program.model


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keeps a package's progress output and messages off the terminal; exceptions are still raised.

    Args:
        name: name of the package's logger.
    """
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_operators(model: ir.Model, kind: str) -> None:
    found = {node.op_type if node.domain == "" else f"{node.domain}::{node.op_type}" for node in model.graph}
    strange = sorted(found - CLEAN_OPS) + [f"function {function.name}" for function in model.functions.values()]
    if strange:
        raise ExportError(
            f"torch {torch.__version__} wrote {', '.join(strange)} into the {kind}, expected plain operators; "
            "export with a torch release that gstk was tested with"
        )


def strip(model: ir.Model) -> None:
    """Drops the trace's provenance, which names source files of this machine; sets the producer."""
    model.producer_name, model.producer_version = "gstk", version("gstk")
    model.graph.name = "main"
    for item in (model, model.graph, *model.graph):
        item.metadata_props.clear()
        item.doc_string = None
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [value for node in model.graph for value in node.outputs]
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
        if value.producer() is not None and not value.is_graph_output():
            value.shape = None  # every runtime infers it anew, and the tracer's symbols would say nothing


def _name_axes(model: ir.Model, graph: GraphSpec) -> None:
    for values, axes in ((model.graph.inputs, graph.inputs), (model.graph.outputs, graph.outputs)):
        for value in values:
            value.shape = ir.Shape(axes[str(value.name)])


def drop_unused_weights(model: ir.Model) -> None:
    """Removes the initialisers that no operator reads."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def store_weights_fp16(model: ir.Model) -> None:
    """Stores float16 weights in front of a Cast to float32, which every runtime folds when it loads the graph.

    Only weights that float16 holds exactly are stored so, where it saves more than the Cast costs: the graph computes
    the same bits.
    """
    first = next(iter(model.graph))
    for name, value in list(model.graph.initializers.items()):
        if value.dtype != ir.DataType.FLOAT or value.const_value is None or value.const_value.size < 64:
            continue
        weights = value.const_value.numpy()
        with np.errstate(over="ignore"):
            halves = weights.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), weights):
            continue
        half = ir.Value(name=f"{name}.half", const_value=ir.tensor(halves, name=f"{name}.half"))
        half.dtype, half.shape = ir.DataType.FLOAT16, ir.Shape(halves.shape)
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT.value}, name=f"{name}.cast")
        cast.outputs[0].dtype = ir.DataType.FLOAT
        cast.outputs[0].shape = ir.Shape(halves.shape)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del model.graph.initializers[name]
        cast.outputs[0].name = name
        model.graph.register_initializer(half)
        model.graph.insert_before(first, cast)


def _size_bytes(value: Any) -> int:
    return 0 if value.const_value is None else int(value.const_value.nbytes)

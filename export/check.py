"""`gstk check`: whether a bundle matches its manifest and every runtime can load it.

Files and manifest are checked without any package, and the graphs with the `onnx` package. On request, an engine also
runs the bundle's test vectors. Torch is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.core.bundle import Bundle
from gstk.core.foreign_text import reason_of
from gstk.engines import Engine, available, open_engine
from gstk.errors import BackendMissing, BundleError, GstkError
from gstk.export.tolerances import REFERENCE, TOLERANCES, compare
from gstk.export.vectors import ClassVector, load_vectors

__all__ = ["OPSETS", "TENSORRT_OPS", "Finding", "check_bundle", "check_graph", "graph_shapes"]

OPSETS = range(17, 25)
"""Opset 17 added LayerNormalization; the parser of TensorRT 10.15 and later reads opsets up to 24."""
TENSORRT_OPS = frozenset(
    """
    Abs Add Cast Clip Concat Conv ConvTranspose Cos DequantizeLinear Div Equal Exp Expand Gather Gelu Identity
    InstanceNormalization LayerNormalization LeakyRelu MatMul Mul Neg Or Pad Pow QuantizeLinear Range ReduceMax
    ReduceMean ReduceSum Relu Reshape Shape Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze
    Where
    """.split()  # noqa: SIM905 - 40 lines otherwise
)
"""Operators of the default domain that TensorRT's ONNX parser supports with dynamic shapes (its operators.md)."""
MOST_RANK = 8
"""Largest number of axes of a TensorRT tensor."""
MOST_ELEMENTS = 2**31 - 1
Axes = tuple[int | str | None, ...]
Shape = tuple[int, ...]
_POINTS = 7
_AXES: dict[str, tuple[dict[str, Axes], dict[str, Axes]]] = {
    "encoder": ({"image": (1, 1, "H", "W", "D")}, {"embedding": (1, None, "H/2", "W/2", "D/2")}),
    "class_encoder": ({"image": (1, 1, "H", "W", "D")}, {"features": (1, None, "H", "W", "D")}),
    "prompt_decoder": (
        {
            "embedding": (1, None, "H/2", "W/2", "D/2"),
            "point_coords": ("B", "N", 3),
            "point_labels": ("B", "N"),
        },
        {"logits": ("B", 1, "H", "W", "D")},
    ),
}
_FOLDED_ELEMENTS = 4096


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: name of the check.
        ok: whether the check passed.
        detail: the observed result; for a failed check also the expected result and the remedy.
    """

    what: str
    ok: bool
    detail: str = ""


def check_bundle(
    path: Path, parity: bool = False, on_progress: Callable[[str], None] = lambda _: None
) -> Iterator[Finding]:
    """Checks a bundle, and yields findings one by one. It stops after a finding that makes further checks impossible.

    Args:
        path: its folder.
        parity: run the test vectors of all graphs through every installed engine in every precision as well.
        on_progress: called with a few words before long steps.

    Raises:
        BackendMissing: the `onnx` package, or with `parity` every engine, is not installed.
    """
    try:
        on_progress("hashing")
        bundle = Bundle.open(path)
    except BundleError as error:
        yield Finding("files and manifest", False, str(error))
        return
    manifest = bundle.manifest
    yield Finding(
        "files and manifest", True, f"{len(manifest.files)} files, {bundle.size_bytes / 1e6:.1f} MB, hashes agree"
    )
    unknown = manifest.licence.strip().lower() in ("", "unknown")
    yield Finding(
        "licence",
        not unknown,
        "recorded as unknown, expected one; export with --licence" if unknown else manifest.licence,
    )
    for kind, files in manifest.graphs.items():
        for precision, name in files.items():
            if precision == "int8" and name == files.get("fp32"):
                continue  # only the encoder has an INT8 graph
            on_progress(f"reading {name}")
            yield from check_graph(bundle, kind, precision)
    if parity:
        yield from _check_parity(bundle, on_progress)


def check_graph(bundle: Bundle, kind: str, precision: str) -> Iterator[Finding]:
    """Checks one graph: validity, operators and ranks that TensorRT supports, types, and axes.

    Raises:
        BackendMissing: the `onnx` package is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendMissing(f'graphs are read with onnx ({error}); pip install "gstk[check]"') from None
    path = bundle.graph(kind, precision)
    label = path.name
    try:
        onnx.checker.check_model(str(path), full_check=False)
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # the checker raises errors of several kinds, some many lines long
        yield Finding(f"{label}: valid ONNX", False, f"{reason_of(error, 200)}; export the bundle again")
        return
    yield Finding(f"{label}: valid ONNX", True, f"{len(model.graph.node)} operators")
    yield _opset(label, model)
    yield _operators(label, model)
    yield _axes(label, kind, model)
    region = _largest_region(bundle)
    try:
        shapes, types = graph_shapes(model, region, _POINTS)
    except Exception as error:
        yield Finding(f"{label}: types and shapes", False, f"{reason_of(error, 200)}; export the bundle again")
        return
    yield _typed(label, model, types, precision)
    yield from _sized(label, shapes, region)


def _opset(label: str, model: Any) -> Finding:
    found = {entry.domain or "default": entry.version for entry in model.opset_import}
    others = set(found) - {"default"}
    ok = not others and found.get("default") in OPSETS
    words = ", ".join(f"{domain} {version}" for domain, version in found.items())
    expected = "" if ok else f", expected the default domain in {OPSETS[0]}..{OPSETS[-1]} alone"
    return Finding(f"{label}: opset", ok, f"{words}{expected}")


def _operators(label: str, model: Any) -> Finding:
    used = {node.op_type if not node.domain else f"{node.domain}::{node.op_type}" for node in model.graph.node}
    strange = sorted(used - TENSORRT_OPS) + [f"function {function.name}" for function in model.functions]
    if strange:
        return Finding(f"{label}: operators", False, f"{', '.join(strange)}: TensorRT's parser may refuse them")
    return Finding(f"{label}: operators", True, f"{len(used)} kinds, all known to TensorRT's parser")


def _axes(label: str, kind: str, model: Any) -> Finding:
    expected = _AXES.get(kind)
    if expected is None:
        return Finding(f"{label}: axes", False, f"a graph of kind {kind}, expected one of {', '.join(_AXES)}")
    for values, wanted in zip((model.graph.input, model.graph.output), expected, strict=True):
        found = {value.name: _shape(value) for value in values}
        if list(found) != list(wanted) or not all(_fits(found[name], wanted[name]) for name in wanted):
            return Finding(f"{label}: axes", False, f"{_words(found)}, expected {_words(wanted)}")
    return Finding(f"{label}: axes", True, "H, W, D free" if kind == "encoder" else "H, W, D, B, N free")


def _shape(value: Any) -> Axes:
    return tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)


def _fits(found: Axes, wanted: Axes) -> bool:
    same = len(found) == len(wanted)
    return same and all(
        a == b or (b is None and isinstance(a, int) and a > 0) for a, b in zip(found, wanted, strict=True)
    )


def _words(values: Mapping[str, Axes]) -> str:
    return ", ".join(
        f"{name} [{','.join('C' if a is None else str(a) for a in axes)}]" for name, axes in values.items()
    )


def _largest_region(bundle: Bundle) -> tuple[int, int, int]:
    """The largest cube that the manifest admits."""
    roi = bundle.manifest.roi
    side = max(roi.minimum, int(round(roi.max_voxels ** (1 / 3)) // roi.multiple * roi.multiple))
    while side**3 > roi.max_voxels and side > roi.minimum:
        side -= roi.multiple
    return side, side, side


def graph_shapes(model: Any, region: Shape, points: int) -> tuple[dict[str, Shape | None], dict[str, int]]:
    """Shape and type of every value of a graph for one object in one region.

    Args:
        model: an `onnx.ModelProto` of a bundle.
        region: (H, W, D) voxels.
        points: N.

    Returns:
        Name → shape, None where it does not follow from the inputs'; name → element type, an `onnx.TensorProto` value.

    Raises:
        Exception: onnx's own, where types or shapes clash.
    """
    import onnx

    sizes = dict(zip("HWD", region, strict=True))
    sizes |= {f"{axis}/2": side // 2 for axis, side in sizes.items()} | {"B": 1, "N": points}
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in sizes:
                axis.dim_value = sizes[axis.dim_param]
    while True:
        del fixed.graph.value_info[:]
        inferred = onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True)
        values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
        types = {i.name: i.data_type for i in inferred.graph.initializer}
        types |= {value.name: value.type.tensor_type.elem_type for value in values}
        shapes: dict[str, Shape | None] = {name: None for node in inferred.graph.node for name in node.output}
        shapes |= {value.name: _known_shape(value.type.tensor_type) for value in values}
        shapes |= {i.name: tuple(i.dims) for i in inferred.graph.initializer}
        if not _fold_shapes(fixed, shapes):
            return shapes, types


def _known_shape(tensor: Any) -> Shape | None:
    known = tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
    return tuple(d.dim_value for d in tensor.shape.dim) if known else None


def _fold_shapes(model: Any, shapes: Mapping[str, Shape | None]) -> bool:
    """Folds values that depend on shapes alone into constants, for shape inference; returns whether any was folded."""
    from onnx.numpy_helper import from_array, to_array
    from onnx.reference import ReferenceEvaluator

    small = {i.name: i for i in model.graph.initializer if math.prod(i.dims) <= _FOLDED_ELEMENTS}
    folded = False
    for node in list(model.graph.node):
        (name,) = node.output[:1]
        shape = shapes.get(name)
        if node.op_type == "Shape":
            of = shapes.get(node.input[0])
            if of is None:
                continue
            start, end = (next((a.i for a in node.attribute if a.name == key), None) for key in ("start", "end"))
            value = np.array(of[slice(start, end)], np.int64)
        elif shape is not None and math.prod(shape) <= _FOLDED_ELEMENTS and all(i in small for i in node.input if i):
            value = ReferenceEvaluator(node).run(None, {i: to_array(small[i]) for i in node.input if i})[0]
        else:
            continue
        constant = from_array(np.asarray(value), name)
        model.graph.node.remove(node)
        model.graph.initializer.append(constant)
        small[name] = constant
        folded = True
    return folded


def _typed(label: str, model: Any, types: Mapping[str, int], precision: str) -> Finding:
    """Checks that every value has a type, and that each operator's floating-point inputs have the same type.

    Strongly typed TensorRT networks require this. Scales of Q/DQ nodes are exempt: they are always float32.
    """
    import onnx

    floats = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.DOUBLE: "float64",
    }
    products = set()
    for node in model.graph.node:
        unknown = [name for name in node.output if name and not types.get(name)]
        if unknown:
            return Finding(f"{label}: types", False, f"the type of {unknown[0]} is not known; export the bundle again")
        found = {floats[types[name]] for name in node.input if name and types.get(name) in floats}
        if len(found) > 1 or "float64" in found:
            mixed = f"{node.op_type} {node.name} has inputs of {' and '.join(sorted(found))}, expected one type"
            return Finding(f"{label}: types", False, f"{mixed}; export the bundle again")
        if node.op_type in ("Conv", "ConvTranspose"):
            products |= found
    wanted = {"fp16": "float16"}.get(precision, "float32")
    if products != {wanted}:
        computed = " and ".join(sorted(products)) or "nothing"
        return Finding(
            f"{label}: types", False, f"convolutions compute in {computed}, expected {wanted} for {precision}"
        )
    return Finding(f"{label}: types", True, f"one type an operator, convolutions in {wanted}")


def _sized(label: str, shapes: Mapping[str, Shape | None], region: Shape) -> Iterator[Finding]:
    deepest = max((len(shape) for shape in shapes.values() if shape is not None), default=0)
    yield Finding(f"{label}: ranks", deepest <= MOST_RANK, f"at most {deepest} axes (TensorRT takes {MOST_RANK})")
    known = {name: math.prod(shape) for name, shape in shapes.items() if shape is not None}
    unknown = len(shapes) - len(known)
    name, most = max(known.items(), key=lambda item: item[1])
    words = f"{name} has {most / 2**31:.2f} · 2³¹ elements at the largest region, {'×'.join(map(str, region))}"
    if unknown:
        yield Finding(
            f"{label}: tensor sizes", False, f"{unknown} values of unknown shape, expected every shape to follow"
        )
        return
    expected = "" if most <= MOST_ELEMENTS else ", expected less than 1; lower roi.max_voxels"
    yield Finding(f"{label}: tensor sizes", most <= MOST_ELEMENTS, words + expected)


def _check_parity(bundle: Bundle, on_progress: Callable[[str], None]) -> Iterator[Finding]:
    manifest = bundle.manifest
    if not manifest.vectors:
        yield Finding("parity", False, "the bundle has no test vectors; export it again")
        return
    try:
        vectors, class_vectors = load_vectors(bundle.path / manifest.vectors)
    except BundleError as error:
        yield Finding("parity", False, str(error))
        return
    has_classes = "class_encoder" in manifest.graphs
    if has_classes and not class_vectors:
        yield Finding("parity of classes", False, "no test vectors for the graph for classes; export the bundle again")
    engines = [backend.name for backend in available() if backend.version is not None and backend.name != REFERENCE]
    if not engines:
        raise BackendMissing('no engine is installed to run the test vectors; pip install "gstk[cpu]"')
    for precision in [p for p in manifest.graphs["encoder"] if p in TOLERANCES]:
        for name in engines:
            on_progress(f"{name} {precision}")
            label = f"{name} {precision}"
            try:
                with open_engine(bundle, name, precision) as engine:
                    found = [
                        (engine.decode(engine.encode(v.image), v.coords, v.labels).reshape(len(v.labels), -1), v)
                        for v in vectors
                    ]
                    yield _agreement(
                        f"parity: {label}", precision, [(logits[:, v.voxels], v.logits) for logits, v in found]
                    )
                    if has_classes and class_vectors:
                        on_progress(f"{label}: classes")
                        yield _agreement(
                            f"parity of classes: {label}",
                            precision,
                            [(_class_logits(engine, v)[:, v.voxels], v.logits) for v in class_vectors],
                        )
            except GstkError as error:
                yield Finding(f"parity: {label}", False, str(error))


def _class_logits(engine: Engine, vector: ClassVector) -> NDArray[np.float32]:
    features = engine.class_features(vector.image)
    return engine.class_vectors()[vector.ids] @ features.reshape(len(features), -1)


def _agreement(
    what: str, precision: str, found_expected: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> Finding:
    """Compares the logits of a graph with torch's, over all test vectors."""
    tolerance = TOLERANCES[precision]
    allowed = tolerance.error(max(float(np.abs(expected).max()) for _, expected in found_expected))
    results = [compare(found, expected, allowed) for found, expected in found_expected]
    error, agreement = max(r["max_abs_error"] for r in results), min(r["mask_agreement"] for r in results)
    of_all = min(r["mask_agreement_all"] for r in results)
    return Finding(
        what,
        error <= allowed and agreement >= tolerance.agreement,
        f"logits differ by up to {error:.1e} (allowed {allowed:.1e}), masks agree on {agreement:.4%} of the voxels "
        f"further than that from 0 (at least {tolerance.agreement:.2%}), on {of_all:.4%} of all",
    )

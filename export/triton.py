"""A bundle as a model repository of NVIDIA's Triton Inference Server.

    repository/
    ├── tiny_encoder/config.pbtxt            image → embedding
    ├── tiny_encoder/1/model.onnx
    ├── tiny_prompt_decoder/...              embedding, points → logits
    ├── tiny_class_encoder/...               image → features, where the bundle has classes
    ├── tiny_class_logits/...                features, class ids → logits: a product with each class's vector
    └── tiny_class_segmenter/config.pbtxt    image, class ids → logits: the two above in one call

The fields of `config.pbtxt` are those of Triton's `model_config.proto`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gstk.core.bundle import Bundle
from gstk.core.class_vectors import load_class_vectors
from gstk.core.drafts import REPLACED, draft_folder
from gstk.core.files import make_folder
from gstk.engines.tensorrt_plans import graph_hash, read_plan, read_record, search_folders
from gstk.engines.tensorrt_record import PlanFile
from gstk.errors import EngineError, ExportError, OutputError, PlanError

__all__ = ["PLATFORMS", "TritonOptions", "write_triton_repository"]

PLATFORMS = ("onnxruntime", "tensorrt")
"""Which of Triton's backends runs the graphs: ONNX Runtime the bundle's own, TensorRT the plans of `gstk build`."""
_TYPES = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.INT64: "TYPE_INT64",
}
_OPSET, _IR_VERSION = 20, 10
_CLASS_MODELS = ("class_logits", "class_segmenter")
_USUAL_POINTS = 4


class Word(str):
    """A value that is written without quotes: the name of an enumeration's entry, `true` or `false`."""


@dataclass(frozen=True)
class TritonOptions:
    """Options of a repository.

    Attributes:
        platform: one of `PLATFORMS`.
        precision: of the graphs; None takes FP16 where the bundle has it, else FP32.
        plans: folder of TensorRT's plans; None looks where `gstk build` puts them.
    """

    platform: str = PLATFORMS[0]
    precision: str | None = None
    plans: Path | None = None

    def __post_init__(self) -> None:
        if self.platform not in PLATFORMS:
            raise ExportError(f"got platform {self.platform!r}, expected {' or '.join(PLATFORMS)}")


def write_triton_repository(
    bundle: Bundle, repository: str | os.PathLike[str], options: TritonOptions | None = None, overwrite: bool = False
) -> list[Path]:
    """Writes a bundle's graphs as models of a Triton repository, beside the models that are there.

    Args:
        bundle: the bundle to serve. The names of the models begin with its name.
        repository: folder for `tritonserver --model-repository`; created if it is missing.
        options: see `TritonOptions`.
        overwrite: replace models of the same names.

    Returns:
        The models' folders.

    Raises:
        ExportError: a model of the same name exists, or the bundle has no graphs in that precision.
        PlanError: no plans of the bundle's graphs were found.
        OutputError: the repository cannot be written.
    """
    options = options or TritonOptions()
    precision = options.precision or ("fp16" if "fp16" in bundle.manifest.graphs["encoder"] else "fp32")
    root = make_folder(repository)
    there = [name for name in _model_names(bundle) if (root / name).exists()]
    if there and not overwrite:
        raise ExportError(f"{root / there[0]} exists already; give --overwrite to replace, or another folder")
    try:
        with draft_folder(root) as scratch:
            names = list(_write_models(bundle, precision, scratch, options))
            aside = scratch / REPLACED
            aside.mkdir()
            for name in names:
                if (root / name).exists():
                    os.replace(root / name, aside / name)
                os.replace(scratch / name, root / name)
    except OSError as error:
        raise OutputError(f"cannot write {root}: {error.strerror or error}; check its space and rights") from None
    return [root / name for name in names]


def _model_names(bundle: Bundle) -> list[str]:
    kinds = [*bundle.manifest.graphs, *(_CLASS_MODELS if bundle.manifest.class_vectors else ())]
    return [f"{bundle.manifest.name}_{kind}" for kind in kinds]


def _write_models(bundle: Bundle, precision: str, folder: Path, options: TritonOptions) -> Iterator[str]:
    prefix = bundle.manifest.name
    for kind in bundle.manifest.graphs:
        name = f"{prefix}_{kind}"
        own = folder / name / "1"
        own.mkdir(parents=True)
        graph = bundle.graph(kind, precision)
        model = onnx.load(str(graph), load_external_data=False)
        profiles: list[str] = []
        if options.platform == "tensorrt":
            plan = _plan(bundle, kind, precision, options.plans)
            (own / "model.plan").write_bytes(read_plan(plan))
            profiles = [str(index) for index in range(len(plan.record.memory_bytes))]
        else:
            apart = _external_files(model)
            # Where weights are separate files, Triton expects a folder in the place of the graph.
            place = own / "model.onnx" if apart else own
            place.mkdir(exist_ok=True)
            shutil.copyfile(graph, place / "model.onnx")
            for weights in apart:
                shutil.copyfile(bundle.path / weights, place / weights)
        config = _config(name, model, bundle, options, profiles)
        about = _about(bundle, precision)
        if profiles:
            # Otherwise each profile's context holds the memory of the largest one.
            about["execution_context_allocation_strategy"] = "ON_PROFILE_CHANGE"
        _save(folder / name, about, config)
        yield name
    if not bundle.manifest.class_vectors:
        return
    encoder = onnx.load(str(bundle.graph("class_encoder", precision)), load_external_data=False)
    vectors = load_class_vectors(bundle.path / bundle.manifest.class_vectors)
    product = _class_logits(encoder, vectors)
    name = f"{prefix}_class_logits"
    (folder / name / "1").mkdir(parents=True)
    onnx.save(product, str(folder / name / "1" / "model.onnx"))
    config = _config(name, product, bundle, TritonOptions(), [])
    _save(folder / name, _about(bundle, precision), config)
    yield name
    name = f"{prefix}_class_segmenter"
    (folder / name / "1").mkdir(parents=True)
    _save(folder / name, _about(bundle, precision), _ensemble(name, prefix, encoder, product))
    yield name


def _plan(bundle: Bundle, kind: str, precision: str, plans: Path | None) -> PlanFile:
    """The latest plan of this graph for any GPU, since the server may have another GPU than this machine."""
    wanted, found = graph_hash(bundle, kind, precision), list[PlanFile]()
    for folder in search_folders(bundle, plans):
        for sidecar in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            try:
                plan = read_record(sidecar)
            except EngineError:
                continue  # of another gstk, or not this user's; the error below says what to do
            if (plan.record.kind, plan.record.graph) == (kind, wanted) and not plan.record.settings.stripped:
                found.append(plan)
    if not found:
        where = " or ".join(map(str, search_folders(bundle, plans)))
        raise PlanError(
            f"got no TensorRT plan with weights of {bundle.manifest.name}'s {kind} in {precision} in {where}; run "
            f"gstk build {bundle.path} --precision {precision} on a machine with the server's GPU"
        )
    return max(found, key=lambda plan: plan.record.built)


def _external_files(model: onnx.ModelProto) -> list[str]:
    places = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(places)


def _class_logits(encoder: onnx.ModelProto, vectors: NDArray[np.float32]) -> onnx.ModelProto:
    """features [1,C,H,W,D], class_ids int64 [K] → logits [1,K,H,W,D]."""
    (features,) = encoder.graph.output
    kind = features.type.tensor_type.elem_type
    held = vectors.astype(np.float16 if kind == TensorProto.FLOAT16 else np.float32)
    channels = vectors.shape[1]
    nodes = [
        helper.make_node("Gather", ["class_vectors", "class_ids"], ["chosen"], axis=0),
        helper.make_node("Shape", ["features"], ["region"], start=2),
        helper.make_node("Reshape", ["features", "flat"], ["columns"]),
        helper.make_node("MatMul", ["chosen", "columns"], ["rows"]),
        helper.make_node("Concat", ["front", "region"], ["shape"], axis=0),
        helper.make_node("Reshape", ["rows", "shape"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "class_logits",
        [
            helper.make_tensor_value_info("features", kind, [1, channels, "H", "W", "D"]),
            helper.make_tensor_value_info("class_ids", TensorProto.INT64, ["K"]),
        ],
        [helper.make_tensor_value_info("logits", kind, [1, "K", "H", "W", "D"])],
        [
            numpy_helper.from_array(held, "class_vectors"),
            numpy_helper.from_array(np.array([channels, -1], np.int64), "flat"),
            numpy_helper.from_array(np.array([1, -1], np.int64), "front"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _config(
    name: str, model: onnx.ModelProto, bundle: Bundle, options: TritonOptions, profiles: list[str]
) -> dict[str, Any]:
    group: dict[str, Any] = {"count": 1, "kind": Word("KIND_AUTO")}
    if options.platform == "tensorrt":
        group |= {"kind": Word("KIND_GPU"), "profile": profiles}
    return {
        "name": name,
        "backend": options.platform,
        "max_batch_size": 0,
        "input": [_tensor(value) for value in model.graph.input],
        "output": [_tensor(value) for value in model.graph.output],
        "instance_group": [group],
        "model_warmup": [
            {
                "name": "the region that the network was trained on",
                "batch_size": 0,
                "inputs": [_warm_input(value, bundle) for value in model.graph.input],
            }
        ],
    }


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    dims = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in kind.shape.dim]
    return {"name": value.name, "data_type": Word(_TYPES[kind.elem_type]), "dims": dims}


def _warm_input(value: onnx.ValueInfoProto, bundle: Bundle) -> dict[str, Any]:
    sides = {axis: side for axis, side in zip("HWD", bundle.manifest.roi.default, strict=True)}
    sides |= {f"{axis}/2": side // 2 for axis, side in sides.items()} | {"B": 1, "N": _USUAL_POINTS, "K": 1}
    kind = value.type.tensor_type
    dims = [axis.dim_value if axis.HasField("dim_value") else sides[axis.dim_param] for axis in kind.shape.dim]
    return {
        "key": value.name,
        "value": {"data_type": Word(_TYPES[kind.elem_type]), "dims": dims, "zero_data": Word("true")},
    }


def _ensemble(name: str, prefix: str, encoder: onnx.ModelProto, product: onnx.ModelProto) -> dict[str, Any]:
    def step(model: str, given: list[str], gives: list[str]) -> dict[str, Any]:
        return {
            "model_name": f"{prefix}_{model}",
            "model_version": -1,
            "input_map": [{"key": tensor, "value": tensor} for tensor in given],
            "output_map": [{"key": tensor, "value": tensor} for tensor in gives],
        }

    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": 0,
        "input": [_tensor(encoder.graph.input[0]), _tensor(product.graph.input[1])],
        "output": [_tensor(product.graph.output[0])],
        "ensemble_scheduling": {
            "step": [
                step("class_encoder", ["image"], ["features"]),
                step("class_logits", ["features", "class_ids"], ["logits"]),
            ]
        },
    }


def _about(bundle: Bundle, precision: str) -> dict[str, str]:
    manifest = bundle.manifest
    return {
        "bundle": manifest.name,
        "bundle_sha256": bundle.sha256,
        "licence": manifest.licence,
        "precision": precision,
        "input_profile": manifest.profile.name,
        "region_multiple": str(manifest.roi.multiple),
    }


def _save(folder: Path, about: Mapping[str, str], config: dict[str, Any]) -> None:
    parameters = [{"key": key, "value": {"string_value": value}} for key, value in about.items()]
    lines = _lines({**config, "parameters": parameters})
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(message: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Protobuf's text format, one field a line; lists are repeated fields."""
    for name, value in message.items():
        values = value if isinstance(value, list) else [value]
        if values and not isinstance(values[0], dict) and isinstance(value, list):
            yield f"{indent}{name}: [{', '.join(map(_scalar, values))}]"
            continue
        for one in values:
            if isinstance(one, dict):
                yield f"{indent}{name} {{"
                yield from _lines(one, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {_scalar(one)}"


def _scalar(value: object) -> str:
    if isinstance(value, str) and not isinstance(value, Word):
        escaped = value.encode("unicode_escape").decode().replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)

"""Exports a checkpoint as a bundle: traces the graphs, compares them with torch, and then puts the bundle in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray

from gstk.core.bundle import Bundle, Manifest, RoiRules, refuse_existing, write_bundle
from gstk.core.class_vectors import CLASS_VECTORS_NAME, save_class_vectors
from gstk.core.drafts import draft_folder
from gstk.core.profile import InputProfile
from gstk.engines import Engine, available, open_engine
from gstk.engines.base import Sample
from gstk.errors import ExportError
from gstk.export.classes import (
    LEAST_INT8_AGREEMENT,
    class_cases,
    class_references,
    classes_to_compare,
    int8_agreement,
    measure_class_parity,
)
from gstk.export.graphs import class_encoder_graph, encoder_graph, prompt_decoder_graph
from gstk.export.half import to_fp16_graph
from gstk.export.input_rules import fitting_profile, roi_rules
from gstk.export.int8 import MOST_DROP, Int8Report, Scores, mean_score, quantise, restore_until
from gstk.export.onnx_writer import save_graph, store_weights_fp16, trace_graph
from gstk.export.parity import Parity, ParityCase, default_cases, measure_parity, reference_logits
from gstk.export.ranges import activation_ranges, check_ranges
from gstk.export.tolerances import REFERENCE
from gstk.export.vectors import VECTORS_NAME, save_vectors
from gstk.training.checkpoint import load_checkpoint, load_extra
from gstk.training.network import build_network, class_vectors
from gstk.training.run_profile import profile_from_json
from gstk.training.spec import VISTA3DSpec

__all__ = [
    "UNKNOWN_LICENCE",
    "Options",
    "QualityGate",
    "expected_steps",
    "export_bundle",
]

UNKNOWN_LICENCE = "unknown"
_RANGE_SAMPLES = 16


class QualityGate(Protocol):
    """Labelled cases for measuring INT8 and the ranges of FP16 by clicks (`ClickTrial` of evaluation)."""

    def scores(self, engine: Engine, roi: RoiRules) -> dict[str, list[float]]:
        """Case → mean Dice after each click."""

    def scores_and_samples(self, engine: Engine, roi: RoiRules) -> tuple[dict[str, list[float]], list[Sample]]:
        """The scores, and some of the inputs that the engine was run on."""


@dataclass(frozen=True)
class Options:
    """Options of an export, in addition to the float32 graphs.

    Attributes:
        half_weights: store the float32 graphs' weights as float16, in half the space. Computation stays float32 and is
            exact: a checkpoint is refused if float16 cannot represent its weights exactly.
        external_weights: store weights in separate files; weights of more than 1.8 GB always are.
        fp16: add graphs that compute in float16 (`gstk.export.half`).
        fp16_io: `fp16` or `fp32`, the type of the image, embedding and logits in the FP16 graphs.
        int8: add an encoder in INT8 (`gstk.export.int8`).
        refine: have sessions refine the logits with the image (`gstk.session.extras`), by a field of the manifest.
    """

    half_weights: bool = False
    external_weights: bool = False
    fp16: bool = False
    fp16_io: str = "fp16"
    int8: bool = False
    refine: bool = False


def expected_steps(options: Options, labelled_cases: int = 0) -> int:
    """Number of steps that an export reports if no activation of the INT8 encoder is restored to floating point.

    Args:
        options: what goes into the bundle.
        labelled_cases: number of cases in the quality gate; 0 without one.
    """
    engines = sum(backend.version is not None and backend.name != REFERENCE for backend in available())
    cases = len(default_cases(1))
    steps = 3 + cases  # loading, two traces, torch
    steps += (1 + options.fp16) * engines * cases
    steps += options.fp16 + options.int8
    scored = int(options.fp16 or options.int8) + options.int8 if labelled_cases else 0
    return steps + scored * (1 + labelled_cases)


def export_bundle(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    name: str | None = None,
    licence: str | None = None,
    profile: InputProfile | None = None,
    default_roi: Sequence[int] | None = None,
    options: Options | None = None,
    quality_gate: QualityGate | None = None,
    overwrite: bool = False,
    training: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Exports the interactive branch of a VISTA3D checkpoint.

    The graphs are compared with MONAI's original network in every installed CPU engine. If one of them does not agree,
    nothing is written.

    Args:
        checkpoint: see `gstk.training.checkpoint.load_checkpoint`.
        output: the bundle's folder.
        name: name of the model; None takes the checkpoint's file name.
        licence: licence of the weights, such as an SPDX identifier; None records that it is unknown.
        profile: what the network's input is (`gstk.core.profile`). None is right for what gstk itself made: a
            checkpoint of its training carries its profile; without one it is `challenge`, as its cases are, and a
            network smaller than VISTA3D's `tiny`.
        default_roi: sides of the region it was trained on, in voxels and in the network's axes; None is the profile's
            patch, or 128 each without a profile.
        options: what goes into the bundle; None is the float32 graphs alone.
        quality_gate: labelled cases. INT8 requires them; without them FP16 ranges are measured on generated textures.
        overwrite: replace an existing bundle.
        training: metadata for the manifest; None takes the `training` field that the checkpoint carries, if any.
        on_progress: called with a few words before each step.

    Raises:
        BundleError: the output exists.
        CheckpointError: the checkpoint cannot be loaded.
        ExportError: a network of full size has no profile, or one that does not fit it; `default_roi` is no region of
            this network, the trace failed, the graphs do not agree with torch,
            values come near the end of float16, INT8 costs too much, or the disk refused.
        BackendMissing: a package that the options need is not installed.
    """
    on_progress, options = on_progress or (lambda _: None), options or Options()
    checkpoint, output = Path(checkpoint), Path(os.path.abspath(output))
    refuse_existing(output, overwrite)
    if options.int8 and quality_gate is None:
        raise ExportError("got INT8 without labelled cases, expected some to take scales from and to score masks on")
    on_progress(f"loading {checkpoint.name}")
    spec, state = load_checkpoint(checkpoint)
    extra = load_extra(checkpoint)
    carried = profile_from_json(extra["profile"], checkpoint) if "profile" in extra else None
    profile = fitting_profile(profile, spec, state, default_roi, "training" in extra, carried)
    rules = roi_rules(spec, profile.patch)
    if spec.in_channels != 1:
        raise ExportError(
            f"got a network of {spec.in_channels} image channels, expected 1: the engines take one channel"
        )
    if training is None:
        training = extra.get("training") or {}
    network = build_network(spec).eval()
    network.load_state_dict(state, strict=False)
    del state
    if options.half_weights:
        _require_halves(network)
    manifest = Manifest(
        name=name or checkpoint.stem,
        licence=licence or UNKNOWN_LICENCE,
        created_by=f"gstk {version('gstk')}",
        architecture=spec.to_dict(),
        roi=rules,
        graphs={},
        profile=profile,
        refine=options.refine,
        zero_shot=True,
        ignored_points=True,
        vectors=VECTORS_NAME,
        training=training,
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Beside the output, so that files can be linked instead of copied.
        with draft_folder(output.parent) as work:
            return _Export(network, spec, manifest, work, options, quality_gate, on_progress).run(output, overwrite)
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error}") from error


@dataclass
class _Export:
    """One export: the files written so far and their measurements."""

    network: VISTA3D
    spec: VISTA3DSpec
    manifest: Manifest
    work: Path
    options: Options
    quality_gate: QualityGate | None
    on_progress: Callable[[str], None]
    sources: dict[str, Path] = field(default_factory=dict)
    parities: list[Parity] = field(default_factory=list)
    cases: tuple[ParityCase, ...] = ()
    references: Sequence[NDArray[np.float32]] = ()
    class_ids: tuple[int, ...] = ()
    class_references: Sequence[NDArray[np.float32]] = ()

    def run(self, output: Path, overwrite: bool) -> Bundle:
        models = {}
        for graph in (encoder_graph(self.network, self.spec), prompt_decoder_graph(self.network, self.spec)):
            self.on_progress(f"tracing the {graph.kind}")
            models[graph.kind] = trace_graph(graph)
        for kind, model in models.items():
            stored = model
            if self.options.half_weights:
                stored = model.clone()
                store_weights_fp16(stored)
            self._add(kind, "fp32", stored)
        self.cases = default_cases(self.manifest.roi.multiple)
        self.references = reference_logits(self.network, self.cases, self.on_progress)
        if "classes" in self.manifest.profile.branches:
            self.class_ids = classes_to_compare(self._trained_classes())
            self.on_progress("torch: classes")
            self.class_references = class_references(self.network, self._class_cases(), self.class_ids)
        self._save_vectors()
        self._agree("fp32")
        scores: Scores = {}
        samples = [Sample(*case.inputs()) for case in self.cases]
        if self.quality_gate is not None and (self.options.fp16 or self.options.int8):
            with self._engine("fp32") as engine:
                scores, samples = self.quality_gate.scores_and_samples(engine, self.manifest.roi)
        if self.options.fp16:
            self._halve(models, samples)
        if self.options.int8:
            self._quantise(models["encoder"], samples, scores)
        by_class = self._classes(samples) if self.class_ids else {}
        parity = {
            "reference": f"MONAI {version('monai')} VISTA3D.forward, torch {torch.__version__}, float32 on the CPU",
            "cases": [case.to_json() for case in self.cases],
            "max_abs_logit": self.parities[0].max_abs_logit,
            "precisions": {parity.precision: parity.to_json() for parity in self.parities},
            **by_class,
        }
        return write_bundle(output, replace(self.manifest, parity=parity), self.sources, overwrite=overwrite)

    def _classes(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Adds the class graph in every precision; returns its agreement with torch, for the manifest."""
        self.on_progress("tracing the class_encoder")
        model = trace_graph(class_encoder_graph(self.network, self.spec))
        vectors = class_vectors(self.network).numpy().astype(np.float32)
        save_class_vectors(self.work / CLASS_VECTORS_NAME, vectors)
        self.sources[CLASS_VECTORS_NAME] = self.work / CLASS_VECTORS_NAME
        self.manifest = replace(self.manifest, class_vectors=CLASS_VECTORS_NAME)
        stored = model
        if self.options.half_weights:
            stored = model.clone()
            store_weights_fp16(stored)
        self._add("class_encoder", "fp32", stored)
        images = list({id(sample.image): sample.image for sample in samples}.values())[:_RANGE_SAMPLES]
        if self.options.fp16:
            half = model.clone()
            check_ranges(activation_ranges({"class_encoder": half}, images))
            to_fp16_graph(half, self.options.fp16_io)
            self._add("class_encoder", "fp16", half)
        if self.options.int8:
            self._quantise_classes(model, images, vectors[self._trained_classes()])
        draft = self._draft()
        precisions = ["fp32", *(["fp16"] if self.options.fp16 else [])]
        return {
            "classes": {
                precision: measure_class_parity(
                    draft, self._class_cases(), self.class_references, self.class_ids, precision, self.on_progress
                )
                for precision in precisions
            }
        }

    def _trained_classes(self) -> list[int]:
        table = self.manifest.profile.classes
        return [k for k in table.names if k not in table.groups and k not in table.untrained]

    def _class_cases(self) -> tuple[ParityCase, ...]:
        return class_cases(self.manifest.roi.multiple)

    def _save_vectors(self) -> None:
        """Writes the test vectors, of the smallest cases alone: together they take a few hundred kilobytes."""
        small = sorted(range(len(self.cases)), key=lambda i: self.references[i].size)[:2]
        save_vectors(
            self.work / VECTORS_NAME,
            [self.cases[i].inputs() for i in small],
            [self.references[i] for i in small],
            self.class_ids,
            [case.inputs()[0] for case in self._class_cases()] if self.class_ids else [],
            self.class_references,
        )
        self.sources[VECTORS_NAME] = self.work / VECTORS_NAME

    def _quantise_classes(
        self, model: ir.Model, images: Sequence[NDArray[np.float32]], vectors: NDArray[np.float32]
    ) -> None:
        """Adds the INT8 class encoder; if it changes too many voxels, the float32 graph takes its place."""
        self.on_progress(f"INT8 of the class_encoder: taking scales from {len(images)} regions")
        self._add("class_encoder", "int8", quantise(model, images))
        with self._engine("fp32") as exact, self._engine("int8") as quantised:
            agreement = int8_agreement(exact, quantised, images[:4], vectors)
        kept = agreement >= LEAST_INT8_AGREEMENT
        if not kept:
            self._enter("class_encoder", "int8", self.manifest.graphs["class_encoder"]["fp32"])
            self.sources.pop("class_encoder.int8.onnx")
        self._report("int8_classes", {"agreement": agreement, "least": LEAST_INT8_AGREEMENT, "kept": kept})

    def _halve(self, models: Mapping[str, ir.Model], samples: Sequence[Sample]) -> None:
        self.on_progress("measuring how large values get")
        ranges = activation_ranges(models, samples[:_RANGE_SAMPLES])
        check_ranges(ranges)
        for kind, model in models.items():
            half = model.clone()
            to_fp16_graph(half, self.options.fp16_io)
            self._add(kind, "fp16", half)
        measured_on = "generated textures" if self.quality_gate is None else "regions of labelled cases"
        self._report(
            "fp16", {"io": self.options.fp16_io, "measured_on": measured_on, "largest_magnitude_by_layer": ranges}
        )
        self._agree("fp16")

    def _quantise(self, model: ir.Model, samples: Sequence[Sample], float_scores: Scores) -> None:
        assert self.quality_gate is not None
        quality_gate, scores = self.quality_gate, dict[str, list[float]]()
        images = list({id(sample.image): sample.image for sample in samples}.values())
        self.on_progress(f"INT8: taking scales from {len(images)} regions")
        quantised = quantise(model, images)
        restored: tuple[str, ...] = ()

        def accepts(candidate: ir.Model) -> bool:
            nonlocal scores
            self._add("encoder", "int8", candidate)
            self._enter("prompt_decoder", "int8", self.manifest.graphs["prompt_decoder"]["fp32"])
            with self._engine("int8") as engine:
                scores = quality_gate.scores(engine, self.manifest.roi)
            return mean_score(float_scores) - mean_score(scores) <= MOST_DROP

        if not accepts(quantised):
            first = mean_score(float_scores) - mean_score(scores)
            found = restore_until(quantised, model, images, accepts, self.on_progress)
            if found is None:
                raise ExportError(
                    f"INT8 costs {first:.3f} of Dice, expected at most {MOST_DROP}, even with half of its "
                    "activations in floating point; export without --int8"
                )
            quantised, restored = found
        count = sum(node.op_type == "QuantizeLinear" for node in quantised.graph)
        self._report("int8", Int8Report(scores, float_scores, restored, count, len(images)).to_json())

    def _add(self, kind: str, precision: str, model: ir.Model) -> None:
        """Writes a graph and adds it to the manifest; it replaces a graph of the same kind and precision."""
        name = f"{kind}.onnx" if precision == "fp32" else f"{kind}.{precision}.onnx"
        (self.work / name).unlink(missing_ok=True)  # a draft may link to it
        for file in save_graph(model, self.work / name, self.options.external_weights):
            self.sources[file.name] = file
        self._enter(kind, precision, name)

    def _enter(self, kind: str, precision: str, name: str) -> None:
        graphs = {known: dict(files) for known, files in self.manifest.graphs.items()}
        graphs.setdefault(kind, {})[precision] = name
        self.manifest = replace(self.manifest, graphs=graphs)

    def _report(self, precision: str, report: Mapping[str, Any]) -> None:
        self.manifest = replace(self.manifest, reports={**self.manifest.reports, precision: report})

    def _draft(self) -> Bundle:
        return write_bundle(self.work / "draft", self.manifest, self.sources, overwrite=True)

    def _engine(self, precision: str) -> Engine:
        self.on_progress(f"opening the {precision} graphs")
        return open_engine(self._draft(), precision=precision)

    def _agree(self, precision: str) -> None:
        parity = measure_parity(self._draft(), self.cases, self.references, precision, on_progress=self.on_progress)
        if parity.faults:
            raise ExportError(f"the graphs do not agree with torch: {'; '.join(parity.faults)}; nothing was written")
        self.parities.append(parity)


def _require_halves(network: VISTA3D) -> None:
    inexact = [
        name
        for name, value in network.state_dict().items()
        if value.is_floating_point() and not torch.equal(value, value.half().to(value.dtype))
    ]
    if inexact:
        raise ExportError(
            f"got {len(inexact)} weights that float16 does not hold exactly (first: {inexact[0]}), expected none; "
            "round the checkpoint first, or export without half weights"
        )

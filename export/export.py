"""From a checkpoint to a bundle: trace, write, compare with torch, and only then put it in place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets.vista3d import VISTA3D

from gstk.errors import ExportError
from gstk.export.bundle import Bundle, Manifest, RoiRules, refuse_existing, write_bundle
from gstk.export.graphs import encoder_graph, prompt_decoder_graph
from gstk.export.onnx_writer import write_onnx
from gstk.export.parity import measure_parity
from gstk.training.checkpoint import load_checkpoint, load_extra
from gstk.training.network import build_network
from gstk.training.spec import SPECIAL_CLASSES, VISTA3DSpec

__all__ = ["DEFAULT_ROI_SIDE", "UNKNOWN_LICENCE", "export_bundle", "roi_rules"]

DEFAULT_ROI_SIDE = 128
"""Side of the region that VISTA3D is trained on, in voxels."""
UNKNOWN_LICENCE = "unknown"


def export_bundle(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    name: str | None = None,
    licence: str | None = None,
    default_roi: Sequence[int] | None = None,
    half_weights: bool = False,
    overwrite: bool = False,
    training: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Exports the interactive branch of a VISTA3D checkpoint.

    The graphs are compared with MONAI's own network in every CPU engine that is installed. Where one of them does not
    agree, nothing is written.

    Args:
        checkpoint: see `gstk.training.checkpoint.load_checkpoint`.
        output: the bundle's folder.
        name: of the model; None takes the checkpoint's file name.
        licence: of the weights, such as an SPDX identifier; None records that it is unknown.
        default_roi: (z, y, x) sides of the region it was trained on, in voxels; None is 128 each.
        half_weights: store the weights as float16, in half the space. Computation stays float32, and nothing is lost:
            a checkpoint whose weights float16 does not hold exactly is refused.
        overwrite: replace an existing bundle.
        training: metadata for the manifest; None takes the `training` field that the checkpoint carries, if any.
        progress: called with a few words before each step.

    Raises:
        BundleError: the output exists.
        CheckpointError: the checkpoint cannot be loaded.
        ExportError: `default_roi` is no region of this network, the trace failed, the graphs do not agree with torch,
            or the disk refused.
    """
    say = progress or (lambda _: None)
    checkpoint, output = Path(checkpoint), Path(os.path.abspath(output))
    refuse_existing(output, overwrite)
    say(f"loading {checkpoint.name}")
    spec, state = load_checkpoint(checkpoint)
    rules = roi_rules(spec, default_roi)
    if spec.in_channels != 1:
        raise ExportError(
            f"got a network of {spec.in_channels} image channels, expected 1: the engines take one channel"
        )
    if training is None:
        training = load_extra(checkpoint).get("training") or {}
    network = build_network(spec).eval()
    network.load_state_dict(state, strict=False)
    if half_weights:
        _require_halves(network)
    manifest = Manifest(
        name=name or checkpoint.stem,
        licence=licence or UNKNOWN_LICENCE,
        created_by=f"gstk {version('gstk')}",
        architecture=spec.to_dict(),
        roi=rules,
        graphs={kind: {"fp32": f"{kind}.onnx"} for kind in ("encoder", "prompt_decoder")},
        special_classes=SPECIAL_CLASSES,
        training=training,
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Beside the output, so that files reach it by a link and not by another copy.
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as work:
            return _export(network, spec, manifest, Path(work), output, half_weights, overwrite, say)
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error}") from error


def roi_rules(spec: VISTA3DSpec, default: Sequence[int] | None = None) -> RoiRules:
    """Which regions a network takes.

    Args:
        spec: its architecture.
        default: (z, y, x) voxels; None is a cube of 128.

    Raises:
        ExportError: a side of `default` is no multiple, or too small.
    """
    multiple = spec.roi_multiple
    # With two voxels a side at the deepest level its instance norms have eight to take a variance of; with one, none.
    minimum = 2 * multiple
    sides = tuple(int(side) for side in default) if default is not None else (max(DEFAULT_ROI_SIDE, minimum),) * 3
    if len(sides) != 3 or any(side % multiple or side < minimum for side in sides):
        raise ExportError(
            f"got a default region of {sides}, expected three multiples of {multiple} of at least {minimum}, (z, y, x)"
        )
    return RoiRules(multiple, minimum, (sides[0], sides[1], sides[2]))


def _export(
    network: VISTA3D,
    spec: VISTA3DSpec,
    manifest: Manifest,
    work: Path,
    output: Path,
    half_weights: bool,
    overwrite: bool,
    say: Callable[[str], None],
) -> Bundle:
    sources: dict[str, Path] = {}
    for graph in (encoder_graph(network, spec), prompt_decoder_graph(network, spec)):
        say(f"tracing the {graph.kind}")
        sources |= {file.name: file for file in write_onnx(graph, work, half_weights)}
    draft = write_bundle(work / "draft", manifest, sources)
    parity = measure_parity(network, draft, progress=say)
    if parity.faults:
        raise ExportError(f"the graphs do not agree with torch: {'; '.join(parity.faults)}; nothing was written")
    return write_bundle(output, replace(manifest, parity=parity.to_json()), sources, overwrite=overwrite)


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

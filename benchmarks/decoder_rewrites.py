"""Seconds of a click's decode on OpenVINO without and with each rewrite of the decoder, in turn.

    python benchmarks/decoder_rewrites.py [--bundle full_fp32] [--side 128] [--rounds 7] [--out FILE.json]

The decoder of a bundle, one object, one click, a random embedding. `before` turns image tokens to channels first and
back, has its softmaxes over the last axis, 27 maps of all voxels, a variance of differences, and adds a number to one
voxel at a time. `rows` has image tokens and softmaxes as `engines/openvino_attention.py` says, but for the product with
the identity; `folded` also what `openvino_fold.py` says, `squares` also the variance of `openvino_norm.py`, and `now`
is what gstk runs. Every round runs all of them one after the other, so that a slow minute meets all alike; processor
seconds tell what is saved where others use the machine. Logits are compared with those of `before`. `bf16` computes all
of the decoder in bfloat16, which gstk does not: how much time that would save, and how many voxels' sides it changes.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from machine import describe, write_report

from gstk.core.bundle import Bundle, find_bundle
from gstk.engines import openvino, openvino_fold, openvino_graphs, openvino_layout
from gstk.engines.openvino_attention import upsample_tokens
from gstk.engines.openvino_layout import TO_FIRST
from gstk.engines.openvino_norm import split_instance_norms


def _with_transpose(model: Any) -> int:
    """`upsample_tokens`, with a transpose for any region as for one of fixed sides."""
    from openvino import opset13 as ops

    rewritten = upsample_tokens(model)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ConvolutionBackpropData":
            continue
        product = node.input_value(0).get_node().input_value(0).get_node()
        sizes = ops.shape_of(model.input("embedding").get_node())
        voxels = ops.reshape(product.input_value(1), sizes, special_zero=False)
        node.input(0).replace_source_output(ops.transpose(voxels, np.array(TO_FIRST, np.int64)).output(0))
    model.validate_nodes_and_infer_types()
    return rewritten


REWRITES: dict[str, tuple[Any, str, Any]] = {
    "tokens": (openvino_layout, "_flattens", lambda *_: False),
    "upsampling": (openvino_graphs, "upsample_tokens", lambda model: 0),
    "rows": (openvino_graphs, "softmax_over_rows", lambda model: 0),
    "shift": (openvino_fold, "_shift_of", lambda *_: None),
    "row": (openvino_graphs, "add_to_row", lambda model: 0),
    "squares": (
        openvino_graphs,
        "split_instance_norms",
        lambda model, multiple, *_: split_instance_norms(model, multiple),
    ),
    "identity": (openvino_graphs, "upsample_tokens", _with_transpose),
}
"""What takes the place of each rewrite that a variant is without."""
OFF = {
    "before": ("tokens", "upsampling", "rows", "shift", "row", "squares"),
    "rows": ("shift", "row", "squares", "identity"),
    "folded": ("squares", "identity"),
    "squares": ("identity",),
    "now": (),
    "bf16": (),
}


def request(bundle: Bundle, variant: str) -> Any:
    """An infer request of a decoder."""
    core, manifest = openvino.shared_core(), bundle.manifest
    with ExitStack() as stack:
        for name in OFF[variant]:
            stack.enter_context(patch.object(*REWRITES[name]))
        file = bundle.graph("prompt_decoder", "fp32")
        model = openvino_graphs.read_model(core, file, True, None, manifest.roi.multiple, manifest.ignored_points, None)
    precision = "bf16" if variant == "bf16" else "f32"
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    return core.compile_model(model, "CPU", config).create_infer_request()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    bundle = Bundle.open(find_bundle(arguments.bundle), verify=False)
    variants = [name for name in OFF if name != "bf16" or openvino.computes_bf16()]
    requests = {name: request(bundle, name) for name in variants}
    half = arguments.side // 2
    width = int(bundle.manifest.architecture["width"])
    embedding = np.random.default_rng(0).standard_normal((1, half, half, half, width)).astype(np.float32)
    given = [embedding, np.full((1, 4, 3), half, np.float32), np.array([[1, -2, -2, -2]])]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    logits: dict[str, np.ndarray] = {}
    for _ in range(1 + arguments.rounds):
        for name, infer_request in requests.items():
            began = time.perf_counter(), time.process_time()
            infer_request.infer(given, share_inputs=True)
            seconds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
            logits[name] = infer_request.get_output_tensor(0).data.copy()
    report: dict[str, Any] = {
        "machine": describe("openvino"),
        "bundle": bundle.manifest.name,
        "width": width,
        "side": arguments.side,
        "rounds": arguments.rounds,
        "variants": {},
    }
    wanted = logits["before"]
    for name, found in seconds.items():
        wall, processor = (median(each) for each in zip(*found[1:], strict=True))
        report["variants"][name] = {
            "wall_s": wall,
            "processor_s": processor,
            "max_abs_error": float(np.abs(logits[name] - wanted).max()),
            "max_abs_logit": float(np.abs(wanted).max()),
            "voxels_on_the_same_side": float(((logits[name] > 0) == (wanted > 0)).mean()),
        }
    write_report(report, arguments.out)


if __name__ == "__main__":
    main()

"""FLOPs and bytes of each stage of a bundle's graphs, from the graphs themselves; writes the table of docs/costs.md.

    python benchmarks/stage_costs.py BUNDLE [--side 128] [--points 1] [--out docs/costs.md]

Two FLOPs a multiply-add; norms, softmax, Gelu and sines count 8 an element, other arithmetic 1. Bytes are those
of all inputs and outputs of each operator in the graph's own types: what an engine moves that fuses nothing.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from gstk.core.bundle import Bundle, find_bundle
from gstk.export.check import graph_shapes

HEAVY = {"InstanceNormalization", "LayerNormalization", "Softmax", "Gelu", "Sin", "Cos"}
MOVES = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Expand", "Concat", "Shape", "Cast", "Range"}
PARTS = {
    "image_encoder.encoder": "down path",
    "image_encoder.up_layers": "up path",
    "feat_downsample": "embedding",
    "transformer": "attention",
    "hyper": "hypernetwork",
    "upsample": "upsampling",
    "last_conv": "taps",
}
"""In the names of weights → stage."""
BYTES = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.INT64: 8, onnx.TensorProto.INT8: 1}


def flops(node: Any, shapes: Mapping[str, Any]) -> float:
    """Of one operator."""
    output = math.prod(shapes[node.output[0]] or ())
    if node.op_type == "Conv":
        return 2.0 * output * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return 2.0 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return 2.0 * output * shapes[node.input[0]][-1]
    if node.op_type in MOVES:
        return 0.0
    return output * (8.0 if node.op_type in HEAVY else 1.0)


def stages(model: Any) -> list[str]:
    """Which part of the network each operator belongs to; one without weights goes with those before it."""
    found, current = [], "prompts and positions"
    weights = {initializer.name for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Cast" or node.input[0] not in weights:
            names = " ".join(node.input)
            current = next((label for part, label in PARTS.items() if part in names), current)
            if current == "upsampling" and node.op_type == "Reshape":
                current = "taps"
        found.append(current)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--points", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    bundle = Bundle.open(find_bundle(arguments.bundle), verify=False)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for kind in ("encoder", "prompt_decoder"):
        path = bundle.graph(kind, arguments.precision)
        model = onnx.load(str(path), load_external_data=False)
        shapes, types = graph_shapes(model, (arguments.side,) * 3, arguments.points)
        for node, label in zip(model.graph.node, stages(model), strict=True):
            row = sums[f"{kind}: {label}"]
            row[0] += 1
            row[1] += flops(node, shapes)
            if node.op_type != "Shape":
                touched = [n for n in (*node.input, *node.output) if n and shapes.get(n) is not None]
                row[2] += sum(math.prod(shapes[n]) * BYTES.get(types.get(n, 1), 4) for n in touched)
    lines = ["| stage | operators | GFLOP | GB moved |", "|---|---|---|---|"]
    lines += [f"| {name} | {count:.0f} | {f / 1e9:.3g} | {b / 1e9:.3g} |" for name, (count, f, b) in sums.items()]
    total = [sum(values) for values in zip(*sums.values(), strict=True)]
    lines.append(f"| all | {total[0]:.0f} | {total[1] / 1e9:.4g} | {total[2] / 1e9:.3g} |")
    print("\n".join(lines))
    if arguments.out:
        text = arguments.out.read_text(encoding="utf-8")
        before, rest = text.split("<!-- table -->\n", 1)
        after = rest.split("<!-- end -->", 1)[1]
        arguments.out.write_text(f"{before}<!-- table -->\n" + "\n".join(lines) + f"\n<!-- end -->{after}", "utf-8")


if __name__ == "__main__":
    main()

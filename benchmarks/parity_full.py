"""MONAI's VISTA3D against the exported graphs in every CPU engine, at full depth and two widths; writes JSON.

    python benchmarks/parity_full.py [--widths 8 48] [--side 128] [--out benchmarks/results/parity.json]

Weights are random, from a fixed seed, and so are norms and biases: nothing can agree because it is 0 or 1. The regions
are 64³ and 64×48×80, with one and three objects, one and five points (the fifth is padding). One region of `--side`³
follows, to show how rounding grows with the number of voxels. Width 48 takes some minutes and 8 GB.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import describe
from rich.console import Console
from rich.table import Table

from gstk.core.bundle import Bundle
from gstk.core.profile import find_profile
from gstk.export.export import export_bundle
from gstk.export.parity import ParityCase, measure_parity, reference_logits
from gstk.training.checkpoint import load_network, save_checkpoint
from gstk.training.network import build_network
from gstk.training.spec import VISTA3DSpec

SEED = 20240
PACKAGES = ("torch", "monai", "onnx", "onnxscript", "openvino", "onnxruntime")
CASES = tuple(
    ParityCase(roi, objects, points)
    for roi, objects, points in itertools.product(((64, 64, 64), (64, 48, 80)), (1, 3), (1, 5))
)


def write_checkpoint(path: Path, width: int) -> None:
    torch.manual_seed(SEED)
    spec = VISTA3DSpec(width=width)
    network = build_network(spec)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.normal_(0.5, 0.3)
    save_checkpoint(path, network, spec)


def measure(width: int, side: int, console: Console) -> dict[str, Any]:
    """Exports one network and compares it; a fault is recorded and does not stop the rest."""
    with tempfile.TemporaryDirectory() as folder, console.status(f"width {width}") as status:
        checkpoint = Path(folder) / f"vista3d_width{width}.pt"
        write_checkpoint(checkpoint, width)

        def on_progress(words: str) -> None:
            status.update(f"width {width}: {words}")

        bundle: Bundle = export_bundle(
            checkpoint, Path(folder) / "bundle", profile=find_profile("challenge"), on_progress=on_progress
        )
        network = load_network(checkpoint)
        result: dict[str, Any] = {"width": width, "bundle_bytes": bundle.size_bytes}
        for part, cases in (("main", CASES), ("large", (ParityCase((side,) * 3, 1, 5),))):
            parity = measure_parity(
                bundle, cases, reference_logits(network, cases, on_progress), on_on_progress=on_progress
            )
            result[part] = {
                "max_abs_logit": parity.max_abs_logit,
                "cases": [case.to_json() for case in cases],
                **parity.to_json(),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 48])
    parser.add_argument("--side", type=int, default=128, help="side of the large region, a multiple of 16")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "parity.json")
    arguments = parser.parse_args()
    console = Console()
    results = [measure(width, arguments.side, console) for width in arguments.widths]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"seed": SEED, "machine": describe(*PACKAGES), "results": results}, indent=1) + "\n"
    )
    table = Table("width", "region", "engine", "largest error", "allowed", "largest logit")
    for result in results:
        for name, region in (("main", "64³ and 64×48×80"), ("large", f"{arguments.side}³")):
            parity = result[name]
            for engine, found in parity["engines"].items():
                row = (found["max_abs_error"], parity["tolerance"], parity["max_abs_logit"])
                table.add_row(str(result["width"]), region, engine, *(f"{value:.2g}" for value in row))
    console.print(table)


if __name__ == "__main__":
    main()

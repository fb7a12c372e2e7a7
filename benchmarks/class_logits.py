"""How far logits of classes and clicks are from `VISTA3D.forward`, engine by engine, and which side the rounding is on.

    python benchmarks/class_logits.py --raw DIR --checkpoint FILE --bundle DIR --network small|full [--sides 64 96]

One patch of each CT in `--raw` goes through torch in float32 and, as the truth, in float64, and through the FP32 graph
for classes in every engine. Errors are over the classes of "everything"; `relative` are the largest over the largest
logit. Clicks are one point in the middle, beside torch in float32 alone, since MONAI's own point head computes in that.
`monai_parity.py` makes checkpoint and bundle. Writes JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import add_to_report, describe
from monai_parity import profile_for
from numpy.typing import NDArray
from parity_inputs import is_ct

import gstk
from gstk.core.network_image import NetworkImage
from gstk.engines import open_engine
from gstk.training.checkpoint import load_network

ENGINES = ("openvino", "onnxruntime")


def patches(raw: Path, network: str, side: int) -> dict[str, NDArray[np.float32]]:
    """The middle of each CT as the network is given it, [1,1,H,W,D]."""
    profile = profile_for("nv-segment-ct", network)
    found = {}
    for path in sorted(raw.iterdir()):
        volume = gstk.read_volume(path)
        if not is_ct(volume):
            continue
        source = NetworkImage.prepare(volume, profile)
        window = source.training_window([n // 2 for n in volume.image.shape])
        assert window is not None
        patch = source.sample(window)
        first = [(n - side) // 2 for n in patch.shape[2:]]
        inner = tuple(slice(a, a + side) for a in first)
        found[path.name] = np.ascontiguousarray(patch[(0, 0, *inner)][None, None])
    return found


def logits_of(vectors: NDArray[Any], features: NDArray[Any]) -> NDArray[Any]:
    return (vectors @ features.reshape(len(features), -1)).reshape(len(vectors), *features.shape[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--network", choices=("small", "full"), required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=[64])
    parser.add_argument("--volumes", type=int, default=2)
    parser.add_argument("--most-exact-side", type=int, default=96, help="float64 up to this side; it takes memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "class_logits.json")
    arguments = parser.parse_args()
    network = load_network(arguments.checkpoint).eval()
    ids = list(profile_for("nv-segment-ct", arguments.network).classes.expand(["everything"]))
    vector = torch.tensor(ids)[:, None]
    rows = []
    for side in arguments.sides:
        for name, patch in list(patches(arguments.raw, arguments.network, side).items())[: arguments.volumes]:
            row: dict[str, Any] = {"volume": name, "side": side}
            with torch.no_grad():
                torchs = network(torch.from_numpy(patch), class_vector=vector)[:, 0].numpy()
                exact = None
                if side <= arguments.most_exact_side:
                    double = network.double()
                    exact = double(torch.from_numpy(patch).double(), class_vector=vector)[:, 0].numpy()
                    network.float()
                points = np.full((1, 1, 3), side // 2, np.float32), np.ones((1, 1), np.int64)
                coords, labels = (torch.from_numpy(values) for values in points)
                clicked = network(torch.from_numpy(patch), point_coords=coords, point_labels=labels).numpy()
            row["largest_logit"] = float(np.abs(torchs).max())
            row["largest_logit_of_click"] = float(np.abs(clicked).max())
            if exact is not None:
                row["torch float32 from float64"] = float(np.abs(torchs - exact).max())
            for engine_name in ENGINES:
                with open_engine(arguments.bundle, engine_name, "fp32", torch.get_num_threads()) as engine:
                    logits = logits_of(engine.class_vectors()[ids], engine.class_features(patch))
                    click = engine.decode(engine.encode(patch), *points)
                row[f"{engine_name} from torch, click"] = float(np.abs(click - clicked).max())
                row[f"{engine_name} from torch"] = float(np.abs(logits - torchs).max())
                row[f"{engine_name} from torch, mean"] = float(np.abs(logits - torchs).mean())
                if exact is not None:
                    row[f"{engine_name} from float64"] = float(np.abs(logits - exact).max())
                del logits
            errors = [key for key in row if " from " in key and not key.endswith("mean")]
            largest = {False: row["largest_logit"], True: row["largest_logit_of_click"]}
            row["relative"] = {key: row[key] / largest[key.endswith("click")] for key in errors}
            print(json.dumps(row, indent=1), flush=True)
            rows.append(row)
    result = {"machine": describe("torch", "openvino", "onnxruntime"), "rows": rows}
    add_to_report(arguments.network, result, arguments.out)


if __name__ == "__main__":
    main()

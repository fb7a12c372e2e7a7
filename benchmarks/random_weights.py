"""Random weights whose masks are not trivial, and bundles of them: what pipelines are compared with where NVIDIA's
weights may not be.

Fresh weights give logits around 0 by chance, on nearly all of an image or nearly none of it. Here the last layer of
each branch is moved until a part of one image is foreground: the bias of the point head's last convolution, along the
direction that its hypernetwork reads, until `POINTS_SHARE` of the logits of some clicks are above 0; the bias of the
class vectors, along the direction in which all voxels' features agree, until any of the classes is above 0 on
`CLASSES_SHARE` of the voxels. Nothing else changes, so that logits have the spread that fresh weights give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSES_SHARE", "POINTS_SHARE", "add_int8", "balance", "write_checkpoint"]

POINTS_SHARE = 0.4
"""Share of the voxels above 0 for a click."""
CLASSES_SHARE = 0.45
"""Share of the voxels above 0 for any class of "everything"."""
SEED = 7


def balance(network: Any, image: NDArray[np.float32], class_ids: Sequence[int]) -> dict[str, float]:
    """Moves the last layers of a VISTA3D network, in place.

    Args:
        network: with fresh weights.
        image: float32 [1,1,H,W,D], 0 to 1, of which a part becomes foreground.
        class_ids: those that are segmented together.

    Returns:
        The shares that are foreground afterwards.
    """
    import torch

    from gstk.training.network import ClassEncoder, Encoder, PromptDecoder, class_vectors

    rng = np.random.default_rng(SEED)
    shape = np.array(image.shape[2:])
    tensor = torch.from_numpy(image)
    clicks = [torch.from_numpy(rng.uniform(0.3, 0.7, 3) * shape).float()[None, None] for _ in range(3)]
    label = torch.ones((1, 1), dtype=torch.int64)
    hyper: list[Any] = []
    with torch.no_grad():
        embedding, decoder = Encoder(network)(tensor), PromptDecoder(network)
        handle = network.point_head.output_hypernetworks_mlps.register_forward_hook(
            lambda _module, _inputs, output: hyper.append(output.reshape(-1))
        )
        logits = torch.cat([decoder(embedding, click, label).flatten() for click in clicks])
        handle.remove()
        direction = torch.stack(hyper).mean(dim=0)
        cut = float(np.quantile(logits[::7].numpy(), 1 - POINTS_SHARE))
        network.point_head.output_upscaling[3].bias -= cut * direction / direction.square().sum()
        logits = torch.cat([decoder(embedding, click, label).flatten() for click in clicks])

        features = ClassEncoder(network)(tensor)[0].flatten(1)[:, ::5]
        gram = features @ features.T / features.shape[1]
        ones = torch.linalg.solve(gram + 1e-6 * gram.trace() * torch.eye(len(gram)), features.mean(dim=1))
        last = network.class_head.mlp[3]
        mean = features.mean(dim=1)
        last.weight -= torch.outer(mean, mean @ last.weight) / mean.square().sum()
        last.bias -= mean * (mean @ last.bias) / mean.square().sum()
        ids = list(class_ids)
        largest = (class_vectors(network)[ids] @ features).amax(dim=0)
        # Along `ones` a voxel's logit falls by what it has there, nearly 1: so the quantile is of the ratio.
        last.bias -= ones * float(np.quantile((largest / (ones @ features)).numpy(), 1 - CLASSES_SHARE))
        classes = class_vectors(network)[ids] @ features
    return {
        "points": float((logits > 0).float().mean()),
        "everything": float((classes.amax(dim=0) > 0).float().mean()),
        "largest_class": float((classes > 0).float().mean(dim=1).max()),
    }


def write_checkpoint(path: Path, spec: Any, image: NDArray[np.float32], class_ids: Sequence[int]) -> dict[str, float]:
    """A balanced network of some architecture as a checkpoint; returns as `balance`."""
    import torch

    from gstk.training.checkpoint import save_checkpoint
    from gstk.training.network import build_network

    torch.manual_seed(SEED)
    network = build_network(spec).eval()
    shares = balance(network, image, class_ids)
    save_checkpoint(path, network, spec)
    return shares


def add_int8(source: Path, output: Path, images: Sequence[NDArray[np.float32]]) -> None:
    """A copy of a bundle with its encoders in INT8; no masks are judged, since random weights make none of worth.

    Args:
        source: a bundle with float32 graphs.
        output: the other.
        images: float32 [1,1,H,W,D], from which the scales are taken.
    """
    import tempfile

    import onnx_ir as ir

    from gstk.core.bundle import Bundle, write_bundle
    from gstk.export.int8 import quantise

    bundle = Bundle.open(source, verify=False)
    graphs = {kind: dict(files) for kind, files in bundle.manifest.graphs.items()}
    sources = {name: bundle.path / name for name in bundle.manifest.files}
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        for kind in ("encoder", "class_encoder"):
            if kind not in graphs:
                continue
            file = Path(folder) / f"{kind}.int8.onnx"
            ir.save(quantise(ir.load(bundle.graph(kind)), images), file)
            graphs[kind]["int8"], sources[file.name] = file.name, file
        graphs["prompt_decoder"]["int8"] = graphs["prompt_decoder"]["fp32"]
        write_bundle(output, replace(bundle.manifest, graphs=graphs), sources)

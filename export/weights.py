"""Restores a network from a bundle's weights, so that a bundle can be compared with torch without its checkpoint.

The export folds, transposes and renames weights. To invert that, a network of the same architecture with random weights
is traced: the place of each random value in the graph tells where the bundle's value belongs. The bundle's test vectors
then verify the result.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import torch
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray

from gstk.core.bundle import GRAPH_KINDS, Bundle
from gstk.errors import ExportError
from gstk.export.graphs import encoder_graph, prompt_decoder_graph
from gstk.export.onnx_writer import trace_graph
from gstk.export.vectors import load_vectors
from gstk.training.network import Encoder, PromptDecoder, build_network
from gstk.training.spec import VISTA3DSpec

__all__ = ["network_of_bundle"]

TOLERANCE = 1e-4
"""Largest difference of a logit on the bundle's test vectors, over the largest logit."""
_SMALL = 65536
"""Only parts of tensors up to this size are looked for one row at a time."""
_REMEDY = "give the checkpoint that it was exported from with --checkpoint"

Array = NDArray[np.float32]


def network_of_bundle(bundle: Bundle) -> VISTA3D:
    """The network that a bundle was exported from, float32 on the CPU, in evaluation mode.

    Two groups of weights are 0: biases without effect, which the export drops, and weights that the interactive branch
    does not use.

    Raises:
        ExportError: the weights cannot be restored: another exporter made the bundle, or it has no test vectors.
    """
    spec = VISTA3DSpec.from_dict(bundle.manifest.architecture)
    random = build_network(spec).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for number, tensor in enumerate(random.state_dict().values()):
            if tensor.is_floating_point():
                # Whole numbers in random order: no two alike in a tensor, and each tensor begins with another.
                order = torch.randperm(tensor.numel(), generator=generator) + number
                tensor.copy_(order.reshape(tensor.shape))
    known = {name: value.numpy() for name, value in random.state_dict().items() if value.is_floating_point()}
    found: dict[str, Array] = {}
    manifest = bundle.manifest
    decoder = prompt_decoder_graph(random, spec, manifest.zero_shot, manifest.ignored_points)
    graphs = (encoder_graph(random, spec), decoder)
    for kind, graph in zip(GRAPH_KINDS, graphs, strict=True):
        traced = dict(_weights(trace_graph(graph)))
        exported = dict(_weights(ir.load(bundle.graph(kind))))
        index = _Index(known)
        for name, random_value in traced.items():
            if name in exported and exported[name].shape == random_value.shape:
                index.put_back(random_value, exported[name], found)
    network = build_network(spec).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(found[name]) if name in found else torch.zeros(()))
    _check(network, bundle)
    return network


class _Index:
    """Finds the positions of random values: whole tensors in any order, and rows of small tensors."""

    def __init__(self, known: dict[str, Array]) -> None:
        self._known = known
        self._whole = {(value.size, np.sort(value, axis=None)[:64].tobytes()): name for name, value in known.items()}
        self._rows = {
            row.tobytes(): (name, number)
            for name, value in known.items()
            if value.ndim == 2 and value.size <= _SMALL
            for number, row in enumerate(value)
        }

    def put_back(self, random: Array, exported: Array, found: dict[str, Array]) -> None:
        """Puts exported values at the places of the random values from the same initialiser."""
        flat = random.ravel()
        name = self._whole.get((flat.size, np.sort(flat)[:64].tobytes()))
        if name is not None:
            source = self._known[name]
            if np.array_equal(source.ravel(), flat):
                found[name] = exported.reshape(source.shape)
                return
            there, here = np.argsort(source, axis=None), np.argsort(flat)
            if np.array_equal(source.ravel()[there], flat[here]):
                values = np.empty(source.size, np.float32)
                values[there] = exported.ravel()[here]
                found[name] = values.reshape(source.shape)
        elif (row := self._rows.get(flat.tobytes())) is not None:
            name, number = row
            found.setdefault(name, np.zeros_like(self._known[name]))[number] = exported.ravel()


def _weights(model: ir.Model) -> Iterator[tuple[str, Array]]:
    """Float initialisers by the name that they had before their weights were halved."""
    for name, value in model.graph.initializers.items():
        if value.const_value is not None and value.const_value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            yield name.removesuffix(".half"), value.const_value.numpy().astype(np.float32)


def _check(network: VISTA3D, bundle: Bundle) -> None:
    """Compares the network with the bundle's test vectors."""
    if not bundle.manifest.vectors:
        raise ExportError(f"bundle {bundle.manifest.name!r} has no test vectors to check its weights by; {_REMEDY}")
    encoder, decoder = Encoder(network), PromptDecoder(network)
    for vector in load_vectors(bundle.path / bundle.manifest.vectors)[0]:
        with torch.no_grad():
            embedding = encoder(torch.from_numpy(vector.image))
            logits = decoder(embedding, torch.from_numpy(vector.coords), torch.from_numpy(vector.labels))
        got = logits.flatten(1).numpy()[:, vector.voxels]
        worst = float(np.abs(got - vector.logits).max() / max(1.0, float(np.abs(vector.logits).max())))
        if not worst <= TOLERANCE:
            raise ExportError(
                f"the weights in bundle {bundle.manifest.name!r} cannot be restored with torch {torch.__version__}: "
                f"logits differ by {worst:.2g}, expected at most {TOLERANCE:g}; {_REMEDY}"
            )

"""MONAI's own pipeline, and the weights of a bundle as a network again."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="MONAI's pipeline needs torch")
pytest.importorskip("onnxscript", reason="weights are found by an export")

import onnx_ir as ir
import torch
from conftest import SmallExport
from monai.networks.nets.vista3d import VISTA3D

from gstk.core.bundle import Bundle
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.errors import ExportError
from gstk.export import weights
from gstk.export.graphs import GraphSpec
from gstk.export.onnx_writer import trace_graph
from gstk.export.weights import network_of_bundle
from gstk.training.reference import ReferenceSegmenter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recovery(small_export: SmallExport) -> tuple[VISTA3D, dict[str, ir.Model]]:
    """The bundle's network, and the traces of random networks that it was found by."""
    traces = {}

    def trace_and_keep(graph: GraphSpec) -> ir.Model:
        traces[graph.kind] = trace_graph(graph)
        return traces[graph.kind]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "trace_graph", trace_and_keep)
        return network_of_bundle(small_export.bundle), traces


def test_the_weights_of_a_bundle_come_back(
    small_export: SmallExport, recovery: tuple[VISTA3D, dict[str, ir.Model]]
) -> None:
    known, network = small_export.network.state_dict(), recovery[0]
    back = network.state_dict()
    assert list(back) == list(known)
    unused = ("image_encoder.up_layers_auto", "class_head", "point_head.mask_downsample", "point_head.class_embeddings")
    for name, value in back.items():
        # The bias of keys that tokens read is dropped: a softmax does not see it.
        dropped = "token_to_image.k_proj.bias" in name or "zeroshot_embed" in name
        if not name.startswith(unused) and not dropped:
            torch.testing.assert_close(value, known[name].float(), msg=name)
    # MONAI's own forward, weights of both.
    image, coords = torch.rand(1, 1, 32, 32, 32), torch.tensor([[[9.0, 14.0, 20.0], [25.0, 8.0, 11.0]]])
    labels = torch.tensor([[1, 0]])
    with torch.no_grad():
        first, second = (
            n.eval()(image, point_coords=coords, point_labels=labels) for n in (small_export.network, network)
        )
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_weights_that_are_not_those_are_refused(
    small_export: SmallExport, recovery: tuple[VISTA3D, dict[str, ir.Model]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "trace_graph", lambda graph: recovery[1][graph.kind])
    monkeypatch.setattr(weights._Index, "put_back", lambda *_: None)
    with pytest.raises(ExportError, match="--checkpoint"):
        network_of_bundle(Bundle.open(small_export.bundle.path))


def test_one_window_is_the_networks_own_answer(small_export: SmallExport) -> None:
    """A volume of a window's size: MONAI's windows then give `VISTA3D.forward`, object by object."""
    network = small_export.network.eval()
    segmenter = ReferenceSegmenter(network, (32, 32, 32))
    volume = np.random.default_rng(2).integers(0, 255, (32, 32, 32)).astype(np.uint8)
    segmenter.set_image(volume, (1, 1, 1))
    prompts = {
        1: ObjectPrompts((Point((16, 16, 16)),)),
        2: ObjectPrompts((Point((9, 16, 20)), Point((20, 14, 12), False)), Box.from_corners(((1, 1, 1), (9, 9, 9)))),
        3: ObjectPrompts(box=Box.from_corners(((10, 10, 10), (20, 22, 24)))),
        4: ObjectPrompts(),
    }
    mask = segmenter.segment(prompts)
    low, high = np.percentile(volume, [1, 99])
    image = torch.from_numpy(np.clip((volume - low) / (high - low), 0, 1).astype(np.float32))[None, None]
    expected = np.zeros(volume.shape, np.uint16)
    said = {1: ([[16, 16, 16]], [1]), 2: ([[9, 16, 20], [20, 14, 12]], [1, 0]), 3: ([[15, 16, 17]], [1])}
    for k, (points, labels) in said.items():
        with torch.no_grad():
            logits = network(image, point_coords=torch.tensor([points]), point_labels=torch.tensor([labels]))
        expected[logits[0, 0].numpy() > 0] = k
    assert (mask != expected).mean() < 1e-3
    assert segmenter.seconds > 0

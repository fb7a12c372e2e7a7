"""The torch engine: a bundle's graph, run by torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_inputs import INSTALLED, prompts, region

from gstk.engines import open_engine
from gstk.errors import EngineError

pytestmark = pytest.mark.skipif("torch" not in INSTALLED, reason="needs torch")


def test_autocast_is_close_and_cheaper_in_bits(small_export: Any) -> None:
    asked = prompts((16, 8, 8), 1, 2)
    image = region((16, 8, 8))
    with open_engine(small_export.bundle, "torch") as plain:
        expected = plain.decode(plain.encode(image), *asked)
    with open_engine(small_export.bundle, "torch", options={"amp": "bf16"}) as engine:
        embedding = engine.encode(image)
        found = engine.decode(embedding, *asked)
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max() + 0.05
    with pytest.raises(EngineError, match="got tf32=on with device cpu"):
        open_engine(small_export.bundle, "torch", options={"tf32": True})


def test_torch_is_the_graph_in_torch(small_export: Any) -> None:
    """Every operator, prompts of every kind, regions of three sides; against ONNX Runtime on the same graph."""
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(4)
    for shape, objects, points in (((8, 12, 16), 3, 4), ((16, 8, 8), 1, 1)):
        image, coords = region(shape), rng.integers(0, 8, (objects, points, 3))
        labels = rng.integers(0, 4, (objects, points))
        labels[:, 1:][labels[:, 1:] == 3] = -1
        results = []
        for name in ("torch", "onnxruntime"):
            with open_engine(small_export.bundle, name) as engine:
                results.append(engine.decode(engine.encode(image), coords, labels))
        assert np.abs(results[0]).max() > 0.01
        np.testing.assert_allclose(results[0], results[1], atol=2e-5)


def test_operators_that_torch_engine_does_not_know_are_named(small_export: Any, tmp_path: Path) -> None:
    import onnx
    import torch

    from gstk.engines.torch_graph import TorchGraph

    model = onnx.load(small_export.bundle.graph("encoder"))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Celu"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(EngineError, match=r"got operators Celu in odd\.onnx"):
        TorchGraph(tmp_path / "odd.onnx", torch.device("cpu"))

"""The network as an engine, for validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_runs import SMALL

from gstk.training.network import build_network
from gstk.training.validation import NetworkEngine

pytestmark = pytest.mark.slow


def test_the_network_engine_is_the_network() -> None:
    torch.manual_seed(0)
    network = build_network(SMALL.network).eval()
    with NetworkEngine(network, 2, torch.device("cpu"), None) as engine:
        image = np.random.default_rng(0).random((1, 1, 16, 16, 24), np.float32)
        coords, labels = np.array([[[3, 4, 5], [9, 9, 9]]], np.float32), np.array([[1, 0]])
        logits = engine.decode(engine.encode(image), coords, labels)
    with torch.no_grad():
        expected = network(
            torch.from_numpy(image),
            point_coords=torch.from_numpy(coords[..., ::1]),
            point_labels=torch.tensor([[1, 0]]),
        )
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)

"""Regions and prompts for tests of engines, and the backends that are installed."""

from __future__ import annotations

import importlib.util

import numpy as np

INSTALLED = [name for name in ("openvino", "onnxruntime", "torch") if importlib.util.find_spec(name)]


def region(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 1, *shape), dtype=np.float32)


def prompts(shape: tuple[int, int, int], objects: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(objects * 10 + points)
    coords = rng.integers(0, shape, (objects, points, 3)).astype(np.float32)
    labels = rng.integers(-1, 4, (objects, points))
    labels[:, 0] = 1
    return coords, labels

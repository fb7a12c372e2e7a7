"""Regions and prompts for tests of engines, and the backends that are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

INSTALLED = [name for name in ("openvino", "onnxruntime", "torch") if importlib.util.find_spec(name)]


def with_gpus() -> list[str]:
    """The backends, and `openvino gpu` on a machine with graphics that OpenVINO can use."""
    if "openvino" in INSTALLED and Path("/dev/dri").exists():
        from gstk.engines.openvino import OpenVINOEngine

        return [*INSTALLED, *(["openvino gpu"] if OpenVINOEngine.named_devices() else [])]
    return INSTALLED


def region(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 1, *shape), dtype=np.float32)


def prompts(shape: tuple[int, int, int], objects: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(objects * 10 + points)
    coords = rng.integers(0, shape, (objects, points, 3)).astype(np.float32)
    labels = rng.integers(-1, 4, (objects, points))
    labels[:, 0] = 1
    return coords, labels

"""What the parts of `gpu_check.py` ask a network, and how they sum up seconds."""

from __future__ import annotations

import numpy as np

__all__ = ["question", "spread", "warm_up"]


def warm_up(device: str) -> int:
    """Runs before those that are timed: a GPU's clock has to rise, and TensorRT's CUDA graphs begin with the third."""
    return 3 if device.startswith("cuda") else 1


def question(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image [1,1,H,W,D], coords [1,1,3] and labels [1,1] of a region, the same on every machine."""
    image = np.random.default_rng(side).random((1, 1, side, side, side), dtype=np.float32)
    return image, np.full((1, 1, 3), side // 2, np.float32), np.ones((1, 1), np.int64)


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {"median": float(np.median(seconds)), "p95": float(np.percentile(seconds, 95))}

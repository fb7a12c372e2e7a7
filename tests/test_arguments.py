"""What engines refuse, on one without a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_inputs import region

from gstk.engines import Engine
from gstk.errors import EngineError


class EmptyEngine(Engine):
    """Takes the regions of a network of three levels, and answers nothing."""

    name = "empty"

    def _encode(self, image: np.ndarray) -> tuple[Any, int]:
        return None, 0

    def _decode(self, handle: Any, coords: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.zeros((len(labels), 1, 8, 8, 8), np.float32)

    def _release(self) -> None:
        pass


@pytest.fixture
def engine() -> Engine:
    return EmptyEngine(4, 8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 8)), r"got an image \(8, 8, 8\), expected \(1, 1, H, W, D\)"),
        (np.zeros((2, 1, 8, 8, 8)), r"expected \(1, 1, H, W, D\)"),
        (np.zeros((1, 1, 8, 10, 8)), r"got a region of \(8, 10, 8\), expected sides that are multiples of 4"),
        (np.zeros((1, 1, 8, 4, 8)), "at least 8"),
        (np.zeros((1, 1, 8, 0, 8)), "at least 8"),
        (np.full((1, 1, 8, 8, 8), np.nan), "NaN or infinity"),
        (np.full((1, 1, 8, 8, 8), 1e300), "NaN or infinity"),
        (np.zeros((1, 1, 8, 8, 8), complex), "got image of dtype complex128"),
        (np.full((1, 1, 8, 8, 8), None), "got image of dtype object"),
    ],
)
def test_wrong_image_is_named(engine: Engine, image: np.ndarray, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine.encode(image)


@pytest.mark.parametrize(
    ("coords", "labels", "message"),
    [
        (np.zeros((1, 3)), np.ones((1, 1)), r"got coords \(1, 3\), expected \(B, N, 3\)"),
        (np.zeros((1, 1, 2)), np.ones((1, 1)), r"expected \(B, N, 3\)"),
        (np.zeros((0, 1, 3)), np.ones((0, 1)), "one object and one point or more"),
        (np.zeros((1, 2, 3)), np.ones((2, 1)), r"got labels \(2, 1\), expected \(1, 2\)"),
        (np.zeros((1, 1, 3)), np.full((1, 1), 6), r"got labels \[6\], expected values in -2..5"),
        (np.zeros((1, 1, 3)), np.full((1, 1), -3), r"got labels \[-3\], expected values in -2..5"),
        (np.zeros((1, 2, 3)), np.array([[1, -2]]), "label -2 for a bundle of an older gstk"),
        (np.zeros((1, 1, 3)), np.full((1, 1), 0.5), "got labels of dtype float64 with values that no int64 holds"),
        (np.zeros((2, 2, 3)), np.array([[1, -1], [-1, -1]]), r"got objects \[1\] with padding points only"),
        (np.full((1, 1, 3), np.inf), np.ones((1, 1)), "NaN or infinity"),
        (np.full((1, 1, 3), 8.0), np.ones((1, 1)), r"got a point at \[8.0, 8.0, 8.0\], expected .* \(8, 8, 8\)"),
    ],
)
def test_wrong_points_are_named(engine: Engine, coords: np.ndarray, labels: np.ndarray, message: str) -> None:
    embedding = engine.encode(region((8, 8, 8)))
    with pytest.raises(EngineError, match=message):
        engine.decode(embedding, coords, labels)

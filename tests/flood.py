"""An engine whose masks are known: everything of the clicked brightness that is connected to a click."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gstk.calibration import LatencyModel
from gstk.core.window import WindowPolicy
from gstk.engines.base import Device, Embedding
from gstk.errors import Interrupted

POLICY = WindowPolicy(max_voxels=32**3, multiple=8, min_side=16)


class FloodEngine:
    """Stands in for a network: the component of `image > 0.5` under the foreground points, less background balls."""

    name, precision, device = "flood", "fp32", Device("cpu")
    most_points = 2**31 - 1

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.closed = False

    def encode(self, image: NDArray[np.float32]) -> Embedding:
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1 + 1e-6
        assert all(n % 8 == 0 and n >= 16 for n in image.shape[2:])
        self.shapes.append(image.shape[2:])
        return Embedding(1, image.shape[2:], image[0, 0], image.nbytes)  # type: ignore[arg-type]

    def decode(self, embedding: Embedding, coords: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
        image = embedding.handle
        assert (coords >= 0).all()
        assert (coords <= np.array(image.shape) - 1).all()
        parts, _ = ndimage.label(image > 0.5)
        mask = np.zeros(image.shape, bool)
        grid = np.indices(image.shape)
        for point, label in zip(coords[0], labels[0], strict=True):
            index = tuple(np.rint(point).astype(int))
            if label == 1 and parts[index]:
                mask |= parts == parts[index]
            if label == 0:
                mask &= ((grid - point[:, None, None, None]) ** 2).sum(0) > 9
        return np.where(mask, np.float32(4), np.float32(-4))[None, None]

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class SlowEngine(FloodEngine):
    """Takes its time, as a latency model says times a factor; can be interrupted or not."""

    def __init__(self, model: LatencyModel, factors: Iterator[float], deaf: bool = False) -> None:
        super().__init__()
        self.model, self.factors, self.deaf = model, factors, deaf
        self.ended = threading.Event()

    def encode(self, image: NDArray[np.float32]) -> Embedding:
        self.pass_time(self.model.encode_s(image.shape[2:]))
        return super().encode(image)

    def decode(self, embedding: Embedding, coords: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
        self.pass_time(self.model.decode_s(embedding.roi_shape, *labels.shape))
        return super().decode(embedding, coords, labels)

    def pass_time(self, seconds: float) -> None:
        self.ended.clear()
        if self.ended.wait(seconds * next(self.factors)):
            raise Interrupted("interrupted")

    def interrupt(self) -> None:
        if not self.deaf:
            self.ended.set()


class ClassEngine(FloodEngine):
    """Knows two classes by their brightness, besides what `FloodEngine` does."""

    def class_features(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return image[0] - 0.6

    def class_vectors(self) -> NDArray[np.float32]:
        vectors = np.zeros((133, 1), np.float32)
        vectors[3], vectors[1] = 1, -1  # spleen, liver
        return vectors


class Gate(FloodEngine):
    """Holds back large windows until it is opened; a call that waits can be interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.waiting, self._ended = threading.Event(), threading.Event(), threading.Event()

    def encode(self, image: NDArray[np.float32]) -> Embedding:
        if image.size > 20**3:
            self._ended.clear()
            self.waiting.set()
            while not self.open.wait(0.01):
                if self._ended.is_set():
                    raise Interrupted("interrupted")
        return super().encode(image)

    def interrupt(self) -> None:
        self._ended.set()


def two_balls(
    shape: tuple[int, int, int] = (40, 60, 60),
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    grid = np.indices(shape)
    first = ((grid - np.array([20, 20, 20])[:, None, None, None]) ** 2).sum(0) <= 64
    second = ((grid - np.array([20, 44, 40])[:, None, None, None]) ** 2).sum(0) <= 25
    return np.where(first | second, 200, 20).astype(np.uint8), first, second

"""Class prompts: windows over a whole volume, and the class of each voxel.

As NVIDIA's pipeline does (MONAI's sliding window with constant weights), windows overlap, and the logits of a voxel are
the mean over its windows. Logits are products of a class's vector and a voxel's features, so the mean of the features
does as well for any number of classes. The borders of all windows cut the volume into cells; all voxels of a
cell lie in the same windows. A cell is finished, and its memory free, after the last of these.

While the cells of a small window are added up and get their classes, a second thread runs the network on the next
window: neither of the two keeps all cores busy by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gstk.core.network_image import NetworkImage
from gstk.core.orientation import contiguous
from gstk.core.window import Window
from gstk.errors import PromptError

__all__ = ["ClassSegmenter", "window_starts"]

_CHUNK_VOXELS = 2**17
"""Logits of so many voxels at a time, for all classes."""
_AHEAD_BYTES = 2**26
"""Largest features of a window beside which the next window's are computed. Those of the full-size network are larger;
it gained no time, and 0.4 GB of memory is much (`benchmarks/window_overlap.py`)."""
Cell = tuple[int, ...]


def window_starts(count: int, side: int, overlap: float) -> list[int]:
    """First voxels of windows along an axis, as MONAI's `sliding_window_inference` lays them; negative for padding.

    Args:
        count: voxels of the image.
        side: of a window.
        overlap: share of a window that neighbours have in common.
    """
    if count <= side:
        return [-((side - count) // 2)]
    step = max(1, int(side * (1 - overlap)))
    number = math.ceil((count - side) / step) + 1
    return [min(index * step, count - side) for index in range(number)]


@dataclass(frozen=True)
class _Axis:
    """Windows and cells along one of the network's axes."""

    starts: tuple[int, ...]
    side: int
    borders: tuple[int, ...]

    @classmethod
    def of(cls, count: int, side: int, overlap: float) -> _Axis:
        starts = window_starts(count, side, overlap)
        borders = {0, count, *starts, *(start + side for start in starts)}
        return cls(tuple(starts), side, tuple(sorted(b for b in borders if 0 <= b <= count)))

    def cells(self, start: int) -> list[int]:
        """The cells in the window that begins there."""
        inner = itertools.pairwise(self.borders)
        return [i for i, (a, b) in enumerate(inner) if start <= a and b <= start + self.side]

    def windows(self, cell: int) -> int:
        """How many windows see a cell."""
        a, b = self.borders[cell], self.borders[cell + 1]
        return sum(start <= a and b <= start + self.side for start in self.starts)


class ClassSegmenter:
    """Segments the classes of one image, and keeps its features for the classes after the first where there is room.

    Attributes:
        image: what is segmented.
        windows: how many windows it takes.
    """

    def __init__(
        self,
        features_of: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        vectors: NDArray[np.float32],
        image: NetworkImage,
        cache_bytes: int = 0,
        sample: Callable[[Window], NDArray[np.float32]] | None = None,
    ) -> None:
        """Begins with an image.

        Args:
            features_of: from an image [1,1,H,W,D] to features [C,H,W,D]; see `Engine.class_features`. Called in a
                thread of its own, one window after the other.
            vectors: [n_classes,C].
            image: prepared; its profile says windows and overlap.
            cache_bytes: memory for features, 2 bytes each; where they do not all fit, none are kept.
            sample: the image [1,1,H,W,D] of a window; None samples it as the training did.

        Raises:
            PromptError: the profile has no resolution.
        """
        if image.grid is None:
            raise PromptError(f"got a class for the profile {image.profile.name}, whose windows have no resolution")
        self._features_of, self._vectors, self.image, self._grid = features_of, vectors, image, image.grid
        self._sample = sample or partial(image.sample, padding=image.profile.padding)
        shape = [image.grid.shape[axis] for axis in image.axes.order]
        self._axes = [
            _Axis.of(count, side, image.profile.overlap) for count, side in zip(shape, image.profile.patch, strict=True)
        ]
        self._shape = tuple(shape)
        self.windows = math.prod(len(axis.starts) for axis in self._axes)
        window_bytes = 4 * vectors.shape[1] * math.prod(image.profile.patch)
        self._ahead_bytes = window_bytes if self.windows > 1 and window_bytes <= _AHEAD_BYTES else 0
        self._keeps = 2 * math.prod(shape) * vectors.shape[1] <= cache_bytes
        self._kept: dict[Cell, NDArray[np.float16]] = {}

    @property
    def has_features(self) -> bool:
        """Whether it takes no further window: the features of all are kept."""
        return bool(self._kept)

    @property
    def held_bytes(self) -> int:
        """Most memory for features at a time, besides those of one window: sums, what is kept, the next window."""
        channels, cells = self._vectors.shape[1], self._cell_counts()
        seen: dict[Cell, int] = {}
        held = most = 0
        for starts in itertools.product(*(axis.starts for axis in self._axes)):
            for cell in itertools.product(*(axis.cells(a) for axis, a in zip(self._axes, starts, strict=True))):
                voxels = math.prod(s.stop - s.start for s in self._slices(cell))
                seen[cell] = seen.get(cell, 0) + 1
                held += 4 * channels * voxels if seen[cell] == 1 < cells[cell] else 0
                most = max(most, held)
                if seen[cell] == cells[cell]:
                    held += (2 if self._keeps else 0) * channels * voxels
                    held -= 4 * channels * voxels if cells[cell] > 1 else 0
        return max(most, held) + self._ahead_bytes

    def label_bytes(self, classes: int) -> int:
        """Most memory that the labels of a finished cell take, for so many classes: its mean features, and logits."""
        largest = math.prod(max(b - a for a, b in itertools.pairwise(axis.borders)) for axis in self._axes)
        channels, chunk = int(self._vectors.shape[1]), min(largest, _CHUNK_VOXELS)
        return 2 * channels * largest + 4 * (channels + classes) * chunk

    def _cell_counts(self) -> dict[Cell, int]:
        """How many windows see each cell."""
        counts = [[axis.windows(i) for i in range(len(axis.borders) - 1)] for axis in self._axes]
        indices = itertools.product(*(range(len(own)) for own in counts))
        return {(i, j, k): counts[0][i] * counts[1][j] * counts[2][k] for i, j, k in indices}

    def segment(
        self, class_ids: Sequence[int], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> NDArray[np.uint16]:
        """As `segment_grid`, on the voxels of the volume: uint16 (z,y,x)."""
        return self.project(self.segment_grid(class_ids, on_progress))

    def segment_grid(
        self, class_ids: Sequence[int], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> NDArray[np.uint16]:
        """The label map of some classes: the one of the largest logit where any is above 0.

        Args:
            class_ids: checked against the profile's table.
            on_progress: called after each window with how many are done, and of how many.

        Returns:
            uint16 (z,y,x) of the cropped training grid: class ids, 0 elsewhere.
        """
        vectors, ids = self._vectors[list(class_ids)], np.array(class_ids, np.uint16)
        labels = np.zeros(self._shape, np.uint16)
        for cell, features in self._cells(on_progress):
            labels[self._slices(cell)] = _label(features, vectors, ids)
        return contiguous(self.image.axes.to_volume(labels))

    def project(self, labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """A label map of the grid on the voxels of the volume, uint16 (z,y,x)."""
        whole = self._grid.window(self._grid.low, self._grid.shape)
        region, values = self._grid.nearest(whole, labels)
        mask = np.zeros(self._grid.volume_shape, np.uint16)
        mask[region] = values
        return mask

    def _cells(self, on_progress: Callable[[int, int], None]) -> Iterator[tuple[Cell, NDArray[np.float16]]]:
        """The mean features of every cell, each as soon as it is known."""
        cells = itertools.product(*(range(len(axis.borders) - 1) for axis in self._axes))
        if self._kept:
            for cell in cells:
                yield cell, self._kept[cell]
            return
        kept: dict[Cell, NDArray[np.float16]] = {}
        sums: dict[Cell, tuple[NDArray[np.float32], int]] = {}
        counts = self._cell_counts()
        done = 0
        with closing(self._window_features()) as windows:
            for starts, features in windows:  # `enumerate` would keep a window's features until it has the next one's
                for cell in itertools.product(*(axis.cells(a) for axis, a in zip(self._axes, starts, strict=True))):
                    inner = [slice(s.start - a, s.stop - a) for s, a in zip(self._slices(cell), starts, strict=True)]
                    part = features[(slice(None), *inner)]
                    before, seen = sums.pop(cell, (None, 0))
                    total, seen = part if before is None else np.add(before, part, out=before), seen + 1
                    if seen < counts[cell]:
                        sums[cell] = (total.copy() if before is None else total), seen
                        continue
                    # Rounded whether they are kept or not, so that a mask does not depend on the free memory.
                    mean = (total if seen == 1 else np.divide(total, np.float32(seen), out=total)).astype(np.float16)
                    if self._keeps:
                        kept[cell] = mean
                    yield cell, mean
                del features, part, total, before  # a window's features are not in memory while the next one is encoded
                done += 1
                on_progress(done, self.windows)
        self._kept = kept

    def _window_features(self) -> Generator[tuple[tuple[int, ...], NDArray[np.float32]], None, None]:
        """First voxels and features of each window; the next one's are computed meanwhile if small."""
        places = list(itertools.product(*(axis.starts for axis in self._axes)))

        def features_at(starts: tuple[int, ...]) -> NDArray[np.float32]:
            return self._features_of(self._sample(self._window(starts)))

        if not self._ahead_bytes:
            for starts in places:
                yield starts, features_at(starts)
            return
        with ThreadPoolExecutor(1, "gstk-window") as worker:  # its end waits for a window that nobody wants any more
            ahead = worker.submit(features_at, places[0])
            for starts, following in itertools.zip_longest(places, places[1:]):
                features = ahead.result()
                if following is not None:
                    ahead = worker.submit(features_at, following)
                yield starts, features
                del features

    def _slices(self, cell: Cell) -> tuple[slice, slice, slice]:
        a, b, c = (slice(axis.borders[i], axis.borders[i + 1]) for axis, i in zip(self._axes, cell, strict=True))
        return a, b, c

    def _window(self, starts: Sequence[int]) -> Window:
        """The window that begins at voxels of the network's axes, counted in the cropped grid."""
        axes, first, sides = self.image.axes, [0, 0, 0], [0, 0, 0]
        for along, axis in enumerate(axes.order):
            side = self._axes[along].side
            turned = self._grid.high[axis] - starts[along] - side
            first[axis] = turned if axes.flipped[along] else self._grid.low[axis] + starts[along]
            sides[axis] = side
        return self._grid.window(first, sides)


def _label(features: NDArray[np.float16], vectors: NDArray[np.float32], ids: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The class of each voxel [H,W,D] from features [C,H,W,D]; 0 where no logit is above 0."""
    flat = features.reshape(len(features), -1)
    labels = np.empty(flat.shape[1], np.uint16)
    for first in range(0, flat.shape[1], _CHUNK_VOXELS):
        part = slice(first, first + _CHUNK_VOXELS)
        logits = vectors @ flat[:, part].astype(np.float32)
        labels[part] = np.where(logits.max(axis=0) > 0, ids[logits.argmax(axis=0)], 0)
    return labels.reshape(features.shape[1:])

"""Tiles: an object too long for the training's patch, segmented piece by piece at the training's resolution.

A coarser window shows such an object whole. Then overlapping windows along it, those that class prompts slide over the
volume, show it as the network was trained to see it, from the first click outwards. In a window without a click, the
prompt is a voxel of the mask of its neighbours, or of the coarser mask. Where several windows see a voxel, its logits
are their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.core.click_rule import component_centre
from gstk.core.network_image import NetworkImage
from gstk.core.regions import connected_components
from gstk.core.resampling import resample
from gstk.core.window import Window
from gstk.session.class_segmenter import window_starts
from gstk.session.click_update import clicked_components

__all__ = ["Tile", "TileWalk", "central_voxels"]

MOST_POINTS = 3
"""Most components of a mask, the largest, that give points to a tile."""
LEAST_SHARE = 0.05
"""Least size of such a component, as a share of the largest."""
_BYTES_A_VOXEL = 16
"""Of all tiles together: their logits, sums and counts."""


class Tile(NamedTuple):
    """One window along an object, and the points that prompt the network in it.

    Attributes:
        window: of the training grid.
        coords: float64 (K,3), voxels of the volume.
        labels: int64 (K,), 1 on the object and 0 beside it.
    """

    window: Window
    coords: NDArray[np.float64]
    labels: NDArray[np.int64]


class TileWalk:
    """The tiles of one object, one after the other, and their logits.

    `next_tile` and `add` take turns, as long as there is time; `blended` gives the logits at any time.
    """

    def __init__(
        self,
        image: NetworkImage,
        window: Window,
        logits: NDArray[np.float32],
        coords: NDArray[np.float64],
        labels: NDArray[np.int64],
    ) -> None:
        """Begins with what the coarser window shows.

        Args:
            image: with a training grid.
            window: coarser than the grid; tiles keep to what it shows.
            logits: float32 (z,y,x) on it. Where its mask holds no click, the object was lost in it, and it is not used.
            coords: float64 (K,3), the clicks, voxels of the volume.
            labels: int64 (K,), 1 on the object and 0 beside it.
        """
        assert image.grid is not None
        self._image, self._grid, self._window, self._logits = image, image.grid, window, logits
        self._coords, self._labels = coords, labels
        mask = logits > 0
        self.is_lost = not _holds_any(mask, window.to_window(coords[labels == 1]))
        self._known = np.zeros_like(mask) if self.is_lost else clicked_components(mask, self._on_object(window))
        self._axes = [self._lattice(axis) for axis in range(3)]
        self._done = np.zeros([len(firsts) for firsts, _ in self._axes], bool)
        self._answers: list[tuple[Window, NDArray[np.float32], NDArray[np.bool_]]] = []

    def add(self, window: Window, logits: NDArray[np.float32], coords: NDArray[np.float64]) -> None:
        """Takes in the answer in a window of the training grid.

        Args:
            window: a tile's, or any other of the patch's shape.
            logits: float32 (z,y,x) on it.
            coords: float64 (K,3), voxels of the volume, the points on the object that prompted the network.
        """
        mask = logits > 0
        at = window.to_window(coords)
        mask = clicked_components(mask, at) if _holds_any(mask, at) else np.zeros_like(mask)
        self._answers.append((window, logits, mask))
        # Its mask is copied to the coarser window, which decides where the next tile lies.
        index = np.argwhere(mask)
        for axis in range(3):
            centres = window.start[axis] + (index[:, axis] + 0.5) * window.step[axis]
            index[:, axis] = np.floor((centres - self._window.start[axis]) / self._window.step[axis])
        index = index[((index >= 0) & (index < self._known.shape)).all(axis=1)]
        self._known[tuple(index.T)] = True

    def next_tile(self) -> Tile | None:
        """The tile nearest to the first click that shows a part of the object not segmented yet; None at the end.

        Of overlapping tiles each is responsible for the voxels that are nearest to its middle.
        """
        while True:
            inner = [self._well_inside(window) for window, _, _ in self._answers]
            left = self._known.copy()
            for z, y, x in inner:
                left[np.ix_(z, y, x)] = False
            voxels = np.argwhere(left)
            owners = np.stack([self._axes[axis][1][voxels[:, axis]] for axis in range(3)], axis=1)
            owners = np.unique(owners, axis=0)
            owners = owners[~self._done[tuple(owners.T)]]
            if not len(owners):
                return None
            windows = [
                self._grid.window([int(self._axes[a][0][i]) for a, i in enumerate(owner)], self._image.patch_zyx)
                for owner in owners
            ]
            nearest = int(np.argmin([self._distance_mm(window) for window in windows]))
            self._done[tuple(owners[nearest])] = True
            held = windows[nearest].holds(self._coords)
            coords, labels = self._coords[held], self._labels[held]
            if not labels.any():
                more = self._points_of(windows[nearest])
                coords, labels = np.concatenate([coords, more]), np.append(labels, np.ones(len(more), np.int64))
            if labels.any():
                return Tile(windows[nearest], coords, labels)

    @property
    def size_bytes(self) -> int:
        """Memory for the part of the grid that holds all windows so far."""
        low, high = self._extent()
        return int(np.prod(high - low)) * _BYTES_A_VOXEL

    def blended(self) -> tuple[Window, NDArray[np.float32]]:
        """A part of the training grid that holds all windows and the known mask, and the logits on it.

        The mean over the windows that see a voxel; where none does, the coarser window's.
        """
        low, high = self._extent()
        shape = tuple(int(n) for n in high - low)
        whole = self._grid.window([int(i) for i in low], shape)
        sums, counts = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
        for window, logits, _ in self._answers:
            offset = np.array(self._grid.first_of(window)) - low
            where = tuple(slice(int(a), int(a) + n) for a, n in zip(offset, window.shape, strict=True))
            sums[where] += logits
            counts[where] += 1
        np.divide(sums, counts, out=sums, where=counts > 0)
        unseen = counts == 0
        if self.is_lost:
            sums[unseen] = -1
        elif unseen.any():
            start = [(a - s) / t for a, s, t in zip(whole.start, self._window.start, self._window.step, strict=True)]
            step = [a / t for a, t in zip(whole.step, self._window.step, strict=True)]
            coarse = resample(self._logits, start, step, shape, outside="edge")
            sums[unseen] = coarse[unseen]
        return whole, sums

    def _lattice(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First voxels of the tiles along an axis, and for each plane of the coarser window the tile that owns it."""
        image, grid, side = self._image, self._grid, self._image.patch_zyx[axis]
        starts = np.array(window_starts(grid.shape[axis], side, image.profile.overlap))
        if image.axes.flipped[image.axes.order.index(axis)]:
            starts = np.sort(grid.shape[axis] - starts - side)
        firsts = starts + grid.low[axis]
        middles = firsts + (side - 1) / 2
        return firsts, np.searchsorted((middles[1:] + middles[:-1]) / 2, self._planes(axis))

    def _planes(self, axis: int) -> NDArray[np.float64]:
        """Middles of the coarser window's voxels along an axis, in voxels of the grid."""
        window = self._window
        centres = window.start[axis] + (np.arange(window.shape[axis]) + 0.5) * window.step[axis] - 0.5
        return np.asarray(centres / self._grid.step[axis])

    def _well_inside(self, window: Window) -> list[NDArray[np.bool_]]:
        """Planes of the coarser window along each axis that need no other tile than this window."""
        inside = []
        for axis, (first, side) in enumerate(zip(self._grid.first_of(window), window.shape, strict=True)):
            rim = self._image.profile.overlap * side / 2
            planes = self._planes(axis)
            # At the ends of the grid a tile misses nothing.
            low = -np.inf if first <= self._grid.low[axis] else first + rim - 0.5
            high = np.inf if first + side >= self._grid.high[axis] else first + side - rim - 0.5
            inside.append((planes >= low) & (planes <= high))
        return inside

    def _points_of(self, window: Window) -> NDArray[np.float64]:
        """Voxels of the volume on the object in a window without a click on it."""
        best: tuple[int, NDArray[np.float64]] = (0, np.empty((0, 3)))
        for other, _, mask in self._answers:
            part = _part_in(other, window)
            count = int(np.count_nonzero(mask[part]))
            if count > best[0]:
                best = count, central_voxels(other, mask, window)[:1]
        if best[0]:
            return best[1]
        return central_voxels(self._window, self._known, window)

    def _on_object(self, window: Window) -> NDArray[np.float32]:
        return window.to_window(self._coords[self._labels == 1])

    def _distance_mm(self, window: Window) -> float:
        middle = (np.array(window.start) + window.stop) / 2 - 0.5
        return float(np.linalg.norm((middle - self._coords[0]) * self._image.geometry.spacing_mm))

    def _extent(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last voxels of the grid, the last outside, that hold all windows and the known mask."""
        firsts = [np.array(self._grid.first_of(window)) for window, _, _ in self._answers]
        lasts = [first + window.shape for first, (window, _, _) in zip(firsts, self._answers, strict=True)]
        known = np.argwhere(self._known)
        if len(known):
            planes = [self._planes(axis)[known[:, axis]] for axis in range(3)]
            rim = np.array(self._window.step) / self._grid.step + 1
            first = np.floor([along.min() for along in planes] - rim).astype(np.int64)
            last = np.ceil([along.max() for along in planes] + rim).astype(np.int64) + 1
            firsts.append(np.maximum(first, self._grid.low))
            lasts.append(np.minimum(last, self._grid.high))
        return np.min(firsts, axis=0), np.max(lasts, axis=0)


def central_voxels(window: Window, mask: NDArray[np.bool_], part: Window) -> NDArray[np.float64]:
    """The voxel farthest from the border of each large component that a mask has in a part of its window.

    Args:
        window: of a volume.
        mask: bool (z,y,x) on it.
        part: another window of that volume.

    Returns:
        float64 (K,3) voxels of the volume, the largest component's first.
    """
    inside = _part_in(window, part)
    components, count = connected_components(mask[inside])
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    points = []
    for number in np.argsort(-sizes, kind="stable")[: min(MOST_POINTS, count)]:
        if sizes[number] >= LEAST_SHARE * sizes.max():
            voxel = np.array(component_centre(components == number)) + [axis.start for axis in inside]
            points.append(np.array(window.start) + (voxel + 0.5) * window.step - 0.5)
    return np.array(points).reshape(-1, 3)


def _part_in(window: Window, part: Window) -> tuple[slice, slice, slice]:
    """The voxels of a window whose middles lie in another window."""
    slices = []
    for start, step, count, low, high in zip(
        window.start, window.step, window.shape, part.start, part.stop, strict=True
    ):
        first = int(np.clip(np.ceil((low - start) / step - 0.5), 0, count))
        last = int(np.clip(np.ceil((high - start) / step - 0.5), first, count))
        slices.append(slice(first, last))
    return slices[0], slices[1], slices[2]


def _holds_any(mask: NDArray[np.bool_], points: Sequence[Sequence[float]] | NDArray[np.float32]) -> bool:
    """Whether one of some points (K,3) lies in a mask."""
    index = np.rint(np.asarray(points)).astype(int)
    index = index[((index >= 0) & (index < mask.shape)).all(axis=1)]
    return bool(mask[tuple(index.T)].any())

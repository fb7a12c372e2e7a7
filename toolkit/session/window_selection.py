"""Chooses an object's window: the first from its prompts, further ones from its mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts
from gstk.core.regions import bounds
from gstk.core.window import Faces, Window, WindowPolicy, bounding_faces, frame
from gstk.engines.arguments import NOVEL_LABELS
from gstk.session.window_answer import WindowAnswer

__all__ = [
    "MOST_POINTS",
    "adapt_window",
    "initial_extent",
    "initial_window",
    "latest_points",
    "lie_well_inside",
    "network_labels",
    "network_points",
]

MOST_POINTS = 128
"""Points of an object that the network is given at once. Its attention has a number for each point, image token and
head: 0.5 GB for these in a region of 128³, and a network is trained with a few dozen."""

FIRST_FIELD = 2.0
"""How many times wider the first window around a lone click is than one at the volume's finest spacing."""


def network_points(prompts: ObjectPrompts) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points as the network takes them: the clicks, and before them the centre of the box as a foreground click.

    Returns:
        Voxels of the volume, float64 (K,3) (z,y,x), and their labels, int64 (K,), 1 on the object and 0 beside it.
    """
    points = [(p.zyx, int(p.foreground)) for p in prompts.points]
    if prompts.box is not None:
        points.insert(0, (prompts.box.centre(), 1))
    return np.array([zyx for zyx, _ in points], np.float64), np.array([label for _, label in points], np.int64)


def latest_points(
    coords: NDArray[np.float64], labels: NDArray[np.int64], most: int = MOST_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of more than `most` points, the first one on the object, and the latest; the mask keeps what older ones did.

    Args:
        coords, labels: as from `network_points`.
        most: 2 or more.
    """
    if len(labels) <= most:
        return coords, labels
    first, latest = int(np.argmax(labels == 1)), len(labels) - most + 1
    kept = [first, *range(latest, len(labels))] if first < latest else list(range(latest - 1, len(labels)))
    return coords[kept], labels[kept]


def network_labels(labels: NDArray[np.int64], *, special: bool = False, novel: bool = False) -> NDArray[np.int64]:
    """Labels 1 and 0 as the network takes them: 3 and 2 for special classes, 5 and 4 for novel objects."""
    return labels + (NOVEL_LABELS[0] if novel else 2 if special else 0)


def initial_extent(geometry: Geometry, prompts: ObjectPrompts, policy: WindowPolicy) -> Faces:
    """First and last faces, (3,) voxels, of the region that the first window is made for: the box, or around clicks."""
    coords, labels = network_points(prompts)
    low, high = bounding_faces(coords[labels == 1])
    if prompts.box is not None:
        corners = np.array(prompts.box.corners(), np.float64)
        return np.minimum(low, corners[0]), np.maximum(high, corners[1] + 1)
    # A lone click does not tell the object's size: begin near the volume's finest spacing.
    side_mm = FIRST_FIELD * min(geometry.spacing_mm) * policy.max_voxels ** (1 / 3) / (1 + 2 * policy.margin)
    half = side_mm / np.array(geometry.spacing_mm) / 2
    centre = (low + high) / 2
    return np.minimum(low, centre - half), np.maximum(high, centre + half)


def initial_window(geometry: Geometry, prompts: ObjectPrompts, policy: WindowPolicy) -> Window:
    """The first window of an object: the training window around its first click, or one fitted to the prompts.

    The training window is taken where it holds all prompts and the policy allows as many voxels.
    """
    points, labels = network_points(prompts)
    if policy.training_window is not None:
        window = policy.training_window(points[labels == 1][0])
        corners = [] if prompts.box is None else [np.array(corner, np.float64) for corner in prompts.box.corners()]
        holds = window is not None and window.holds(np.stack([*points, *corners])).all()
        if window is not None and holds and np.prod(window.shape) <= policy.max_voxels:
            return window
    return frame(geometry, *initial_extent(geometry, prompts, policy), policy)


def lie_well_inside(coords: NDArray[np.float64], window: Window, geometry: Geometry) -> bool:
    """Whether clicks, (K,3) voxels of the volume, lie in the middle half of a window along each axis."""
    quarter = np.array(window.shape) * window.step / 4
    low, high = np.array(window.start), np.array(window.stop)
    # At the volume's ends the window misses nothing.
    low = np.where(low <= 0, -np.inf, low + quarter)
    high = np.where(high >= geometry.shape, np.inf, high - quarter)
    return bool(((coords >= low) & (coords < high)).all())


def adapt_window(geometry: Geometry, answer: WindowAnswer, policy: WindowPolicy) -> Window | None:
    """A window that suits the mask better: wider where the mask is cut off, narrower where it is small in the window.

    Returns:
        The better window; None where the present one is good enough.
    """
    if not policy.adapts:
        return None
    window, prompts = answer.window, answer.prompts
    box = bounds(answer.clicked)
    if box is None:
        return None
    low = np.array([axis.start for axis in box]) * window.step + window.start
    high = np.array([axis.stop for axis in box]) * window.step + window.start
    extent = high - low
    shape = np.array(geometry.shape, float)
    cut_low = np.array([axis.start == 0 for axis in box]) & (np.array(window.start) > 0.5)
    cut_high = np.array([axis.stop == n for axis, n in zip(box, window.shape, strict=True)])
    cut_high &= np.array(window.stop) < shape - 0.5
    points = prompts.clicked()
    if prompts.box is not None:
        points = np.concatenate([points, np.array(prompts.box.corners(), np.float64)])
    if len(points):
        low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0) + 1)
    if cut_low.any() or cut_high.any():
        grown = 0.5 * extent.max()
        low = np.maximum(np.where(cut_low, low - grown, low), 0)
        high = np.minimum(np.where(cut_high, high + grown, high), shape)
        better = frame(geometry, low, high, policy)
        return better if np.prod(np.array(better.step)) > 1.1 * np.prod(np.array(window.step)) else None
    narrower = _narrower(geometry, low, high, policy)
    if narrower is None or np.prod(np.array(narrower.step)) >= 0.4 * np.prod(np.array(window.step)):
        return None
    return narrower


def _narrower(
    geometry: Geometry, low: NDArray[np.float64], high: NDArray[np.float64], policy: WindowPolicy
) -> Window | None:
    """The window for an object between two faces that is small in a window; None where there is no better one.

    Where the network has a resolution it is the training's, and none is finer, along no axis.
    """
    if policy.training_window is None:
        return frame(geometry, low, high, policy)
    window = policy.training_window(((low + high - 1) / 2).tolist())
    if window is None or np.prod(window.shape) > policy.max_voxels:
        return None
    return window if window.holds(np.stack([low, high - 1])).all() else None

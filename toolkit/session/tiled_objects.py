"""Objects that run out of the training's patch: answered in tiles, and each click corrected in its training window."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gstk.calibration import memory
from gstk.core.prompts import Point
from gstk.core.regions import union
from gstk.core.window import Window
from gstk.session.click_update import ClickScope, apply_click, enforce_clicks, spread
from gstk.session.costs import Costs
from gstk.session.deadline import Clock, Deadline
from gstk.session.state import ImageState, ObjectState
from gstk.session.tiles import TileWalk, central_voxels
from gstk.session.window_selection import network_points

__all__ = ["TILES", "click_on_tiles", "segment_in_tiles", "wants_tiles"]

TILES = "tiles at the training's resolution along all of the object"
MOST_TILES = 16
"""Tiles of an object where there is no time limit: a mask that leaks would go through all of the volume."""
MEMORY_SHARE = 0.5
"""Share of the free memory that the logits of all tiles may take."""

_Points = tuple[NDArray[np.float64], NDArray[np.int64]]
_Answer = tuple[Window, NDArray[np.float32]]
_Decode = Callable[[Window, _Points, Deadline], NDArray[np.float32]]


def wants_tiles(image: ImageState, window: Window) -> bool:
    """Whether an object in a window is segmented in tiles, too.

    This needs a network with a resolution, a window coarser than that, and windows as large as the training's: smaller
    ones mean that time or memory is short, too short for tiles.
    """
    grid = image.source.grid
    if grid is None or not image.policy.adapts or grid.holds(window):
        return False
    return bool(np.prod(image.source.patch_zyx) <= image.policy.max_voxels)


def segment_in_tiles(
    image: ImageState,
    points: _Points,
    first: _Answer,
    wider: _Answer,
    decode: _Decode,
    answer_s: Callable[[Window], float],
    clock: Clock,
) -> _Answer | None:
    """Logits at the training's resolution along an object that does not fit into the training's patch.

    Args:
        image: with a training grid.
        points: the clicks: voxels of the volume, and labels.
        first: the object's first window, and the logits in it.
        wider: a coarser window that shows it whole, and the logits in it.
        decode: the network's answer to points in a window.
        answer_s: what that may take.
        clock: takes notes of skipped steps.

    Returns:
        A part of the training grid, and logits on it; None where there was no time or memory for any tile, and the
        coarser window shows the object.
    """
    grid, (coords, labels) = image.source.grid, points
    assert grid is not None
    walk = TileWalk(image.source, *wider, coords, labels)
    began_on_grid = grid.holds(first[0]) and first[0].shape == image.source.patch_zyx
    if began_on_grid:
        walk.add(*first, coords[labels == 1])
    count = 0
    while (tile := walk.next_tile()) is not None:
        is_limit = count >= MOST_TILES and not clock.deadline.is_set
        if is_limit or (count and walk.size_bytes > MEMORY_SHARE * memory.free_bytes()):
            clock.skip(TILES)
            break
        run = partial(decode, tile.window, (tile.coords, tile.labels))
        answer = clock.attempt(TILES, answer_s(tile.window), run)
        if answer is None:
            break
        walk.add(tile.window, answer, tile.coords[tile.labels == 1])
        count += 1
    return walk.blended() if count or (began_on_grid and walk.is_lost) else None


def click_on_tiles(
    image: ImageState,
    state: ObjectState,
    click: Point,
    decode: _Decode,
    answer_s: Callable[[Window], float],
    clock: Clock,
    costs: Costs,
) -> ObjectState | None:
    """An object segmented in tiles, after a further click: the answer in the training's window around the click.

    Args:
        state: the object before; its prompts are those with the click.
        decode, answer_s, clock: as in `segment_in_tiles`.
        costs: records the time of resampling to the volume.

    Returns:
        The object; None where there is no time for that window, or where the click lies outside the part of the volume
        that the network sees.

    Raises:
        TimeUp: there was less time than expected.
    """
    source, prompts = image.source, state.prompts
    window = source.training_window(click.zyx)
    assert window is not None
    assert source.grid is not None
    assert state.region is not None
    assert state.logits is not None
    if answer_s(window) > clock.left_s or not window.holds(np.array(click.zyx, np.float64)):
        return None
    coords, labels = network_points(prompts)
    held = window.holds(coords)
    coords, labels = coords[held], labels[held]
    if not labels.any():
        # A background click far from all foreground clicks: a voxel of the mask becomes a foreground point.
        every = [max(1, round(t)) for t in window.step]
        z, y, x = (float(axis.start) for axis in state.region)
        mask = state.logits[tuple(slice(None, None, n) for n in every)] > 0
        more = central_voxels(Window((z, y, x), tuple(map(float, every)), mask.shape), mask, window)  # type: ignore[arg-type]
        coords, labels = np.concatenate([coords, more]), np.append(labels, np.ones(len(more), np.int64))
    logits = decode(window, (coords, labels), clock.deadline)
    began = time.perf_counter()
    if source.profile.projection == "nearest":
        inside, values = source.grid.nearest(window, logits)
    else:
        inside, values = window.inside(image.geometry.shape), window.back(logits, image.geometry.shape)
    region = union(state.region, inside)
    after = spread(state.region, state.logits, region)
    after[tuple(slice(a.start - r.start, a.stop - r.start) for a, r in zip(inside, region, strict=True))] = values
    scope = ClickScope.of(click, prompts, image.geometry.spacing_mm)
    region, values = apply_click(scope, state.region, state.logits, region, after)
    enforce_clicks(values, region, prompts)
    costs.resampling.measured(values.size, time.perf_counter() - began)
    return ObjectState(prompts, state.window, region, values, is_tiled=True)

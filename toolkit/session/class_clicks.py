"""A click on an object that came from a class prompt: the network's answer, put into the mask by MONAI's rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gstk.core.prompts import Point
from gstk.core.regions import union
from gstk.core.window import Window
from gstk.session.class_correction import correct_class
from gstk.session.click_update import enforce_clicks, spread
from gstk.session.deadline import Clock, Deadline
from gstk.session.state import ImageState, ObjectState
from gstk.session.window_selection import network_points

__all__ = ["OUTSIDE", "click_on_class"]

OUTSIDE = "the network's answer to a click outside of what it is shown of the volume: only the clicked voxel changed"


class _Decode(Protocol):
    def __call__(
        self,
        window: Window,
        points: tuple[NDArray[np.float64], NDArray[np.int64]],
        deadline: Deadline,
        *,
        special: bool = False,
    ) -> NDArray[np.float32]: ...


def click_on_class(image: ImageState, state: ObjectState, click: Point, decode: _Decode, clock: Clock) -> ObjectState:
    """An object of a class after a click.

    Args:
        image: with a training grid.
        state: the object before; its prompts are those with the click.
        click: the new one.
        decode: the network's answer to points in a window.
        clock: told where the network was not asked.

    Raises:
        TimeUp: there is no answer of the network.
    """
    window = image.source.training_window(click.zyx)
    assert window is not None  # a profile with classes has a grid
    assert state.grid_mask is not None
    coords, labels = network_points(state.prompts)
    held = window.holds(coords)
    coords, labels = coords[held], labels[held]
    if not window.holds(np.array(click.zyx, np.float64)):
        clock.skip(OUTSIDE)
        z, y, x = (slice(i, i + 1) for i in click.zyx)
        region = union(state.region, (z, y, x))
        values = np.full([axis.stop - axis.start for axis in region], -1, np.float32)
        if state.region is not None and state.logits is not None:
            values = spread(state.region, state.logits, region)
        enforce_clicks(values, region, state.prompts)
        return replace(state, region=region, logits=values, is_fallback=False)
    special = state.class_id in image.source.profile.classes.special
    logits = decode(window, (coords, labels), clock.deadline.of_needed, special=special)
    mask, region, values = correct_class(
        image.source, window, logits, state.grid_mask, state.region, state.logits, coords, labels == 1
    )
    enforce_clicks(values, region, state.prompts)
    return replace(state, window=window, region=region, logits=values, grid_mask=mask, is_fallback=False)

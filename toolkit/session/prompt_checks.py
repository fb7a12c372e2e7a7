"""Checks of a session's prompts: inside the image, and of a kind that the network and the object take."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from gstk.core.geometry import Geometry
from gstk.core.profile import InputProfile
from gstk.core.prompts import ObjectPrompts, PromptWarning, Voxel, whole_object_id
from gstk.errors import GeometryError, PromptError
from gstk.session.planner import can_start
from gstk.session.state import ImageState, ObjectState

__all__ = ["changed_prompts", "check_prompts", "check_shape", "expand_classes", "image_voxel", "warn_of_empty_masks"]


def image_voxel(zyx: Sequence[float], geometry: Geometry) -> Voxel:
    """The voxel nearest to a click (z,y,x).

    Raises:
        PromptError: it lies outside the image, or is no voxel index.
    """
    try:
        voxel = geometry.nearest_voxel(zyx)
    except GeometryError:
        voxel = None
    if voxel is None:
        raise PromptError(f"got a click at {zyx!r:.80}, expected (z, y, x) inside the image of {geometry.shape}")
    return voxel


def check_prompts(prompts: Mapping[int, ObjectPrompts], image: ImageState, profile: InputProfile) -> None:
    """Checks that prompts lie inside the image and are of a kind that the network takes.

    Raises:
        PromptError: one lies outside, or is a point or box where the network takes class prompts alone.
    """
    if "points" not in profile.branches and any(own.points or own.box for own in prompts.values()):
        raise PromptError(
            f"got a point or box for the profile {profile.name}, whose weights take classes alone; give those"
        )
    geometry = image.geometry
    for own in prompts.values():
        corners = own.box.corners() if own.box else ()
        if not all(geometry.contains(corner) for corner in corners):
            raise PromptError(f"got a box of corners {corners}, expected it inside the image of {geometry.shape}")
        for point in own.points:
            if not geometry.contains(point.zyx):
                raise PromptError(f"got a click at {point.zyx}, expected it inside the image of {geometry.shape}")


def check_shape(mask: ArrayLike, geometry: Geometry, name: str = "mask") -> None:
    """Checks that a mask has the image's shape.

    Raises:
        PromptError: it has another.
    """
    if np.shape(mask) != geometry.shape:
        raise PromptError(f"got a {name} {np.shape(mask)}, expected the image's {geometry.shape}")


def changed_prompts(
    prompts: Mapping[int, ObjectPrompts], image: ImageState, profile: InputProfile
) -> dict[int, ObjectPrompts]:
    """The prompts that differ from those that their object has, checked.

    Raises:
        PromptError: as `check_prompts`; a box is given to an object that began with a mask, or one of a class is to be
            novel.
    """
    check_prompts(prompts, image, profile)
    changed = {}
    for key, own in prompts.items():
        object_id, rounded = whole_object_id(key), own.rounded()
        state = image.objects.get(object_id, ObjectState())
        if rounded == state.prompts:
            continue
        if rounded.box is not None and state.given is not None:
            raise PromptError(f"got a box for object {object_id}, which began with a mask; reset it first, or click")
        if rounded.novel and state.class_id is not None:
            raise PromptError(f"got object {object_id} as novel, which came from a class; take another object id")
        changed[object_id] = rounded
    return changed


def expand_classes(names: Sequence[str | int], profile: InputProfile) -> tuple[int, ...]:
    """The ids of classes, groups and sets of classes.

    Raises:
        PromptError: the network knows no classes, or not these.
    """
    if "classes" not in profile.branches:
        raise PromptError(
            f"got a class prompt for the profile {profile.name}, whose weights have no classes; give a point or a box"
        )
    return profile.classes.expand(names)


def warn_of_empty_masks(updated: Mapping[int, ObjectState]) -> None:
    """Warns of each object whose prompts gave an empty mask, where `Session.set_all` was called."""
    for object_id, state in sorted(updated.items()):
        if can_start(state.prompts) and (state.logits is None or not (state.logits > 0).any()):
            message = f"the mask of object {object_id} is empty: the network found nothing at its prompts"
            warnings.warn(message, PromptWarning, stacklevel=3)

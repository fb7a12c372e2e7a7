"""The input that an exported network takes: its profile, and the sizes of its regions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from gstk.core.bundle import RoiRules
from gstk.core.profile import InputProfile, find_profile, list_profiles
from gstk.errors import ExportError
from gstk.training.network import TAPS
from gstk.training.spec import VISTA3DSpec

__all__ = ["DEFAULT_ROI_SIDE", "fitting_profile", "roi_rules"]

DEFAULT_ROI_SIDE = 128
"""Side of the region that VISTA3D is trained on, in voxels."""
_INT32_ELEMENTS = 2**31 - 1


def fitting_profile(
    profile: InputProfile | None,
    spec: VISTA3DSpec,
    state: Mapping[str, torch.Tensor],
    default_roi: Sequence[int] | None,
    trained_here: bool = False,
    carried: InputProfile | None = None,
) -> InputProfile:
    """The input profile to write into the manifest, with `default_roi` as its patch.

    Args:
        profile: the requested profile; None takes the profile of gstk's own checkpoints.
        spec: the network's architecture.
        state: its weights by name.
        default_roi: sides of the region it was trained on, voxels; None is the profile's patch.
        trained_here: whether gstk's training made the checkpoint.
        carried: the profile that the checkpoint carries; None where it carries none.

    Raises:
        ExportError: a network of full size has no profile, the profile is not of the input that the checkpoint was
            trained on, or the weights have not the classes that the profile names.
    """
    if carried is not None and profile is not None and not profile.has_input_of(carried):
        raise ExportError(
            f"got --profile {profile.name} for a checkpoint that was trained on the input of {carried.name}; leave "
            "--profile out"
        )
    profile = profile or carried
    if profile is None and spec == VISTA3DSpec() and trained_here:
        profile = find_profile("challenge")
    if profile is None:
        if spec == VISTA3DSpec():
            raise ExportError(
                "got full-size VISTA3D weights without an input profile, which the weights do not contain; give "
                f"--profile with one of: {list_profiles()}; or a .toml file of your own"
            )
        side = max(DEFAULT_ROI_SIDE, 2 * spec.roi_multiple)
        profile = replace(find_profile("tiny"), patch=(side, side, side))
    if "classes" in profile.branches:
        for part, prefix in (("class head", "class_head."), ("up path for classes", "image_encoder.up_layers_auto.")):
            if not any(key.startswith(prefix) for key in state):
                raise ExportError(
                    f"got the profile {profile.name} with class prompts, but weights without a {part}; take a profile "
                    'with branches = ["points"]'
                )
        last = max(profile.classes.names)
        if last >= spec.n_classes:
            raise ExportError(f"got class {last} in the profile {profile.name}, expected below {spec.n_classes}")
    if default_roi is not None:
        profile = replace(profile, patch=tuple(int(side) for side in default_roi))  # type: ignore[arg-type]
    return profile


def roi_rules(spec: VISTA3DSpec, default: Sequence[int] | None = None) -> RoiRules:
    """The rules for the regions that a network takes.

    Args:
        spec: its architecture.
        default: (z, y, x) voxels; None is a cube of 128.

    Raises:
        ExportError: a side of `default` is no multiple, or too small.
    """
    multiple = spec.roi_multiple
    # Instance norms of the deepest level need a variance: two voxels a side give eight values, one gives only one.
    minimum = 2 * multiple
    sides = tuple(int(side) for side in default) if default is not None else (max(DEFAULT_ROI_SIDE, minimum),) * 3
    if len(sides) != 3 or any(side % multiple or side < minimum for side in sides):
        raise ExportError(
            f"got a default region of {sides}, expected three multiples of {multiple} of at least {minimum}, (z, y, x)"
        )
    # The widest tensors are maps of the region with the network's width: 48 channels give 352³ voxels.
    most = _INT32_ELEMENTS // max(spec.width, spec.filters or 0, TAPS)
    if math.prod(sides) > most:
        raise ExportError(f"got a default region of {sides}, expected at most {most} voxels")
    return RoiRules(multiple, minimum, (sides[0], sides[1], sides[2]), most)

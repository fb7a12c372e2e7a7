"""The input profile of a run: where it comes from, what it asks of the recipe, and whether the cases suit it. No torch.

Weights that are fine-tuned on another input than they were made for lose what they knew, without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gstk.core.fields import Fields, FieldsSource
from gstk.core.profile import BRANCHES, InputProfile, list_profiles
from gstk.core.safe_npz import npz_header
from gstk.errors import GstkError, TrainingError
from gstk.training.case_files import PHANTOMS
from gstk.training.recipe import Recipe
from gstk.training.spec import VISTA3DSpec

__all__ = [
    "check_case_units",
    "profile_from_json",
    "require_profile",
    "trained_profile",
    "with_profile",
    "without_classes",
]


def with_profile(recipe: Recipe, profile: InputProfile) -> Recipe:
    """The recipe with the patch of a profile and, where its classes have names, its special classes.

    Raises:
        TrainingError: the recipe cuts or generates what the profile's network does not take.
    """
    has_resolution = profile.spacing_mm != "session"
    if has_resolution and recipe.data.cut == "zoom":
        raise TrainingError(
            f"got the recipe {recipe.name}, whose windows have any resolution, for the profile {profile.name}, whose "
            "network has one; take a recipe with data.cut = 'crop', such as coreset"
        )
    generates = recipe.data.source == "phantoms" or PHANTOMS in recipe.data.shares
    if generates and profile.intensities.source != "case":
        raise TrainingError(
            f"got the recipe {recipe.name}, which generates volumes of 0 to 255, for the profile {profile.name}, which "
            "takes other values; give cases in its units"
        )
    if has_resolution:
        recipe = replace(recipe, data=replace(recipe.data, patch_size=profile.patch))
    if profile.classes.names:
        special = profile.classes.special
        recipe = replace(
            recipe,
            stage1=replace(recipe.stage1, special_classes=special),
            stage2=replace(recipe.stage2, special_classes=special),
        )
    return recipe


def without_classes(profile: InputProfile) -> InputProfile:
    """The profile of a bundle's weights when they are trained on: its automatic branch cannot be had back from it.

    Raises:
        TrainingError: the bundle takes class prompts alone.
    """
    if "points" not in profile.branches:
        raise TrainingError(
            f"got a bundle with the profile {profile.name}, which takes class prompts alone: no point head to train; "
            "begin with the checkpoint that it was exported from, and give its --profile"
        )
    return replace(profile, branches=("points",))


def trained_profile(profile: InputProfile, recipe: Recipe) -> InputProfile:
    """The profile of what a run makes: its points are trained, and its patch is the one that the recipe settled on."""
    branches = tuple(branch for branch in BRANCHES if branch == "points" or branch in profile.branches)
    profile = replace(profile, branches=branches)
    if profile.spacing_mm == "session":
        return profile
    x, y, z = recipe.data.patch_size
    return replace(profile, patch=(x, y, z))


def require_profile(spec: VISTA3DSpec, extra: Mapping[str, Any], path: Path) -> InputProfile | None:
    """The profile that a checkpoint carries; None where it needs none.

    Args:
        spec: of its network.
        extra: `gstk.training.checkpoint.load_extra`.
        path: for messages.

    Raises:
        TrainingError: weights of full size that others trained: their names and shapes do not tell their input.
    """
    if "profile" in extra:
        return profile_from_json(extra["profile"], path)
    if spec == VISTA3DSpec() and "training" not in extra:
        raise TrainingError(
            f"got weights of VISTA3D's full size in {path} without an input profile, which they do not tell; say which "
            f"they are with --profile: {list_profiles()}; or a .toml file of your own"
        )
    return None


def profile_from_json(values: object, path: Path) -> InputProfile:
    """The profile that a run's files hold.

    Raises:
        TrainingError: it is none.
    """
    source = FieldsSource(f"the profile in {path}", "give it with --profile", TrainingError)
    return InputProfile.from_fields(Fields(values, source))


def check_case_units(cases: Sequence[Path], profile: InputProfile | None) -> None:
    """Finds cases whose values cannot be those of a profile, by their headers alone.

    Args:
        cases: .npz files; one that cannot be read is the training's to report.
        profile: of the network; None takes any.

    Raises:
        TrainingError: the profile is in HU, and a case is 0 to 255.
    """
    if profile is None or profile.intensities.source != "hounsfield":
        return
    windowed = []
    for case in cases:
        try:
            header = npz_header(case, "imgs")
        except GstkError:
            continue
        if header is not None and header[1] == np.uint8:
            windowed.append(case)
    if windowed:
        raise TrainingError(
            f"got {len(windowed)} of {len(cases)} cases with values of 0 to 255, first {windowed[0].name}, for the "
            f"profile {profile.name}, expected HU; make them anew with gstk prepare --profile {profile.name}"
        )

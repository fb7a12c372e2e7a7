"""The paper's augmentations (section 3.2), by MONAI's transforms; or every orientation alike, for data with no up."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from gstk.training.cutting import Patch
from gstk.training.recipe import DataRecipe

__all__ = ["augment"]

INTENSITY = 0.2
"""Range of the scale and of the shift, and standard deviation of the noise."""
_QUARTER_TURNS = ((0, 1), (0, 2), (1, 2))


def augment(patch: Patch, recipe: DataRecipe, rng: np.random.Generator) -> Patch:
    """Varies a patch's intensities and its orientation; its sides may change places.

    Each transform is drawn with its own probability: intensities times 1 ± 0.2, plus ± 0.2, plus Gaussian noise of
    standard deviation up to 0.2; flips of each axis; one to three quarter turns about an axis drawn at random.
    """
    transform = _transforms(recipe.intensity_probability, 0.0 if recipe.any_orientation else recipe.spatial_probability)
    transform.set_random_state(int(rng.integers(2**31)))
    varied = transform({"image": torch.from_numpy(patch.image)[None], "labels": torch.from_numpy(patch.labels)[None]})
    image, labels = (np.asarray(varied[key])[0] for key in ("image", "labels"))
    if recipe.any_orientation:
        axes = rng.permutation(3)
        flips = tuple(int(a) for a in np.flatnonzero(rng.random(3) < 0.5))
        image, labels = (np.flip(a.transpose(axes), flips) for a in (image, labels))
    return Patch(np.ascontiguousarray(image, np.float32), np.ascontiguousarray(labels, np.int32), patch.classes)


@cache
def _transforms(intensity: float, spatial: float) -> Any:
    from monai import transforms as t

    both = ["image", "labels"]
    turns: list[Callable[..., Any]] = [t.RandRotate90d(both, 1.0, 3, axes) for axes in _QUARTER_TURNS]
    steps: list[Callable[..., Any]] = [
        t.RandScaleIntensityd("image", factors=INTENSITY, prob=intensity),
        t.RandShiftIntensityd("image", offsets=INTENSITY, prob=intensity),
        t.RandGaussianNoised("image", prob=intensity, std=INTENSITY),
        *(t.RandFlipd(both, prob=spatial, spatial_axis=axis) for axis in range(3)),
        t.OneOf([t.Compose([]), t.OneOf(turns)], weights=[1 - spatial, spatial]),
    ]
    return t.Compose(steps)

"""Generated cases, for a first run without data."""

from __future__ import annotations

import numpy as np

from gstk.cases.npz import Case, to_label_map
from gstk.core.click_rule import component_centre
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.regions import bounds
from gstk.errors import CaseError

__all__ = ["phantom_case"]


def phantom_case(
    seed: int = 0, side: int = 96, kind: str = "organs", objects: int = 3, with_boxes: bool = False
) -> Case:
    """A generated volume with one click in each of its largest objects, a box on demand, and their true masks.

    Args:
        seed: the same seed gives the same case.
        side: voxels along each axis.
        kind: one of `gstk.cases.phantoms.KINDS`; "organs" looks like an abdominal CT.
        objects: how many.
        with_boxes: each object has its bounding box beside its click.

    Raises:
        CaseError: the volume holds no object, or fewer than one was asked for.
        TrainingError: the kind is unknown or the side too small.
    """
    from gstk.cases.phantoms import generate_phantom

    phantom = generate_phantom(seed, (side, side, side), kind)
    sizes = np.bincount(phantom.labels.ravel())[1:]
    chosen = np.argsort(-sizes, kind="stable")[: max(0, objects)] + 1
    if not len(chosen):
        raise CaseError(f"got no object in a phantom of seed {seed}, expected one or more; try another seed")
    labels = np.zeros(phantom.labels.shape, np.uint16)
    prompts = {}
    for label, source in enumerate(chosen, start=1):
        mask = phantom.labels == source
        labels[mask] = label
        region = bounds(mask) if with_boxes else None
        box = None if region is None else Box.from_corners([[a.start for a in region], [a.stop - 1 for a in region]])
        prompts[label] = ObjectPrompts((Point(component_centre(mask)),), box)
    geometry = Geometry(phantom.image.shape, phantom.spacing_mm)
    name = f"phantom_{kind}_{seed}"
    return Case(name, phantom.image, geometry, prompts, labels=to_label_map(labels, labels.shape, name))

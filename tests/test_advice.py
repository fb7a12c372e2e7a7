"""What is said of a click that changed nothing, on the whole mask and on the part of it that is not empty."""

from __future__ import annotations

import numpy as np
import pytest

from gstk.core.geometry import Geometry
from gstk.core.prompts import Voxel
from gstk.session.advice import no_change

GEOMETRY = Geometry((10, 30, 40), (5.0, 1.0, 2.0))


@pytest.mark.parametrize(
    ("voxel", "foreground", "said"),
    [
        ((4, 10, 12), True, "inside the mask already, 3.0 mm from its border"),  # y 7 is the first outside
        ((4, 3, 12), False, "outside the mask already, 5.0 mm"),
        ((0, 10, 12), False, "outside the mask already, 15.0 mm"),
        ((4, 10, 39), False, "outside the mask already, 46.0 mm"),
        ((4, 3, 12), True, "An earlier background click"),
        ((4, 10, 12), False, "An earlier foreground click"),
    ],
)
def test_the_distance_is_to_the_nearest_voxel_that_matters(voxel: Voxel, foreground: bool, said: str) -> None:
    mask = np.zeros(GEOMETRY.shape, bool)
    mask[3:6, 8:20, 10:17] = True
    whole = no_change(mask, voxel, foreground, GEOMETRY)
    assert said in whole
    region = (slice(2, 7), slice(7, 21), slice(9, 18))
    assert no_change(mask[region], voxel, foreground, GEOMETRY, region) == whole


def test_without_a_mask_the_next_step_is_named() -> None:
    empty = np.zeros(GEOMETRY.shape, bool)
    assert "found no object" in no_change(empty, (1, 2, 3), True, GEOMETRY)
    assert "click on the object first" in no_change(empty[:0], (1, 2, 3), False, GEOMETRY, (slice(0, 0),) * 3)

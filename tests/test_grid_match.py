"""Label maps stored otherwise than their image: every labelled voxel stays where it is in the patient."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.cases.grid_match import lay_on_grid
from gstk.core.geometry import Geometry
from gstk.errors import CaseError

TURN = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)
IMAGE = Geometry((5, 6, 7), (3.0, 1.5, 0.75), (-10.0, 20.0, 5.0), TURN)
MASK = np.random.default_rng(1).integers(0, 4, IMAGE.shape).astype(np.uint8)


def stored(order: tuple[int, ...], flipped: tuple[bool, ...]) -> tuple[np.ndarray, Geometry]:
    """The mask with its axes in another order and from the other side, and where it then lies."""
    axes = tuple(axis for axis in range(3) if flipped[axis])
    array = np.flip(MASK.transpose(order), axes)
    first = [MASK.shape[order[k]] - 1 if flipped[k] else 0 for k in range(3)]
    corner = [first[order.index(axis)] for axis in range(3)]
    columns = np.reshape(TURN, (3, 3))[:, ::-1][:, order] * np.where(flipped, -1, 1)  # of array axes 0, 1, 2
    return array, Geometry(
        array.shape,
        tuple(IMAGE.spacing_mm[axis] for axis in order),
        tuple(IMAGE.voxel_to_mm(corner)),
        tuple(columns[:, ::-1].ravel()),
    )


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flipped", list(product((False, True), repeat=3)))
def test_order_and_direction_of_storage(order: tuple[int, ...], flipped: tuple[bool, ...]) -> None:
    array, geometry = stored(order, flipped)
    np.testing.assert_array_equal(lay_on_grid(array, geometry, IMAGE, "it", whole=True), MASK)


@given(st.lists(st.tuples(st.integers(-3, 6), st.integers(1, 9)), min_size=3, max_size=3))
def test_a_part_and_more_than_the_image(ranges: list[tuple[int, int]]) -> None:
    first = np.array([low for low, _ in ranges])
    shape = tuple(n for _, n in ranges)
    geometry = Geometry(shape, IMAGE.spacing_mm, tuple(IMAGE.voxel_to_mm(first)), TURN)
    part, expected = np.zeros(shape, np.uint8), np.zeros_like(MASK)
    for at in np.ndindex(shape):
        there = tuple(first + at)
        if all(0 <= i < n for i, n in zip(there, MASK.shape, strict=True)):
            part[at] = expected[there] = MASK[there]
    np.testing.assert_array_equal(lay_on_grid(part, geometry, IMAGE, "it", whole=False), expected)


def test_other_grids_are_refused() -> None:
    for spacing, origin, said in (
        ((3.0, 1.5, 0.77), IMAGE.origin_mm, "mm off the image's voxels"),
        ((1.5, 1.5, 0.75), IMAGE.origin_mm, "other voxels or axes"),
        (IMAGE.spacing_mm, (-10.3, 20.0, 5.0), "mm off the image's voxels"),
        (IMAGE.spacing_mm, tuple(IMAGE.voxel_to_mm((1, 0, 0))), "voxels outside of the image"),
    ):
        with pytest.raises(CaseError, match=said):
            lay_on_grid(MASK, Geometry(MASK.shape, spacing, origin, TURN), IMAGE, "it", whole=False)
    moved = Geometry(MASK.shape, IMAGE.spacing_mm, tuple(IMAGE.voxel_to_mm((1, 0, 0))), TURN)
    with pytest.raises(CaseError, match="lies up to 3 mm away from the image"):
        lay_on_grid(np.zeros_like(MASK), moved, IMAGE, "it", whole=True)
    with pytest.raises(CaseError, match="other voxels or axes"):
        lay_on_grid(MASK, Geometry(MASK.shape, IMAGE.spacing_mm, IMAGE.origin_mm), IMAGE, "it", whole=False)

"""Connected parts and boxes of masks, beside SciPy and a search voxel by voxel."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage

from gstk.core.regions import bounds, components_with, connected_components, union

masks = arrays.arrays(bool, st.tuples(*[st.integers(1, 6)] * 3), elements=st.booleans())


@given(masks)
def test_bounds_are_those_of_scipy(mask: NDArray[np.bool_]) -> None:
    found = ndimage.find_objects(mask.astype(np.uint8))
    assert bounds(mask) == (found[0] if found else None)


@settings(max_examples=50)
@given(masks)
def test_parts_are_joined_by_corners_and_nothing_else(mask: NDArray[np.bool_]) -> None:
    parts, count = connected_components(mask)
    left = {tuple(int(i) for i in voxel) for voxel in np.argwhere(mask)}
    seen = set()
    while left:
        waiting = [left.pop()]
        part = set(waiting)
        while waiting:
            at = waiting.pop()
            near = {v for v in left if max(abs(a - b) for a, b in zip(at, v, strict=True)) <= 1}
            left -= near
            part |= near
            waiting.extend(near)
        numbers = {int(parts[voxel]) for voxel in part}
        assert len(numbers) == 1
        seen |= numbers
    assert seen == set(range(1, count + 1))
    assert (parts[~mask] == 0).all()


def labelled_whole(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3), bool))
    return labels, count


@settings(max_examples=50)
@given(masks)
def test_components_are_numbered_as_by_scipy(mask: NDArray[np.bool_]) -> None:
    labels, count = connected_components(mask)
    expected, expected_count = labelled_whole(mask)
    np.testing.assert_array_equal(labels, expected)
    assert count == expected_count


def check_components_with(mask: NDArray[np.bool_], voxels: NDArray[np.integer]) -> None:
    """Against labels of the whole array."""
    before = mask.copy()
    labels, _ = labelled_whole(mask)
    expected = np.isin(labels, np.setdiff1d(labels[tuple(voxels.T)], [0]))
    np.testing.assert_array_equal(components_with(mask, voxels), expected)
    np.testing.assert_array_equal(mask, before)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 14)] * 3),
    st.floats(0, 1),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_components_with_voxels_of_random_masks(
    seed: int, shape: tuple[int, int, int], density: float, coarseness: int, count: int
) -> None:
    """Noise of single voxels, whose components meet at corners, up to blobs."""
    rng = np.random.default_rng(seed)
    mask = rng.random([-(-n // coarseness) for n in shape]) < density
    for axis, n in enumerate(shape):
        mask = np.repeat(mask, coarseness, axis=axis).take(range(n), axis=axis)
    voxels = np.stack([rng.integers(0, n, count) for n in shape], axis=1)
    check_components_with(mask, voxels)
    check_components_with(np.asfortranarray(mask), voxels)


def test_a_component_that_meets_at_corners_alone_is_followed_to_its_end() -> None:
    mask = np.zeros((60, 60, 60), bool)
    steps = np.arange(60)
    mask[steps, steps, steps] = True
    mask[steps, 59 - np.abs(steps - 30), 0] = True
    mask[steps, 59 - np.abs(steps - 30), 59 - steps] = True
    for z in (0, 31, 59):
        check_components_with(mask, np.array([[z, z, z]]))
    check_components_with(mask, np.array([[0, 29, 0], [59, 30, 0]]))


def test_no_component_holds_no_voxel() -> None:
    mask = np.zeros((3, 4, 5), bool)
    assert not components_with(mask, np.array([[1, 1, 1]])).any()
    mask[0] = True
    assert not components_with(mask, np.zeros((0, 3), int)).any()
    assert not components_with(mask, np.array([[1, 1, 1]])).any()


@given(masks, masks)
def test_a_union_holds_both_and_an_empty_region_adds_nothing(
    first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> None:
    shape = [max(a, b) for a, b in zip(first.shape, second.shape, strict=True)]
    both = np.zeros(shape, bool)
    for mask in (first, second):
        both[tuple(slice(n) for n in mask.shape)] |= mask
    empty = (slice(3, 3), slice(0, 5), slice(0, 5))
    assert union(union(bounds(first), bounds(second)), empty) == (bounds(both) or (slice(0, 0),) * 3)

"""Connected parts and boxes of masks, beside SciPy and a search voxel by voxel."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage

from gstk.core.regions import bounds, connected_components, union

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

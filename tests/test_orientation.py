"""Views of arrays as arrays, beside NumPy; the directions themselves are checked against nibabel with the grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.core.orientation import contiguous


@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.sampled_from(list(itertools.permutations(range(3)))),
    st.tuples(*[st.sampled_from([1, -1, 2])] * 3),
    st.sampled_from([np.float32, np.uint16, np.float64]),
)
def test_contiguous_is_numpys(
    shape: tuple[int, int, int], order: tuple[int, int, int], steps: tuple[int, int, int], dtype: type[np.generic]
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    view = array.transpose(order)[tuple(slice(None, None, step) for step in steps)]
    copied = contiguous(view)
    np.testing.assert_array_equal(copied, view)
    assert copied.dtype == dtype
    assert copied.flags.c_contiguous


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_only_what_is_not_contiguous_is_copied(order: tuple[int, int, int]) -> None:
    array = np.zeros((3, 4, 5), np.float32)
    assert np.shares_memory(contiguous(array.transpose(order)), array) == (order == (0, 1, 2))

"""The distribution of values, beside NumPy on the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from gstk.core.distribution import Distribution
from gstk.core.intensities import rescale

DTYPES = st.sampled_from([np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32])


@given(
    DTYPES.flatmap(
        lambda dtype: arrays.arrays(
            dtype, st.tuples(*[st.integers(1, 5)] * 3), elements={"min_value": 0, "max_value": 99}
        )
    ),
    st.floats(0, 100),
    st.integers(0, 90),
)
def test_values_are_those_of_numpy(values: NDArray[np.generic], percentile: float, first: int) -> None:
    found = Distribution(values)
    assert (found.size, found.low, found.high) == (values.size, values.min(), values.max())
    assert found.percentiles([percentile, 50]) == [float(v) for v in np.percentile(values, [percentile, 50])]
    assert found.count(first, first + 9) == ((values >= first) & (values <= first + 9)).sum()
    rest = values[values != values.min()]
    others = found.without(float(values.min()))
    assert (others is None) == (rest.size == 0)
    if others is not None:
        assert (others.size, others.low) == (rest.size, rest.min())
        assert others.percentiles([percentile]) == [float(np.percentile(rest, percentile))]


def test_neighbours_in_rank_may_be_farther_apart_than_their_dtype_holds() -> None:
    assert Distribution(np.array([-30000, 30000], np.int16)).percentiles([25]) == [-15000.0]


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", ">i2"])
def test_every_small_integer_is_scaled_as_its_float(dtype: str) -> None:
    bounds = np.iinfo(dtype)
    every = np.arange(bounds.min, bounds.max + 1).astype(dtype).reshape(2, 16, -1)
    for low, high in ((-160.0, 240.0), (bounds.min + 0.25, bounds.max - 3.5)):
        expected = np.rint((np.clip(every.astype(float), low, high) - low) / (high - low) * 255)
        np.testing.assert_array_equal(rescale(every, low, high), expected)
        np.testing.assert_array_equal(rescale(every[:, ::2, ::-1], low, high), expected[:, ::2, ::-1])

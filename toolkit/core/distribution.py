"""The distribution of a volume's values. Small integers are counted, so that no copy of the volume is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.core.resampling import value_counts

__all__ = ["Distribution"]


class Distribution:
    """The values of a volume, without their positions.

    Attributes:
        size: how many there are.
        low, high: the least and the largest.
    """

    def __init__(self, values: NDArray[Any], counts: NDArray[np.int64] | None = None) -> None:
        """Counts values.

        Args:
            values: any real dtype and shape, not empty.
            counts: how often each occurs, where `values` are distinct and rising.
        """
        if counts is None and values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
            every = value_counts(values)
            occurring = np.flatnonzero(every)
            values, counts = occurring + int(np.iinfo(values.dtype).min), every[occurring]
        self._values, self._counts = values, counts
        self.size = values.size if counts is None else int(counts.sum())
        self.low, self.high = (values.min(), values.max()) if counts is None else (values[0], values[-1])

    def without(self, value: float) -> Distribution | None:
        """All but one value; None where there is no other."""
        kept = self._values != value
        if not kept.any():
            return None
        return Distribution(self._values[kept], None if self._counts is None else self._counts[kept])

    def count(self, first: float, last: float) -> int:
        """How many lie from `first` to `last`, both included."""
        inside = (self._values >= first) & (self._values <= last)
        return int(np.count_nonzero(inside) if self._counts is None else self._counts[inside].sum())

    def percentiles(self, percentiles: Sequence[float]) -> list[float]:
        """Percentiles, 0 to 100, interpolated linearly as `numpy.percentile` does, but always in float64."""
        rank = np.true_divide(percentiles, 100) * (self.size - 1)
        below = np.floor(rank).astype(np.int64)
        pair = np.minimum(np.stack([below, below + 1]), self.size - 1)
        if self._counts is None:
            ranked = self._values.flatten()
            ranked.partition(np.unique(pair))
            first, second = ranked[pair].astype(np.float64)  # NumPy's difference may not fit into the values' dtype
        else:
            last_rank = np.cumsum(self._counts)
            first, second = self._values[np.searchsorted(last_rank, pair, side="right")].astype(np.float64)
        share, step = rank - below, second - first
        # From the nearer end, as NumPy does, so that the results agree to the last bit.
        return [float(v) for v in np.where(share < 0.5, first + step * share, second - step * (1 - share))]

"""Slope and intercept of stored values, in the narrowest floating-point type that keeps their contrast."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stored", "float_type", "rescaled"]


class Stored(NamedTuple):
    """Stored values, and what makes intensities of them: slope · stored + intercept."""

    values: NDArray[Any]
    slope: float
    intercept: float


def rescaled(stored: Stored) -> NDArray[Any]:
    """The intensities, of `float_type`. Those beyond the range of float64 are infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.values.astype(np.float64) * stored.slope + stored.intercept
        return values.astype(float_type([stored]), copy=False)


def float_type(parts: Iterable[Stored]) -> type[np.float32 | np.float64]:
    """float32 where it tells apart what the stored values tell apart; else float64, as for wide stored types."""
    return np.float32 if all(_fits_float32(part) for part in parts) else np.float64


def _fits_float32(stored: Stored) -> bool:
    values = stored.values
    if values.dtype.itemsize >= 4 and values.dtype != np.float32:
        return False
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return True
    ends = float(values.min()), float(values.max())
    largest = max(abs(end * stored.slope + stored.intercept) for end in ends)
    if not largest <= float(np.finfo(np.float32).max):
        return False
    step = abs(stored.slope)
    if values.dtype.kind == "f":  # neighbours among floats are rounded again
        step *= 2 * float(np.spacing(np.float32(max(map(abs, ends)))))
    return float(np.spacing(np.float32(largest))) <= step or not any(ends)

"""Real World Value Mapping (DICOM PS3.3, C.7.6.16.2.11): what stored values mean, beside the rescale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["HOUNSFIELD", "RealWorldMapping", "read_mappings"]

HOUNSFIELD = "HU"
_UCUM = {"[hnsf'U]": HOUNSFIELD, "hnsf'U": HOUNSFIELD, "[HU]": HOUNSFIELD, "HU": HOUNSFIELD}


@dataclass(frozen=True, eq=False)
class RealWorldMapping:
    """From stored values to numbers with units.

    Attributes:
        units: UCUM's code, "HU" for Hounsfield units; "" where none is stated.
        slope, intercept: value = slope · stored + intercept, where there is no table.
        first: the stored value that `table` begins with.
        table: a value for each stored one; None for a slope.
    """

    units: str
    slope: float = 1.0
    intercept: float = 0.0
    first: int = 0
    table: NDArray[np.float64] | None = None

    def look_up(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        """The values of pixels by the table.

        Raises:
            ValueError: a stored value is outside the table.
        """
        assert self.table is not None
        index = stored.astype(np.int64) - self.first
        if index.min() < 0 or index.max() >= len(self.table):
            last = self.first + len(self.table) - 1
            raise ValueError(
                f"stored values from {stored.min()} to {stored.max()}, where its real world values are stated for "
                f"{self.first} to {last}"
            )
        return self.table[index]


def read_mappings(items: Sequence[Any]) -> list[RealWorldMapping]:
    """The mappings of a Real World Value Mapping Sequence that can be used, Hounsfield units first."""
    found = [mapping for item in items if (mapping := _read(item)) is not None]
    return sorted(found, key=lambda mapping: mapping.units != HOUNSFIELD)


def _read(item: Any) -> RealWorldMapping | None:
    codes = item.get("MeasurementUnitsCodeSequence") or []
    code = str(codes[0].get("CodeValue") or "").strip() if codes else ""
    units = _UCUM.get(code, code)
    table, first = item.get("RealWorldValueLUTData"), item.get("RealWorldValueFirstValueMapped")
    if table is not None and first is not None:
        values = np.atleast_1d(np.asarray(table, np.float64))
        return RealWorldMapping(units, first=int(first), table=values) if np.isfinite(values).all() else None
    slope, intercept = item.get("RealWorldValueSlope"), item.get("RealWorldValueIntercept")
    if slope is None or intercept is None:
        return None
    slope, intercept = float(slope), float(intercept)
    usable = math.isfinite(slope) and math.isfinite(intercept) and slope != 0
    return RealWorldMapping(units, slope, intercept) if usable else None

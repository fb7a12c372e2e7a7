"""What precisions without graphs of their own cost in Dice, kept in the user's cache beside the latency models.

INT8 is measured by the export, whose report is in the bundle. bfloat16 computes a bundle's float32 graphs, so its
measurement is made afterwards, and a bundle that is hashed cannot hold it.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gstk.calibration.store import cache_folder
from gstk.core.bundle import Bundle
from gstk.core.files import atomic_path

__all__ = ["MOST_DROP", "PrecisionQuality", "find_quality", "save_quality"]

MOST_DROP = 0.005
"""Most Dice that a precision may cost for `auto` to take it, as for INT8."""


@dataclass(frozen=True)
class PrecisionQuality:
    """Dice of clicks in float32 and in another precision.

    Attributes:
        bundle_sha256: of the bundle.
        backend, precision: what computed.
        cases: how many there were.
        dice_fp32, dice: means over cases and clicks.
    """

    bundle_sha256: str
    backend: str
    precision: str
    cases: int
    dice_fp32: float
    dice: float

    @property
    def drop(self) -> float:
        """Dice that the precision costs; below 0 where it gains."""
        return self.dice_fp32 - self.dice

    @property
    def is_accepted(self) -> bool:
        """Whether it costs at most `MOST_DROP`."""
        return self.drop <= MOST_DROP


def save_quality(quality: PrecisionQuality) -> Path:
    """Writes a measurement to the user's cache, in the place of an earlier one; returns the file.

    Raises:
        OutputError: it cannot be written.
    """
    file = _place(quality.bundle_sha256, quality.backend, quality.precision)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as draft:
        draft.write_text(json.dumps(asdict(quality), indent=1) + "\n", encoding="utf-8")
    return file


def find_quality(bundle: Bundle, backend: str, precision: str) -> PrecisionQuality | None:
    """The measurement of a bundle in the user's cache; None where there is none that is whole."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        file = _place(bundle.sha256, backend, precision)
        quality = PrecisionQuality(**json.loads(file.read_text(encoding="utf-8")))
        same = (quality.bundle_sha256, quality.backend, quality.precision) == (bundle.sha256, backend, precision)
        if same and math.isfinite(quality.drop) and quality.cases > 0:
            return quality
    return None


def _place(sha256: str, backend: str, precision: str) -> Path:
    return cache_folder() / "quality" / sha256[:16] / f"{backend}-{precision}.json"

"""How far a precision may be from torch. No torch here, so that a bundle can be checked without it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["REFERENCE", "TOLERANCES", "Tolerance", "compare"]

REFERENCE = "torch"
"""The engine that the others are compared with."""


class Tolerance(NamedTuple):
    """How far a precision may be from torch.

    Attributes:
        absolute: of a logit.
        relative: of the largest logit of the reference; the larger of the two counts.
        agreement: least share of voxels on the same side of 0.
    """

    absolute: float
    relative: float
    agreement: float

    def error(self, largest: float) -> float:
        """What a logit may differ by where the largest is this."""
        return max(self.absolute, self.relative * largest)


TOLERANCES = {
    # A trained network carries the float32 rounding of single norms to 5e-5 of its largest logit.
    "fp32": Tolerance(1e-4, 5e-5, 0.9999),
    # float16 has 11 bits: 5e-4 of a value, here after some 60 layers.
    "fp16": Tolerance(1e-2, 2e-2, 0.999),
}
"""By precision. INT8 has none: how good its masks are is asked of clicks on labelled cases."""


def compare(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    """Largest difference of a logit, and the share of logits on the same side of 0."""
    return {
        "max_abs_error": float(np.abs(logits - expected).max()),
        "mask_agreement": float(((logits > 0) == (expected > 0)).mean()),
    }

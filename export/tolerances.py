"""Tolerances of each precision against torch. This module needs no torch, so that bundles can be checked without it."""

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
        agreement: least share of voxels on the same side of 0, of those that count (`compare`).
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


def compare(logits: NDArray[np.float32], expected: NDArray[np.float32], allowed: float) -> dict[str, float]:
    """How far logits are from the reference's.

    Args:
        logits, expected: of one shape.
        allowed: what a logit may differ by. Where the reference's is no further than that from 0, the side of 0 says
            nothing about the graph: these voxels do not count for `mask_agreement`.

    Returns:
        `max_abs_error`, the largest difference; `mask_agreement`, the share of the voxels that count on the same side
        of 0 (1 where none counts); `mask_agreement_all`, the same of all voxels; `undecided`, the share that does not
        count.
    """
    same = (logits > 0) == (expected > 0)
    decided = np.abs(expected) > allowed
    return {
        "max_abs_error": float(np.abs(logits - expected).max()),
        "mask_agreement": float(same[decided].mean()) if decided.any() else 1.0,
        "mask_agreement_all": float(same.mean()),
        "undecided": float(1 - decided.mean()),
    }

"""Tolerances of each precision against torch. This module needs no torch, so that bundles can be checked without it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["REFERENCE", "TOLERANCES", "Tolerance", "compare"]

REFERENCE = "torch"
"""The engine that other engines are compared with."""


class Tolerance(NamedTuple):
    """The allowed deviation of a precision from torch.

    Attributes:
        absolute: allowed error of a logit.
        relative: allowed error relative to the largest logit of the reference; the larger of the two limits applies.
        agreement: least share of the counted voxels (`compare`) whose logits have the same sign.
    """

    absolute: float
    relative: float
    agreement: float

    def error(self, largest: float) -> float:
        """Allowed error of a logit if the largest logit of the reference is `largest`."""
        return max(self.absolute, self.relative * largest)


TOLERANCES = {
    # A trained network carries the float32 rounding of single norms to 5e-5 of its largest logit.
    "fp32": Tolerance(1e-4, 5e-5, 0.9999),
    # float16 has 11 bits: 5e-4 of a value, here after some 60 layers.
    "fp16": Tolerance(1e-2, 2e-2, 0.999),
}
"""Tolerances by precision. INT8 has none: its masks are evaluated by clicks on labelled cases."""


def compare(logits: NDArray[np.float32], expected: NDArray[np.float32], allowed: float) -> dict[str, float]:
    """Compares logits with the reference's.

    Args:
        logits, expected: logits of the graph and of the reference, with the same shape.
        allowed: allowed error of a logit. Voxels whose reference logit is within this distance of 0 do not count for
            `mask_agreement`, since an allowed error can change the side of 0.

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

"""Convolutions that keep their norm while they are fitted: see `LoopRecipe.convolution_rate`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FixedNorms"]


class FixedNorms:
    """The convolutions among some parameters, and the norms that they keep.

    Attributes:
        convolutions: weights of five axes.
        others: the rest.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Takes the norms of the present weights."""
        self.convolutions = [p for p in parameters if p.ndim == 5]
        self.others = [p for p in parameters if p.ndim != 5]
        self._norms = [float(p.detach().norm()) for p in self.convolutions]

    def groups(self, rate: float, other_rate: float) -> list[dict[str, object]]:
        """Parameter groups for an optimiser, each with its top learning rate as `top`.

        Args:
            rate: of a convolution, in shares of its weights' root mean square.
            other_rate: of the others.
        """
        scales = [norm / p.numel() ** 0.5 for p, norm in zip(self.convolutions, self._norms, strict=True)]
        groups: list[dict[str, object]] = [
            {"params": [p], "top": rate * scale, "weight_decay": 0.0}
            for p, scale in zip(self.convolutions, scales, strict=True)
        ]
        return [*groups, {"params": self.others, "top": other_rate}]

    @torch.no_grad()
    def restore(self) -> None:
        """Scales each convolution back to its norm."""
        for weight, norm in zip(self.convolutions, self._norms, strict=True):
            weight.mul_(norm / weight.norm().clamp_min(1e-12))

    def state(self) -> list[float]:
        """The norms; those of restored weights differ in the last bit."""
        return list(self._norms)

    def load_state(self, norms: Sequence[float] | Tensor) -> None:
        """Restores a state that `state` returned."""
        self._norms = [float(norm) for norm in norms]

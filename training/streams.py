"""Keeps the residual streams of the image encoder at the scale of what is added to them.

SegResNetDS normalises inside its blocks, not the stream that they add to. Trained from scratch, the coarse levels learn
first and amplify themselves: the maps that come up from below grew to hundreds of times the skip connections and blocks
that are added to them, after which fine detail no longer reaches the output (masks become round). Fine-tuning starts
from balanced weights and does not need this.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.vista3d import VISTA3D
from torch import Tensor

__all__ = ["LIMIT", "StreamScale"]

LIMIT = 1.5
"""Standard deviation within a channel beyond which a stream costs; branches add about 1."""


class StreamScale:
    """Watches the streams of an encoder at each level, on its way down and up."""

    def __init__(self, network: VISTA3D) -> None:
        """Hooks onto the network's encoder and the upsampling of the interactive branch."""
        self._streams: list[Tensor] = []
        encoder: Any = network.image_encoder
        encoder.encoder.register_forward_pre_hook(lambda *_: self._streams.clear())
        encoder.encoder.register_forward_hook(self._keep_levels)
        for level in encoder.up_layers:
            level["upsample"].register_forward_hook(self._keep)

    def loss(self) -> Tensor:
        """Sum over the streams of the last forward pass of max(0, log(deviation / `LIMIT`))², and forgets them."""
        streams, self._streams = self._streams, []
        total = torch.zeros((), device=streams[0].device)
        for stream in streams:
            variance = stream.float().var(dim=(2, 3, 4)).mean()
            total = total + torch.relu(0.5 * torch.log(variance / LIMIT**2 + 1e-12)).square()
        return total

    def _keep(self, module: Any, inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            self._streams.append(output)

    def _keep_levels(self, module: Any, inputs: Any, outputs: list[Tensor]) -> None:
        if torch.is_grad_enabled():
            self._streams.extend(outputs)

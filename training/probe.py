"""An auxiliary loss for networks trained from scratch: an object's voxels shall look alike to the encoder.

The point head compares what it gathered at a click with every voxel, a product of two things that both have to be
learned, and from random weights neither has a gradient worth the name until the other is there. The probe asks the
encoder alone: is this voxel's embedding similar to the clicked one, and near? It holds three numbers of its own and is
thrown away after training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SimilarityProbe"]


class SimilarityProbe(nn.Module):
    """Predicts B masks from one embedding by similarity to the clicked voxels and distance from them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.falloff = nn.Parameter(torch.tensor(4.0))
        self.bias = nn.Parameter(torch.tensor(-1.0))

    def forward(self, embedding: Tensor, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """Scores voxels.

        Args:
            embedding: float [1,C,h,w,d], from `Encoder`.
            point_coords: float [B,N,3], voxels of the region at full resolution.
            point_labels: int64 [B,N]; only points of label 1 or 3 count.

        Returns:
            logits, float [B,1,h,w,d].
        """
        shape = embedding.shape[2:]
        unit = F.normalize(embedding[0].flatten(1), dim=0)
        size = torch.tensor(shape, dtype=torch.float32)
        index = torch.minimum((point_coords / 2).long(), size.long() - 1)
        flat = (index[..., 0] * shape[1] + index[..., 1]) * shape[2] + index[..., 2]
        clicked = ((point_labels == 1) | (point_labels == 3)).float()
        picked = unit.t()[flat]  # [B,N,C]
        similarity = picked @ unit  # [B,N,T]
        axes = [(torch.arange(n, dtype=torch.float32) + 0.5) / n for n in shape]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, 1, -1, 3)
        distance = (grid - ((index + 0.5) / size).unsqueeze(2)).square().sum(-1)
        score = self.scale * similarity - self.falloff * distance + self.bias
        score = score.masked_fill(clicked.unsqueeze(-1) == 0, -1e4).amax(1)
        return score.reshape(-1, 1, *shape)

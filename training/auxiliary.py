"""An auxiliary task for small networks: to which object each voxel of the embedding belongs.

A click teaches about one object; a narrow network that is trained from scratch needs many of them before its features
tell objects apart. Here a linear map reads, from each voxel of the embedding, where the centre of that voxel's object
lies (as in instance segmentation by offsets, Neven et al., CVPR 2019) and whether a border runs there. It is trained
beside the masks and is no part of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ObjectReader"]

_BETA = 0.1
"""Where the loss of a centre turns from squared to absolute, in half sides of the region."""
CENTRE_WEIGHT, BORDER_WEIGHT = 0.5, 0.3


class ObjectReader(nn.Module):
    """A linear head that predicts objects from the embedding, and its loss."""

    def __init__(self, width: int) -> None:
        """Makes a reader for an embedding of `width` channels."""
        super().__init__()
        self.read = nn.Conv3d(width, 4, 1)

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """The loss: Huber of the centres over all objects' voxels, and cross entropy of the borders.

        Args:
            embedding: float [1,C,H/2,W/2,D/2].
            labels: int32 [H,W,D], object ids, 0 background.
        """
        ids = labels[::2, ::2, ::2]
        known, flat = torch.unique(ids, return_inverse=True)
        foreground = (ids > 0).float()
        found = self.read(embedding)[0]
        error = F.smooth_l1_loss(found[:3], _centres(flat, len(known)), reduction="none", beta=_BETA).mean(dim=0)
        centre = (error * foreground).sum() / foreground.sum().clamp_min(1)
        border = F.binary_cross_entropy_with_logits(found[3], _borders(ids))
        return CENTRE_WEIGHT * centre + BORDER_WEIGHT * border


def _centres(index: Tensor, count: int) -> Tensor:
    """[3,h,w,d]: at each voxel, the mean place of all voxels of its object, -1 to 1 from face to face."""
    axes = [(torch.arange(n, device=index.device) + 0.5) / n * 2 - 1 for n in index.shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    flat = index.reshape(-1)
    sums = torch.zeros(3, count, device=index.device).index_add_(1, flat, place)
    sizes = torch.bincount(flat, minlength=count).clamp_min(1)
    return (sums / sizes)[:, flat].reshape(3, *index.shape)


def _borders(ids: Tensor) -> Tensor:
    """[h,w,d]: 1 where one of the six neighbours belongs to something else."""
    borders = torch.zeros(ids.shape, device=ids.device)
    for axis in range(3):
        differs = (ids.diff(dim=axis) != 0).float()
        before = F.pad(differs, [0, 0] * (2 - axis) + [1, 0])
        after = F.pad(differs, [0, 0] * (2 - axis) + [0, 1])
        borders = torch.maximum(borders, torch.maximum(before, after))
    return borders

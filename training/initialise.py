"""Fresh weights that know what "near" means, for networks that are trained from scratch.

In VISTA3D a click meets the image in the cross-attention of the point head: queries and keys carry a Fourier encoding
of position, and nothing else tells a voxel that it lies beside a click. From random projections that relation takes
thousands of steps to appear at small widths. Here each head of those layers starts on the sine and cosine of one
frequency, so that its score is a constant times cos(2π f·(x - x₀)): largest at the click, falling with distance.
"""

from __future__ import annotations

from typing import cast

import torch
from monai.networks.nets.vista3d import VISTA3D, PointMappingSAM

from gstk.errors import TrainingError

__all__ = ["local_prompt_init"]


@torch.no_grad()
def local_prompt_init(
    network: VISTA3D, frequencies: tuple[float, float] = (0.35, 0.9), gain: float = 2.4, embedding_scale: float = 0.3
) -> None:
    """Sets the point head's positional frequencies and cross-attention projections, in place.

    Args:
        network: fresh; at least 12 channels wide, for two frequencies along each of three axes.
        frequencies: cycles over half a region's side: layer 0 attends with the first, layer 1 with the second.
        gain: weight of the encoding in queries and keys; its square over √(channels of a head) scales the scores.
        embedding_scale: factor on the learned tokens, whose random values would drown the positions.

    Raises:
        TrainingError: the network is too narrow.
    """
    head = cast(PointMappingSAM, network.point_head)
    matrix = cast(torch.Tensor, head.pe_layer.positional_encoding_gaussian_matrix)
    count = matrix.shape[1]
    if count < 6:
        raise TrainingError(f"got {count} positional frequencies, expected 6 or more; use a width of 16 or more")
    for index in range(6):
        matrix[:, index] = 0
        matrix[index % 3, index] = frequencies[index // 3]
    matrix[:, 6:] *= frequencies[1]
    for depth, layer in enumerate(head.transformer.layers):
        for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            for projection in (attention.q_proj, attention.k_proj):
                projection.bias.zero_()
                rows = projection.weight.chunk(attention.num_heads)
                for number, weight in enumerate(rows):
                    # Heads 0-2 take this layer's frequency along z, y, x; the last one the other layer's along z.
                    frequency = (number + 3 * depth) % 6 if number < 3 else (3 - 3 * depth) % 6
                    weight.mul_(0.3)
                    weight[:2] = 0
                    weight[0, frequency] = gain
                    weight[1, count + frequency] = gain
    for embedding in (*head.point_embeddings, head.mask_tokens, head.supported_embed, head.not_a_point_embed):
        embedding.weight.mul_(embedding_scale)

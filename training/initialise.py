"""Initial weights whose attention depends on distance, for narrow networks that are trained from scratch.

In VISTA3D a click meets the image in the cross-attention of the point head: queries and keys carry a Fourier encoding
of position, and nothing else tells a voxel that it lies beside a click. That encoding is added to image features of the
same size, and from random projections the relation takes thousands of steps to appear. Here it is there from the start:

- Frequencies lie along one axis each, in pairs of opposite sign: sin(θ), sin(-θ) and cos(θ), cos(-θ).
- The image features of such a pair begin equal where the encoding is opposite, and opposite where it is equal, so that
  differences and sums hold the position alone.
- Queries and keys read those, which makes the score of two places a constant times Σ cos(θ - θ₀) over the axes.
- Values and outputs start as the identity: what is gathered at a click arrives as it was.
"""

from __future__ import annotations

from typing import cast

import torch
from monai.networks.nets.vista3d import VISTA3D, Attention, PointMappingSAM
from torch import Tensor, nn

from gstk.errors import TrainingError

__all__ = ["local_prompt_init"]

_POSITION_CHANNELS = 6
"""Sine and cosine along three axes."""


@torch.no_grad()
def local_prompt_init(
    network: VISTA3D, frequency: float = 0.4, gain: float = 4.0, embedding_scale: float = 0.3
) -> None:
    """Sets the point head's frequencies and attention and the encoder's last convolution, in place.

    Args:
        network: fresh; its width a multiple of 4, each head of its cross-attention comparing 6 channels or more.
        frequency: cycles over half a region's side; above 0.5 the far face would look like the near one.
        gain: of the encoding in queries and keys; its square over √(channels of a head) scales the scores.
        embedding_scale: factor on the learned tokens, whose random values would drown the positions.

    Raises:
        TrainingError: the network is too narrow.
    """
    head = cast(PointMappingSAM, network.point_head)
    matrix = cast(Tensor, head.pe_layer.positional_encoding_gaussian_matrix)
    half = matrix.shape[1]
    final = head.transformer.final_attn_token_to_image
    compared = final.internal_dim // final.num_heads
    if half % 2 or half < _POSITION_CHANNELS or compared < _POSITION_CHANNELS:
        raise TrainingError(
            f"got {2 * half} channels and {compared} a head, expected a multiple of 4 from 12 on and 6 a head or more"
        )
    matrix.zero_()
    last_conv = cast(nn.Conv3d, head.feat_downsample[3])
    for pair in range(half // 2):
        cycles = frequency * (1.0 if pair < 3 else 2.2)  # what is left over looks closer
        matrix[pair % 3, 2 * pair], matrix[pair % 3, 2 * pair + 1] = cycles, -cycles
        last_conv.weight[2 * pair + 1] = last_conv.weight[2 * pair]
        last_conv.weight[half + 2 * pair + 1] = -last_conv.weight[half + 2 * pair]
    for layer in head.transformer.layers:
        _pass_through(layer.self_attn)
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.mul_(0.3)
        for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            _compare_positions(attention, half, gain)
            _pass_through(attention)
    _compare_positions(final, half, gain)
    _pass_through(final)
    for embedding in (*head.point_embeddings, head.mask_tokens, head.supported_embed, head.not_a_point_embed):
        embedding.weight.mul_(embedding_scale)


def _compare_positions(attention: Attention, half: int, gain: float) -> None:
    for projection in (attention.q_proj, attention.k_proj):
        projection.bias.zero_()
        projection.weight.mul_(0.3)
        for rows in projection.weight.chunk(attention.num_heads):
            rows[:_POSITION_CHANNELS] = 0
            for axis in range(3):
                rows[axis, 2 * axis], rows[axis, 2 * axis + 1] = gain / 2, -gain / 2
                rows[3 + axis, half + 2 * axis] = rows[3 + axis, half + 2 * axis + 1] = gain / 2


def _pass_through(attention: Attention) -> None:
    nn.init.eye_(attention.v_proj.weight)
    nn.init.eye_(attention.out_proj.weight)
    attention.v_proj.bias.zero_()
    attention.out_proj.bias.zero_()

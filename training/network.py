"""VISTA3D on MONAI's own modules, and its interactive branch as two modules: encode an image once, decode every click.

`Encoder` and `PromptDecoder` hold no weights of their own: they run the modules of the network that they are given, in
an order that does the prompt-independent work once, that traces into clean graphs, and that trains. Their result is
`VISTA3D.forward`'s, to rounding (`tests/test_network.py`).

Axis letters: B objects, N points, C channels, T image tokens (of half resolution), Q prompt tokens, H W D voxels.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import cast

import torch
from monai.networks.nets import SegResNetDS2
from monai.networks.nets.vista3d import (
    VISTA3D,
    Attention,
    ClassMappingClassify,
    PointMappingSAM,
    TwoWayAttentionBlock,
    TwoWayTransformer,
)
from torch import Tensor, nn
from torch.nn import functional as F

from gstk.training.spec import VISTA3DSpec

__all__ = ["TAPS", "ClassEncoder", "Encoder", "PromptDecoder", "build_network", "class_vectors"]

_IGNORED = -2
_LOWERED = -6e4
"""Added to the attention scores of an ignored point: float16 holds it, and its softmax weight is exactly 0."""

TAPS = 27
"""Of the last convolution's kernel, 3³: so many maps the prompt decoder has at full resolution."""


def build_network(spec: VISTA3DSpec | None = None) -> VISTA3D:
    """Builds VISTA3D from MONAI's modules with fresh weights.

    Args:
        spec: the architecture; None is `vista3d132`, whose state dict has the official names and shapes.
    """
    spec = spec or VISTA3DSpec()
    image_encoder = SegResNetDS2(
        in_channels=spec.in_channels,
        blocks_down=spec.blocks_down,
        norm="instance",
        out_channels=spec.width,
        init_filters=spec.filters,
        dsdepth=1,
    )
    point_head = PointMappingSAM(feature_size=spec.width, n_classes=spec.n_classes, last_supported=spec.last_supported)
    # MONAI's own point head has four heads and halves the channels, always.
    point_head.transformer = TwoWayTransformer(
        depth=2,
        embedding_dim=spec.width,
        mlp_dim=512,
        num_heads=spec.heads,
        attention_downsample_rate=spec.attention_downsample,
    )
    class_head = ClassMappingClassify(n_classes=spec.n_classes, feature_size=spec.width, use_mlp=True)
    return VISTA3D(image_encoder=image_encoder, class_head=class_head, point_head=point_head)


class Encoder(nn.Module):
    """Everything of the interactive branch that does not depend on a prompt (the encoder graph)."""

    def __init__(self, network: VISTA3D) -> None:
        super().__init__()
        self.image_encoder = network.image_encoder
        self.feat_downsample = network.point_head.feat_downsample

    def forward(self, image: Tensor) -> Tensor:
        """Encodes a region.

        Args:
            image: float [1,1,H,W,D], percentile-normalised to 0–1, sides multiples of the spec's `roi_multiple`.

        Returns:
            float [1,C,H/2,W/2,D/2].
        """
        features, _ = self.image_encoder(image, with_point=True, with_label=False)
        embedding = cast(Tensor, self.feat_downsample(features))
        if embedding.requires_grad:
            # The gradient of the decoder's tokens arrives channels-last, and for a batch of one torch (2.13, CPU) then
            # computes a wrong gradient of the instance norm in front. MONAI's own network has the fault for one object.
            embedding.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        return embedding


class PromptDecoder(nn.Module):
    """The point head behind `feat_downsample`, B objects on one embedding (the prompt decoder graph).

    The head ends in `hyper · Conv3d(u)`. Both are linear, so the convolution's kernel is contracted with `hyper` first:
    C→C channels become 27 taps by one matrix product per object, and shifting and adding them is what is left: one axis
    at a time, three taps each, 27 → 9 → 3 → 1 maps. A direct 27→1 convolution costs a CPU five times as much.
    """

    shifts_9: Tensor
    shifts_3: Tensor
    shifts_1: Tensor

    def __init__(self, network: VISTA3D, zero_shot: bool = True, ignored_points: bool = True) -> None:
        """Takes the head of a network.

        Args:
            network: its weights are shared.
            zero_shot: whether there are the labels 4 and 5. Training leaves their token as it is, and bundles of an
                older gstk have a graph without them.
            ignored_points: whether there is the label -2. Training does without it, and so do bundles of an older gstk.
        """
        super().__init__()
        self.zero_shot, self.ignored_points = zero_shot, ignored_points
        head = cast(PointMappingSAM, network.point_head)
        self.pe_layer = head.pe_layer
        self.point_embeddings = head.point_embeddings
        self.not_a_point_embed = head.not_a_point_embed
        self.special_class_embed = head.special_class_embed
        self.supported_embed = head.supported_embed
        if zero_shot:
            self.zeroshot_embed = head.zeroshot_embed
        self.mask_tokens = head.mask_tokens
        self.transformer = head.transformer
        self.upsample = head.output_upscaling[:3]
        self.last_conv = head.output_upscaling[3]
        self.hyper = head.output_hypernetworks_mlps
        for count in (9, 3, 1):
            self.register_buffer(f"shifts_{count}", _shifts(count), persistent=False)

    def forward(self, embedding: Tensor, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        """Decodes the prompts of B objects.

        Args:
            embedding: float [1,C,H/2,W/2,D/2], from `Encoder`.
            point_coords: float [B,N,3], voxel indices of the region (z,y,x).
            point_labels: int64 [B,N]: -1 padding, 0/1 background/foreground, 2/3 the same for special classes, 4/5 the
                same for an object that is of no class which the network was trained on: it gets the zero-shot token;
                -2 for a point that is ignored, as if it were not there. Padding (-1) is MONAI's: a token that the
                others attend to, so the logits depend on it.

        Returns:
            logits, float [B,1,H,W,D]: above 0 is the object.
        """
        h, w, d = embedding.shape[2:]
        prompt = self._embed_points(point_coords, point_labels, (2 * h, 2 * w, 2 * d))
        objects = prompt.shape[0]
        mask_token = self.mask_tokens.weight.unsqueeze(0).expand(objects, -1, -1)
        if self.zero_shot:
            class_token = self._class_token(point_labels, prompt.dtype)
        else:
            class_token = self.supported_embed.weight.unsqueeze(0).expand(objects, -1, -1)
        tokens_BQC = torch.cat((mask_token, prompt, class_token), dim=1)
        image_TC = embedding.flatten(2).transpose(1, 2)
        lowered_BQ = self._lowered_scores(point_labels, prompt.dtype) if self.ignored_points else None
        grid_1TC = self._grid_encoding(h, w, d)
        tokens_BQC, image_BTC = _two_way(self.transformer, image_TC, grid_1TC, tokens_BQC, lowered_BQ)
        hyper_B1C = self.hyper(tokens_BQC[:, :1, :])
        features = image_BTC.transpose(1, 2).reshape(objects, -1, h, w, d)
        return self._fold(self.upsample(features), hyper_B1C)

    def _embed_points(self, coords: Tensor, labels: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Point tokens [B,N,C]; MONAI's boolean-indexed additions written as masks and sums."""
        matrix = self._frequencies()
        z, y, x = ((coords[..., axis : axis + 1] + 0.5) / shape[axis] for axis in range(3))
        angle = 2 * math.pi * ((2 * z - 1) * matrix[0] + (2 * y - 1) * matrix[1] + (2 * x - 1) * matrix[2])
        encoding = torch.cat((torch.sin(angle), torch.cos(angle)), dim=-1)

        def mask(*values: int) -> Tensor:
            hit = reduce(torch.logical_or, [labels == value for value in values])
            return hit.unsqueeze(-1).to(encoding.dtype)

        novel = (4, 5) if self.zero_shot else ()
        tokens: Tensor = (
            encoding * (1 - mask(-1))
            + mask(-1) * self.not_a_point_embed.weight
            + mask(0, 2, *novel[:1]) * self.point_embeddings[0].weight
            + mask(1, 3, *novel[1:]) * self.point_embeddings[1].weight
            + mask(2, 3) * self.special_class_embed.weight
        )
        return tokens

    def _class_token(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """The token [B,1,C] that says whether an object is of a class that the network was trained on."""
        novel_BN1 = torch.logical_or(labels == 4, labels == 5).unsqueeze(-1).to(dtype)
        # How many of its points are of a novel object, as a product: every backend has that for dynamic shapes.
        supported_B11 = (novel_BN1.transpose(1, 2) @ novel_BN1 == 0).to(dtype)
        token: Tensor = supported_B11 * self.supported_embed.weight + (1 - supported_B11) * self.zeroshot_embed.weight
        return token

    def _lowered_scores(self, labels_BN: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to the scores [B,Q] of the prompt tokens wherever others attend to them."""
        points_BN = (labels_BN == _IGNORED).to(dtype) * _LOWERED
        other_B1 = points_BN[:, :1] * 0  # the mask token in front, and the class token behind
        return torch.cat((other_B1, points_BN, other_B1), dim=1)

    def _grid_encoding(self, h: int, w: int, d: int) -> Tensor:
        """Positional encoding of the image tokens [1,T,C].

        The angle is a sum of one term per axis, so sine and cosine are taken of the axes and added up as angles are:
        a product of turns. A sine for each token costs a CPU four times as much.
        """
        matrix = self._frequencies()

        def turn(size: int, axis: int, *shape: int) -> tuple[Tensor, Tensor]:
            centre = (torch.arange(size, dtype=matrix.dtype, device=matrix.device) + 0.5) / size
            angle = (2 * math.pi * (2 * centre - 1).unsqueeze(-1) * matrix[axis]).reshape(*shape, -1)
            return torch.sin(angle), torch.cos(angle)

        def after(first: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            (sin, cos), (more_sin, more_cos) = first, then
            return sin * more_cos + cos * more_sin, cos * more_cos - sin * more_sin

        plane = after(turn(h, 0, h, 1, 1), turn(w, 1, 1, w, 1))
        sin, cos = after(plane, turn(d, 2, 1, 1, d))
        return torch.cat((sin, cos), dim=-1).reshape(1, h * w * d, 2 * matrix.shape[1])

    def _frequencies(self) -> Tensor:
        return cast(Tensor, self.pe_layer.positional_encoding_gaussian_matrix)

    def _fold(self, features_BCHWD: Tensor, hyper_B1C: Tensor) -> Tensor:
        objects, channels, h, w, d = features_BCHWD.shape
        kernel = self.last_conv.weight.reshape(channels, channels * TAPS)
        kernel_BC27 = (hyper_B1C @ kernel).reshape(objects, channels, TAPS)
        bias_B1111 = (hyper_B1C @ self.last_conv.bias).reshape(objects, 1, 1, 1, 1)
        if self.training:  # the same sum as one convolution an object: half the time of the other with its gradient
            kernels = kernel_BC27.reshape(objects, 1, channels, 3, 3, 3)
            each = [F.conv3d(f.unsqueeze(0), k, padding=1) for f, k in zip(features_BCHWD, kernels, strict=True)]
            logits: Tensor = torch.cat(each) + bias_B1111
            return logits
        maps: Tensor = kernel_BC27.transpose(1, 2) @ features_BCHWD.reshape(objects, channels, h * w * d)
        maps = maps.reshape(objects, TAPS, h, w, d)
        for axis, shifts in ((2, self.shifts_9), (1, self.shifts_3), (0, self.shifts_1)):
            # The last axis of a kernel varies fastest from one tap to the next.
            kernel_shape, padding = [1, 1, 1], [0, 0, 0]
            kernel_shape[axis], padding[axis] = 3, 1
            maps = F.conv3d(maps, shifts.to(maps.dtype).reshape(*shifts.shape[:2], *kernel_shape), padding=padding)
        return torch.add(maps, bias_B1111)


class ClassEncoder(nn.Module):
    """The automatic branch up to its class-independent features; a class's logits are one product with them."""

    def __init__(self, network: VISTA3D) -> None:
        super().__init__()
        self.image_encoder = network.image_encoder
        self.image_post_mapping = cast(ClassMappingClassify, network.class_head).image_post_mapping

    def forward(self, image: Tensor) -> Tensor:
        """Encodes a region.

        Args:
            image: as of `Encoder.forward`.

        Returns:
            float [1,C,H,W,D]; logits of a class are its vector (`class_vectors`) times them.
        """
        _, features = self.image_encoder(image, with_point=False, with_label=True)
        return cast(Tensor, self.image_post_mapping(features))


def class_vectors(network: VISTA3D) -> Tensor:
    """The class vectors, float [n_classes,C]: a class's logits are its vector times a region's features."""
    head = cast(ClassMappingClassify, network.class_head)
    with torch.no_grad():
        return cast(Tensor, head.mlp(head.class_embeddings.weight[:, None]))[:, 0]


def _shifts(count: int) -> Tensor:
    """[count,3·count,3]: the kernel that adds up each three maps, the first shifted back by one, the last forth."""
    return torch.einsum("ij,tu->ijtu", torch.eye(count), torch.eye(3)).reshape(count, 3 * count, 3)


def _two_way(
    transformer: TwoWayTransformer, image: Tensor, image_pe: Tensor, points: Tensor, lowered_BQ: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`TwoWayTransformer.forward` on tokens; a batch of one image broadcasts over B objects for as long as it can.

    Args:
        transformer: the weights.
        image, image_pe: image tokens and their positional encoding.
        points: prompt tokens.
        lowered_BQ: what is added to the scores of the prompt tokens; None adds nothing.
    """
    queries, keys = points, image
    for layer in transformer.layers:
        queries, keys = _block(layer, queries, keys, points, image_pe, lowered_BQ)
    attended = _read_image(transformer.final_attn_token_to_image, queries + points, keys + image_pe, keys)
    return transformer.norm_final_attn(queries + attended), keys


def _block(
    block: TwoWayAttentionBlock,
    queries: Tensor,
    keys: Tensor,
    query_pe: Tensor,
    key_pe: Tensor,
    lowered_BQ: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if block.skip_first_layer_pe:
        queries = _attend(block.self_attn, queries, queries, queries, lowered_BQ)
    else:
        q = queries + query_pe
        queries = queries + _attend(block.self_attn, q, q, queries, lowered_BQ)
    queries = block.norm1(queries)
    positioned = keys + key_pe
    queries = block.norm2(queries + _read_image(block.cross_attn_token_to_image, queries + query_pe, positioned, keys))
    queries = block.norm3(queries + block.mlp(queries))
    update = _write_image(block.cross_attn_image_to_token, positioned, queries + query_pe, queries, lowered_BQ)
    return queries, block.norm4(keys + update)


def _attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor, lowered_BQ: Tensor | None) -> Tensor:
    """`Attention.forward` among prompt tokens."""
    q, k, v = (_heads(attention, x) for x in (attention.q_proj(q), attention.k_proj(k), attention.v_proj(v)))
    scores_BhQQ = _scale(q) @ k.transpose(2, 3)
    if lowered_BQ is not None:
        scores_BhQQ = scores_BhQQ + lowered_BQ[:, None, None, :]
    return _merge(attention, torch.softmax(scores_BhQQ, dim=-1) @ v)


def _read_image(attention: Attention, q_BQC: Tensor, k_BTC: Tensor, v_BTC: Tensor) -> Tensor:
    """`Attention.forward` from few queries to many image tokens.

    `q · (W k + b)` is `(Wᵀ q) · k` and a number that the softmax over tokens drops; a weighted sum of projected values
    is the projection of their weighted sum. So the queries are projected and the image is not.
    """
    q_BhQd = _scale(_heads(attention, attention.q_proj(q_BQC)))
    rows_BRC = (q_BhQd @ _per_head(attention, attention.k_proj)).flatten(1, 2)
    weights_BRT = torch.softmax(rows_BRC @ k_BTC.transpose(1, 2), dim=-1)
    read_BRC = weights_BRT @ v_BTC
    read_BhQC = read_BRC.reshape(read_BRC.shape[0], attention.num_heads, -1, read_BRC.shape[2])
    bias_h1d = attention.v_proj.bias.reshape(attention.num_heads, 1, -1)
    return _merge(attention, read_BhQC @ _per_head(attention, attention.v_proj).transpose(1, 2) + bias_h1d)


def _write_image(
    attention: Attention, q_BTC: Tensor, k_BQC: Tensor, v_BQC: Tensor, lowered_BQ: Tensor | None
) -> Tensor:
    """`Attention.forward` from many image tokens to few keys: as `_read_image`, the keys and values are projected."""
    k_BhQd = _scale(_heads(attention, attention.k_proj(k_BQC)))
    rows_BRC = (k_BhQd @ _per_head(attention, attention.q_proj)).flatten(1, 2)
    bias_hd1 = attention.q_proj.bias.reshape(attention.num_heads, -1, 1)
    offset_BhQ1 = k_BhQd @ bias_hd1
    if lowered_BQ is not None:  # here, where there is one number for each prompt token and not for each image token
        offset_BhQ1 = offset_BhQ1 + lowered_BQ[:, None, :, None]
    offset_B1R = offset_BhQ1.flatten(1).unsqueeze(1)
    scores_BTR = q_BTC @ rows_BRC.transpose(1, 2) + offset_B1R
    scores_BThQ = scores_BTR.reshape(*scores_BTR.shape[:2], attention.num_heads, -1)
    weights_BTR = torch.softmax(scores_BThQ, dim=-1).flatten(2)
    out_hdC = attention.out_proj.weight.t().reshape(attention.num_heads, -1, attention.embedding_dim)
    values_BRC = (_heads(attention, attention.v_proj(v_BQC)) @ out_hdC).flatten(1, 2)
    return cast(Tensor, weights_BTR @ values_BRC + attention.out_proj.bias)


def _heads(attention: Attention, x_BQD: Tensor) -> Tensor:
    """[B,Q,heads·d] → [B,heads,Q,d]."""
    return x_BQD.reshape(*x_BQD.shape[:2], attention.num_heads, -1).transpose(1, 2)


def _per_head(attention: Attention, projection: nn.Module) -> Tensor:
    """Weights of a projection as [heads,d,C]."""
    return cast(Tensor, projection.weight).reshape(attention.num_heads, -1, attention.embedding_dim)


def _merge(attention: Attention, x_BhQd: Tensor) -> Tensor:
    """The heads side by side, through the last projection."""
    return cast(Tensor, attention.out_proj(x_BhQd.transpose(1, 2).flatten(2)))


def _scale(x_BhQd: Tensor) -> Tensor:
    return x_BhQd * (1.0 / math.sqrt(x_BhQd.shape[-1]))

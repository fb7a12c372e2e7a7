"""Instance normalisation that stays exact on large regions, for OpenVINO's CPU plugin.

The plugin's kernel adds up a channel's voxels one after the other in float32. Its error grows with their number: 2e-5
of the result at 64³, 1e-4 at 96³, and 1.6e-3 in the logits of a whole network at 128³ (AVX-512, channels last). The
rewritten graph takes the mean of each 8³ block first, and then the mean of the blocks, so partial sums are short. The
error of the same network is then within 2e-5, at the cost of one more pass over the tensor.

The decoder has one norm, of the largest tensor there is. Its variance is the mean of the squares, of which each row is
added up by itself, less the square of the mean: squared differences would be written to memory and read again, a tenth
of a decode. The error grows with the square of the mean over the deviation, which is 2.5 at most with `tiny`, and 1e-6
of the logits. An encoder, where norms follow one another and channels may be almost constant, keeps the differences.

Deep in the network there are few voxels, and their sides are not multiples of a block's side; those norms are not
changed. Every additional node would also make compilation slower.

Class logits are sums over all features, and carry more of the error, above all where a patch shows much air: there most
blocks are constant, and each rounds the same way. Blocks of 8³ made half of a full-size network's error. So for
classes every norm is rewritten; blocks of 2³ are averaged again and again, and then one axis after the other. No sum
has more terms than 8 or than a side has blocks, and the norms' error is far below that of the convolutions, in no more
time. In bfloat16, whose own error is a thousand times larger, blocks keep 8³.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["NORM_BLOCK", "split_instance_norms"]

NORM_BLOCK, LEAST_BLOCK = 8, 4
"""Side of a block in voxels: the largest, and the smallest that is worth the rewrite."""
_LEVELS = {"image": 0, "embedding": 1}
"""Number of times that the sides of an input were halved."""


def split_instance_norms(
    model: Any, multiple: int, every: bool = False, squares: bool = False, by_eights: bool = False
) -> int:
    """Rewrites in place the MVN nodes over three spatial axes whose sides are always multiples of a block's side.

    Args:
        model: an `openvino.Model` with an input `image` or `embedding`, any spatial shape, dynamic or not.
        multiple: every side of an image is a multiple of this number.
        every: rewrite all of these nodes, and average in more steps.
        squares: variances are mean squares less the mean's square, as for a decoder.
        by_eights: no mean adds up more than 8 voxels, or the blocks along a side, as for classes; not with `squares`.

    Returns:
        The number of rewritten nodes.
    """
    from openvino import opset13 as ops

    zero, along_row = ops.constant(np.float32(0)), ops.constant(np.array([4], np.int64))
    axes, inverse_root = ops.constant(np.array([2, 3, 4], np.int64)), ops.constant(np.float32(-0.5))
    in_plane, across_rows, first = (ops.constant(np.array(own, np.int64)) for own in ([3, 4], [3], [2]))
    epsilons: dict[float, Any] = {}

    def count(x: Any, along: Any) -> Any:
        lengths = ops.gather(ops.shape_of(x), along, np.int64(0))
        return ops.convert(ops.reduce_prod(lengths, np.int64(0), keep_dims=False), np.float32)

    def pooled(x: Any, block: list[int]) -> Any:
        return ops.avg_pool(x, block, [0] * 3, [0] * 3, block, exclude_pad=True) if max(block) > 1 else x

    def mean_in_steps(x: Any, along: Any) -> Any:
        # OpenVINO would merge two means, and have the features channels first if an axis went away and came back.
        sums = ops.reduce_sum(x, along, keep_dims=True)
        return ops.divide(ops.reduce_mean(sums, first, keep_dims=True), count(x, along))

    def mean_of_blocks(x: Any, side: int, depth: int | None = None) -> Any:
        if by_eights:
            halvings = (side & -side).bit_length() - 1
            for _ in range(halvings):
                x = pooled(x, [2] * 3)
            return mean_in_steps(ops.reduce_mean(x, along_row, keep_dims=True), across_rows)
        blocks = pooled(x, [side, side, side if depth is None else depth])
        return mean_in_steps(blocks, in_plane) if every or squares else ops.reduce_mean(blocks, axes, keep_dims=True)

    def variance_of(x: Any, mean: Any, side: int) -> Any:
        if not squares:
            return mean_of_blocks(ops.squared_difference(x, mean), side)
        rows = ops.reduce_l2(x, along_row, keep_dims=True)
        mean_square = ops.divide(mean_of_blocks(ops.multiply(rows, rows), side, 1), count(x, along_row))
        return ops.maximum(ops.subtract(mean_square, ops.multiply(mean, mean)), zero)

    rewritten = 0
    levels = _levels(model)
    for node in model.get_ordered_ops():
        # The other MVN nodes are the layer norms of tokens [B,T,C], whose sums are already short.
        if node.get_type_name() != "MVN" or node.get_input_partial_shape(0).rank.get_length() != 5:
            continue
        side = max(1, min(NORM_BLOCK, multiple >> levels[node.get_friendly_name()]))
        if side < LEAST_BLOCK and not every:
            continue
        x = node.input_value(0)
        mean = mean_of_blocks(x, side)
        variance = variance_of(x, mean, side)
        epsilon = float(node.get_attributes()["eps"])
        known = epsilons.setdefault(epsilon, ops.constant(np.float32(epsilon)))
        scale = ops.power(ops.add(variance, known), inverse_root)
        normalised = ops.multiply(ops.subtract(x, mean), scale)
        node.output(0).replace(normalised.output(0))
        rewritten += 1
    model.validate_nodes_and_infer_types()
    return rewritten


def _levels(model: Any) -> dict[str, int]:
    """Number of halvings of each node's output relative to the image; nodes that depend on no input are left out."""
    found: dict[str, int] = {}
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        if kind == "Parameter":
            for known in node.output(0).get_names() & _LEVELS.keys():
                found[name] = _LEVELS[known]
            continue
        given = (node.input_value(i).get_node().get_friendly_name() for i in range(node.get_input_size()))
        level = max((found[k] for k in given if k in found), default=None)
        if level is None:
            continue
        if kind in ("Convolution", "ConvolutionBackpropData"):
            halvings = int(node.get_attributes()["strides"][0]).bit_length() - 1
            level += halvings if kind == "Convolution" else -halvings
        found[name] = level
    return found

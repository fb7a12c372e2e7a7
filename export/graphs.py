"""The graphs of a bundle: their modules, tensors and dynamic axes.

Axis letters: B objects, N points, H W D voxels of the region (z,y,x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.networks.nets.vista3d import VISTA3D
from torch import Tensor, nn
from torch.export import Dim

from gstk.training.network import ClassEncoder, Encoder, PromptDecoder
from gstk.training.spec import VISTA3DSpec

__all__ = ["CLEAN_OPS", "GraphSpec", "class_encoder_graph", "encoder_graph", "prompt_decoder_graph"]

CLEAN_OPS = frozenset(
    """
    Add Cast Concat Conv ConvTranspose Cos Div Equal Expand Gelu InstanceNormalization LayerNormalization LeakyRelu
    MatMul Mul Or Range Relu Reshape Shape Sin Slice Softmax Squeeze Sub Transpose Unsqueeze
    """.split()  # noqa: SIM905 - 26 lines otherwise
)
"""ONNX operators allowed in the graphs. Every backend supports them with dynamic shapes; no loop, branch or scatter."""

# Bounds for the tracer only. The tracer takes a size of 1 for a constant, so the examples avoid it. The least side is 2
# in units of the multiple, because of the instance norms of the deepest level.
_MOST_UNITS = 1024
_MOST_SIDE = 8192
_MOST_OBJECTS = 4096
_MOST_POINTS = 4096


@dataclass(frozen=True)
class GraphSpec:
    """A module to trace, and the names of its tensors and axes.

    Attributes:
        kind: `encoder`, `prompt_decoder` or `class_encoder`.
        module: the module, in evaluation mode.
        example: example inputs of distinct sizes, none of them 1 along a dynamic axis.
        dynamic: dynamic axes of each input.
        inputs, outputs: name → axes in order, each a number or a name.
    """

    kind: str
    module: nn.Module
    example: tuple[Tensor, ...]
    dynamic: tuple[dict[int, Any], ...]
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]


def encoder_graph(network: VISTA3D, spec: VISTA3DSpec) -> GraphSpec:
    """`image` [1,1,H,W,D] → `embedding` [1,C,H/2,W/2,D/2]; sides are multiples of the spec's `roi_multiple`."""
    multiple = spec.roi_multiple
    units = [Dim(f"{axis}_units", min=2, max=_MOST_UNITS) for axis in "hwd"]
    return GraphSpec(
        kind="encoder",
        module=Encoder(network).eval(),
        example=(torch.rand(1, spec.in_channels, 2 * multiple, 3 * multiple, 4 * multiple),),
        dynamic=({axis: multiple * unit for axis, unit in enumerate(units, start=2)},),
        inputs={"image": (1, spec.in_channels, "H", "W", "D")},
        outputs={"embedding": (1, spec.width, "H/2", "W/2", "D/2")},
    )


def class_encoder_graph(network: VISTA3D, spec: VISTA3DSpec) -> GraphSpec:
    """`image` [1,1,H,W,D] → `features` [1,C,H,W,D]; sides as for the encoder."""
    encoder = encoder_graph(network, spec)
    return replace(
        encoder,
        kind="class_encoder",
        module=ClassEncoder(network).eval(),
        outputs={"features": (1, spec.width, "H", "W", "D")},
    )


def prompt_decoder_graph(
    network: VISTA3D, spec: VISTA3DSpec, zero_shot: bool = True, ignored_points: bool = True
) -> GraphSpec:
    """`embedding`, `point_coords` float32 [B,N,3], `point_labels` int64 [B,N] → `logits` [B,1,H,W,D].

    Args:
        network, spec: what is traced.
        zero_shot, ignored_points: see `PromptDecoder`.
    """
    half = {axis: Dim(f"half_{name}", min=2, max=_MOST_SIDE) for axis, name in ((2, "h"), (3, "w"), (4, "d"))}
    objects, points = Dim("objects", min=1, max=_MOST_OBJECTS), Dim("points", min=1, max=_MOST_POINTS)
    return GraphSpec(
        kind="prompt_decoder",
        module=PromptDecoder(network, zero_shot, ignored_points).eval(),
        example=(torch.rand(1, spec.width, 4, 6, 8), torch.rand(2, 3, 3) * 8, torch.ones(2, 3, dtype=torch.int64)),
        dynamic=(half, {0: objects, 1: points}, {0: objects, 1: points}),
        inputs={
            "embedding": (1, spec.width, "H/2", "W/2", "D/2"),
            "point_coords": ("B", "N", 3),
            "point_labels": ("B", "N"),
        },
        outputs={"logits": ("B", 1, "H", "W", "D")},
    )

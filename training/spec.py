"""What a VISTA3D network is made of, as data: no torch here, so that a manifest can be read without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gstk.errors import CheckpointError

__all__ = ["SPECIAL_CLASSES", "VISTA3DSpec"]

SPECIAL_CLASSES = (23, 24, 25, 26, 27, 57, 128)
"""VISTA3D's global class ids whose points carry labels 2/3 (MONAI, `VISTA3D.convert_point_label`)."""


@dataclass(frozen=True)
class VISTA3DSpec:
    """The architecture of one VISTA3D network; the defaults are MONAI's `vista3d132`.

    Attributes:
        width: channels of the encoder's result and of every token; a multiple of 8.
        blocks_down: residual blocks at each level of the encoder; its length is the number of levels.
        in_channels: channels of the image.
        n_classes: rows of the class embeddings.
        last_supported: largest class id that is not zero-shot.
        heads: attention heads of the point head's transformer.
        attention_downsample: factor between a token's channels and those that cross-attention compares.
        filters: channels of the encoder's first level, twice as many on each level below; a multiple of 8. 0 stands for
            the width, as in MONAI's network.
    """

    width: int = 48
    blocks_down: tuple[int, ...] = (1, 2, 2, 4, 4)
    in_channels: int = 1
    n_classes: int = 512
    last_supported: int = 132
    heads: int = 4
    attention_downsample: int = 2
    filters: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks_down", tuple(int(b) for b in self.blocks_down))
        object.__setattr__(self, "filters", self.filters or self.width)
        for name in ("width", "filters"):
            if getattr(self, name) < 8 or getattr(self, name) % 8:
                raise CheckpointError(f"got {name} {getattr(self, name)}, expected a positive multiple of 8")
        compared = self.width // max(1, self.attention_downsample)
        if self.heads < 1 or self.attention_downsample < 1 or self.width % self.attention_downsample:
            raise CheckpointError(
                f"got {self.heads} heads and attention_downsample {self.attention_downsample}, expected positive "
                f"numbers, the second a divisor of the width {self.width}"
            )
        if compared % self.heads:
            raise CheckpointError(f"got {self.heads} heads for {compared} channels, expected a divisor of them")
        if len(self.blocks_down) < 2 or min(self.blocks_down) < 1:
            raise CheckpointError(
                f"got blocks_down {self.blocks_down}, expected two or more levels of one or more blocks"
            )

    @property
    def levels(self) -> int:
        """Number of resolutions of the image encoder."""
        return len(self.blocks_down)

    @property
    def roi_multiple(self) -> int:
        """What every side of a region must be a multiple of, in voxels (16 for `vista3d132`)."""
        return int(2 ** (self.levels - 1))

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-ready values."""
        return {**asdict(self), "blocks_down": list(self.blocks_down)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VISTA3DSpec:
        """The spec from `to_dict`'s values.

        Raises:
            CheckpointError: a field is unknown or not of its type.
        """
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise CheckpointError(
                f"got unknown architecture fields {sorted(unknown)}, expected {list(cls.__dataclass_fields__)}"
            )
        try:
            fields: dict[str, Any] = {k: tuple(v) if k == "blocks_down" else int(v) for k, v in values.items()}
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the architecture {dict(values)} is not one of VISTA3D: {error}") from None

"""Options that several commands take."""

from enum import StrEnum

__all__ = ["SpacingOrderOption"]


class SpacingOrderOption(StrEnum):
    """Axis order of the `spacing` of .npz cases."""

    zyx = "zyx"
    xyz = "xyz"

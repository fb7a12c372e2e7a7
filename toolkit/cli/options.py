"""What several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from gstk.errors import BackendMissing

__all__ = ["SpacingOrderOption", "needing"]


class SpacingOrderOption(StrEnum):
    """Axis order of the `spacing` of .npz cases."""

    zyx = "zyx"
    xyz = "xyz"


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Imports inside that fail say which extra of gstk installs what is missing.

    Raises:
        BackendMissing: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendMissing(f'this needs {error.name}, which is not installed; pip install "gstk[{extra}]"') from None

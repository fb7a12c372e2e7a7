"""Texts of other libraries in gstk's one-line messages: without escape codes, and not cut off within a word."""

from __future__ import annotations

import re

__all__ = ["reason_of"]

_ESCAPE_CODE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def reason_of(error: BaseException | str, length: int = 300) -> str:
    """The first line of an error that another library raised, or of a text that it printed.

    Args:
        error: the error or text.
        length: most characters; a longer line ends at a word, with "..." behind it.

    Returns:
        One line that can be printed on any terminal; the error's type where it has no text.
    """
    text = _ESCAPE_CODE.sub("", str(error))
    lines = (" ".join(_CONTROL.sub(" ", line).split()) for line in text.replace("\r\n", "\n").split("\n"))
    reason = next((line for line in lines if line), "")
    if not reason:
        return type(error).__name__ if isinstance(error, BaseException) else ""
    if len(reason) <= length:
        return reason
    return (reason[: length - 4].rpartition(" ")[0] or reason[: length - 4]).rstrip(",;:. ") + " ..."

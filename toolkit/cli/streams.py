"""The standard streams of a process: what is done where one is closed, or cannot be written to."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress

__all__ = ["FAILED_WRITES", "give_up_stdout", "open_standard_streams", "printable"]

FAILED_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
"""Errors of a write to a stream: a full disk behind it, or nobody there."""


def open_standard_streams() -> None:
    """Opens those of the three standard streams that are closed, on nothing, and lets the others take any text.

    Otherwise the next file that is opened takes the number of the closed one, and what a library prints goes into it;
    and a name or sign that a terminal's or a pipe's encoding lacks ends the command.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the process's life
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or stream.encoding.lower() != "utf-8"):
            stream.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """Leads what is still to be printed nowhere."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def printable(name: object) -> str:
    """A file's name without control codes, which would break its line or give orders to the terminal."""
    text = str(name)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)

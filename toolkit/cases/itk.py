"""Running ITK, by way of SimpleITK: without its printed warnings, and with its numbers read in any locale."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_line", "quiet_itk"]

_LC_NUMERIC_MASK = 1 << 1  # of Linux


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK from printing warnings, and give this thread the C locale's numbers.

    Readers of text headers (MetaImage, NRRD) use C functions that follow the process's locale: in a Qt application of a
    country with a decimal comma, "0.75" would read as 0.
    """
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with _c_numbers():
            yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


@contextmanager
def _c_numbers() -> Iterator[None]:
    """The C locale's numbers, in this thread alone; where the system has no locales of threads, nothing is changed."""
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("newlocale", "uselocale", "duplocale", "freelocale")):
        yield
        return
    libc.newlocale.restype = libc.uselocale.restype = libc.duplocale.restype = ctypes.c_void_p
    libc.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    libc.uselocale.argtypes = libc.duplocale.argtypes = libc.freelocale.argtypes = [ctypes.c_void_p]
    libc.freelocale.restype = None
    # Only the numbers change: a new locale without a base would make texts ASCII.
    base = libc.duplocale(libc.uselocale(None))
    plain = libc.newlocale(_LC_NUMERIC_MASK, b"C", base) if base else None
    if not plain:
        yield
        return
    before = libc.uselocale(plain)
    try:
        yield
    finally:
        libc.uselocale(before)
        libc.freelocale(plain)


def one_line(error: RuntimeError) -> str:
    """An error's reason in one line: SimpleITK's without its lines about ITK's source, or that of gstk's checks."""
    text = str(error).rpartition("ERROR: ")[2]
    # MetaImage's "Reason: No such file or directory" is what errno happened to be.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Reason:")]
    reason = lines[-1] if lines else type(error).__name__
    return re.sub(r"^\[\w+\] |^\w+\(0x[0-9a-f]+\): ", "", reason)

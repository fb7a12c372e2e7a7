"""Which volumes are opened: those that fit into memory beside all others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from gstk.calibration import memory
from gstk.errors import CaseError

__all__ = ["Admission"]

BESIDE_BYTES = 3
"""Bytes a voxel beside the volume itself: the network's copy, the mask that the client has, and what comes and goes."""
SHOWN_BYTES = 2
"""And where the volume is not of small integers, what a page shows of it."""


class Admission:
    """Memory for volumes that are being opened, over all leases. Safe to call from several threads."""

    def __init__(self, make_room: Callable[[int], int]) -> None:
        """Begins with nothing promised.

        Args:
            make_room: frees as many bytes as it can of what can be computed again, up to so many.
        """
        self._make_room = make_room
        self._promised_bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def admit(self, voxels: int, dtype: np.dtype[np.generic]) -> Iterator[None]:
        """Promises memory for a volume while it is being opened.

        Raises:
            CaseError: it would not fit beside what is there and what was promised to others.
        """
        is_small = (dtype.kind in "bu" and dtype.itemsize == 1) or dtype == np.int16
        need = voxels * (dtype.itemsize + BESIDE_BYTES + (0 if is_small else SHOWN_BYTES))
        with self._lock:
            if need > self._left_bytes():
                self._make_room(need - self._left_bytes())
            left = self._left_bytes()
            if need > left:
                raise CaseError(
                    f"got a volume of {voxels} voxels of {dtype}, which takes {need / 1e9:.1f} GB of the server's "
                    f"memory, expected at most the {left / 1e9:.1f} GB that are free; crop it, sample it coarser, or "
                    "close other sessions"
                )
            self._promised_bytes += need
        try:
            yield
        finally:
            with self._lock:
                self._promised_bytes -= need

    def _left_bytes(self) -> int:
        return max(0, memory.free_bytes() - self._promised_bytes)

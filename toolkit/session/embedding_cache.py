"""Embeddings of the windows that were looked at last, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict

from gstk.core.window import Window
from gstk.engines.base import Embedding

__all__ = ["DEFAULT_LIMIT_BYTES", "EmbeddingCache"]

DEFAULT_LIMIT_BYTES = 2 * 2**30


class EmbeddingCache:
    """Window → embedding, of one image. The one that was not used for longest goes first.

    Attributes:
        limit_bytes: what the embeddings may take together; the newest stays even where it alone takes more.
        size_bytes: what they take.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._held: OrderedDict[Window, Embedding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, window: Window) -> bool:
        return window in self._held

    def get(self, window: Window) -> Embedding | None:
        """The embedding of a window, which is then the newest; None where it is not held."""
        found = self._held.get(window)
        if found is not None:
            self._held.move_to_end(window)
        return found

    def put(self, window: Window, embedding: Embedding) -> None:
        """Holds an embedding, and drops the oldest until all fit."""
        before = self._held.pop(window, None)
        if before is not None:
            self.size_bytes -= before.size_bytes
        self._held[window] = embedding
        self.size_bytes += embedding.size_bytes
        while self.size_bytes > self.limit_bytes and len(self._held) > 1:
            _, oldest = self._held.popitem(last=False)
            self.size_bytes -= oldest.size_bytes

    def clear(self) -> None:
        """Drops all of them."""
        self._held.clear()
        self.size_bytes = 0

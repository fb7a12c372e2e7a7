"""A cache of the embeddings of the latest windows, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict

from gstk.core.window import Window
from gstk.engines.base import Embedding

__all__ = ["DEFAULT_LIMIT_BYTES", "EmbeddingCache"]

DEFAULT_LIMIT_BYTES = 2 * 2**30


class EmbeddingCache:
    """The embeddings of one image's windows; the least recently used one is dropped first.

    Attributes:
        limit_bytes: memory for all embeddings; the newest stays even where it alone takes more.
        size_bytes: memory that they take.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._embeddings: OrderedDict[Window, Embedding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._embeddings)

    def __contains__(self, window: Window) -> bool:
        return window in self._embeddings

    def get(self, window: Window) -> Embedding | None:
        """The embedding of a window, which then is the newest; None where there is none."""
        embedding = self._embeddings.get(window)
        if embedding is not None:
            self._embeddings.move_to_end(window)
        return embedding

    def put(self, window: Window, embedding: Embedding) -> None:
        """Adds an embedding, and drops the oldest ones until all fit."""
        before = self._embeddings.pop(window, None)
        if before is not None:
            self.size_bytes -= before.size_bytes
        self._embeddings[window] = embedding
        self.size_bytes += embedding.size_bytes
        while self.size_bytes > self.limit_bytes and len(self._embeddings) > 1:
            _, oldest = self._embeddings.popitem(last=False)
            self.size_bytes -= oldest.size_bytes

    def clear(self) -> None:
        """Drops all of them."""
        self._embeddings.clear()
        self.size_bytes = 0

"""A cache of the embeddings of the latest windows, bounded in bytes; sessions may share a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict

from gstk.core.window import Window
from gstk.engines.base import Embedding

__all__ = ["DEFAULT_LIMIT_BYTES", "EmbeddingCache"]

DEFAULT_LIMIT_BYTES = 2 * 2**30


class EmbeddingCache:
    """The embeddings of one image's windows; the least recently used one is dropped first.

    Caches that were made by `sibling` share the limit: the one that is dropped may be another's.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Begins empty.

        Args:
            limit_bytes: memory for all embeddings; the newest stays even where it alone takes more.
        """
        self._shared = _Shared(limit_bytes)

    def sibling(self) -> EmbeddingCache:
        """Another image's cache under the same limit."""
        other = EmbeddingCache()
        other._shared = self._shared
        return other

    @property
    def limit_bytes(self) -> int:
        """Memory for the embeddings of all that share the limit."""
        return self._shared.limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, limit_bytes: int) -> None:
        with self._shared.lock:
            self._shared.limit_bytes = limit_bytes
            self._shared.keep_to(limit_bytes)

    @property
    def size_bytes(self) -> int:
        """Memory that this image's embeddings take."""
        with self._shared.lock:
            return sum(embedding.size_bytes for (owner, _), embedding in self._shared.held.items() if owner is self)

    @property
    def shared_bytes(self) -> int:
        """Memory that the embeddings of all that share the limit take."""
        return self._shared.size_bytes

    def __len__(self) -> int:
        with self._shared.lock:
            return sum(owner is self for owner, _ in self._shared.held)

    def __contains__(self, window: Window) -> bool:
        with self._shared.lock:
            return (self, window) in self._shared.held

    def get(self, window: Window) -> Embedding | None:
        """The embedding of a window, which then is the newest; None where there is none."""
        with self._shared.lock:
            embedding = self._shared.held.get((self, window))
            if embedding is not None:
                self._shared.held.move_to_end((self, window))
            return embedding

    def put(self, window: Window, embedding: Embedding) -> None:
        """Adds an embedding, and drops the oldest ones until all fit."""
        with self._shared.lock:
            self._shared.drop((self, window))
            self._shared.held[self, window] = embedding
            self._shared.size_bytes += embedding.size_bytes
            self._shared.keep_to(self._shared.limit_bytes)

    def free(self, size_bytes: int) -> int:
        """Drops the oldest embeddings of all that share the limit, until so many bytes are free; the newest stays.

        Returns:
            How many bytes were freed.
        """
        with self._shared.lock:
            before = self._shared.size_bytes
            self._shared.keep_to(before - size_bytes)
            return before - self._shared.size_bytes

    def clear(self) -> None:
        """Drops this image's embeddings."""
        with self._shared.lock:
            for key in [key for key in self._shared.held if key[0] is self]:
                self._shared.drop(key)


class _Shared:
    """The embeddings of all caches under one limit, the oldest first; access needs its lock."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.size_bytes = limit_bytes, 0
        self.held: OrderedDict[tuple[EmbeddingCache, Window], Embedding] = OrderedDict()
        self.lock = threading.Lock()

    def drop(self, key: tuple[EmbeddingCache, Window]) -> None:
        embedding = self.held.pop(key, None)
        if embedding is not None:
            self.size_bytes -= embedding.size_bytes

    def keep_to(self, limit_bytes: int) -> None:
        while self.size_bytes > limit_bytes and len(self.held) > 1:
            self.drop(next(iter(self.held)))

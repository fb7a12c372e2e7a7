"""Memory of a GPU at fixed addresses: what plans work in, read and write. Import this module inside functions alone."""

from __future__ import annotations

from collections.abc import Mapping

from gstk.engines.cuda import Block, Memory, Stream

__all__ = ["Slots"]


class Slots:
    """Memory at fixed addresses, by name; a slot moves when it has to grow."""

    def __init__(self, memory: Memory, stream: Stream) -> None:
        self._memory, self._stream = memory, stream
        self._blocks: dict[str, Block] = {}

    def reserve(self, sizes: Mapping[str, int]) -> list[str]:
        """Makes room of at least these sizes, in bytes.

        Returns:
            The slots that moved: what was in them is lost.
        """
        moved = [name for name, size in sizes.items() if size > self.size_bytes(name)]
        if moved:
            self._stream.synchronise()  # what is queued still uses the old ones
            for name in moved:
                self._blocks.pop(name, None)
            self._memory.free_returned()
        for name in moved:
            self._blocks[name] = self._memory.allocate(sizes[name])
        return moved

    def address(self, name: str) -> int:
        return self._blocks[name].address

    def size_bytes(self, name: str) -> int:
        return self._blocks[name].size_bytes if name in self._blocks else 0

    def clear(self) -> None:
        """Lets all of them go."""
        self._blocks.clear()

"""GPU buffers at fixed addresses for the memory, inputs and outputs of plans. Import it inside functions alone."""

from __future__ import annotations

from collections.abc import Mapping

from gstk.engines.cuda import Block, Memory, Stream

__all__ = ["Slots"]

_LEAST_BYTES = 4096
"""Of a buffer, so that a few points more do not move it, which ends CUDA graphs."""


class Slots:
    """Named buffers at fixed addresses. A buffer moves only when it has to grow."""

    def __init__(self, memory: Memory, stream: Stream) -> None:
        self._memory, self._stream = memory, stream
        self._blocks: dict[str, Block] = {}

    def reserve(self, sizes: Mapping[str, int]) -> list[str]:
        """Grows the buffers to at least these sizes in bytes.

        Returns:
            The buffers that moved; their content is lost.
        """
        moved = [name for name, size in sizes.items() if size > self.size_bytes(name)]
        if moved:
            self._stream.synchronise()  # queued work still uses the old buffers
            for name in moved:
                self._blocks.pop(name, None)
            self._memory.free_returned()
        for name in moved:
            self._blocks[name] = self._memory.allocate(max(sizes[name], _LEAST_BYTES))
        return moved

    def address(self, name: str) -> int:
        return self._blocks[name].address

    def size_bytes(self, name: str) -> int:
        return self._blocks[name].size_bytes if name in self._blocks else 0

    def clear(self) -> None:
        """Frees all buffers."""
        self._blocks.clear()

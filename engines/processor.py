"""The processor's instructions that decide how INT8 and bfloat16 are computed here."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass

__all__ = ["INSTRUCTIONS", "Processor", "this_processor"]

INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""Instruction sets that gstk's engines gain from, as Linux names them, the oldest first."""
_VNNI = ("avx_vnni", "avx512_vnni", "amx_int8")
_X86 = ("x86_64", "amd64", "i386", "i686")


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: what its maker calls it.
        architecture: such as `x86_64` or `aarch64`.
        instructions: those of `INSTRUCTIONS` that it has.
    """

    name: str
    architecture: str
    instructions: tuple[str, ...]

    @property
    def has_vnni(self) -> bool:
        """Whether it adds four products of 8 bits at once, in 32 bits."""
        return any(name in self.instructions for name in _VNNI)

    @property
    def saturates_int8(self) -> bool:
        """Whether fast INT8 kernels add two products in 16 bits, which saturate: x86 processors without VNNI."""
        return self.architecture.lower() in _X86 and not self.has_vnni

    @property
    def has_amx(self) -> bool:
        """Whether it multiplies whole tiles of INT8 and bfloat16 at once."""
        return "amx_int8" in self.instructions or "amx_bf16" in self.instructions

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies bfloat16: AVX512_BF16 or AMX."""
        return "avx512_bf16" in self.instructions or "amx_bf16" in self.instructions

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.instructions)})" if self.instructions else self.name


@functools.cache
def this_processor() -> Processor:
    """The processor of this machine, as the system shows it to this process."""
    from archspec.cpu import brand_string
    from archspec.cpu.detect import detected_info

    features = detected_info().features
    return Processor(
        name=brand_string() or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        instructions=tuple(name for name in INSTRUCTIONS if name in features),
    )

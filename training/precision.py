"""In which type a network computes: lower precision only where the processor has it."""

from __future__ import annotations

import torch

__all__ = ["autocast_dtype"]


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of `torch.autocast`; None computes in float32.

    Args:
        precision: `bf16`, `fp16`, `off`, or `auto`: bfloat16 where the processor computes in it. Elsewhere a CPU
            emulates it, many times slower than float32; a GPU without it takes float16.
        device: where the network is.
    """
    if precision == "auto":
        precision = _native(device)
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[precision]


def _native(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "off"

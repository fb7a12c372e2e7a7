"""The processes of one run, as torchrun starts them: sums over them, and nothing where there is one.

Gradients are summed after the backward pass rather than inside it (DistributedDataParallel): a process may then have no
patch in a step, or decode as many rounds of clicks as it drew, and the sum is the same as one process would compute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gstk.errors import TrainingError

__all__ = ["Processes", "join_processes"]

BUCKET_VALUES = 32 * 2**20
"""Gradients travel in buckets of this many values."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        rank: 0 to count - 1.
        count: of processes.
        device: what this one computes on.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and reports."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums of a few numbers over all processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(v) for v in total.tolist()]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sums gradients over all processes, in place; those that are None count as 0."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.count == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            assert parameter.grad is not None
            if bucket and sum(g.numel() for g in bucket) + parameter.grad.numel() > BUCKET_VALUES:
                _all_reduce(bucket)
                bucket = []
            bucket.append(parameter.grad)
        _all_reduce(bucket)

    def gather(self, value: Any) -> list[Any]:
        """One picklable value of each process, in order of rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def leave(self) -> None:
        """Ends this process's part."""
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _all_reduce(bucket: Sequence[Tensor]) -> None:
    flat = torch.cat([g.reshape(-1) for g in bucket])
    torch.distributed.all_reduce(flat)
    first = 0
    for gradient in bucket:
        gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
        first += gradient.numel()


def join_processes(device: str = "auto") -> Processes:
    """Joins the processes that torchrun started (nccl on GPUs, gloo on processors), or stands alone.

    Args:
        device: `auto` (a GPU where there is one), `cpu`, `cuda`, or `cuda:1` and so on.

    Raises:
        TrainingError: there is no such device.
    """
    count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    rank = int(os.environ.get("RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise TrainingError(f"got the device {device!r}, expected auto, cpu or cuda")
    if chosen.type == "cuda":
        available = torch.cuda.device_count()
        chosen = torch.device("cuda", chosen.index if chosen.index is not None and count == 1 else local)
        if chosen.index >= available:
            raise TrainingError(
                f"got the device {chosen}, expected one of the {available} GPUs that torch {torch.__version__} sees; "
                "use --device cpu, or a build of torch for this machine's GPU and driver"
            )
        torch.cuda.set_device(chosen)
    if count > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Processes(rank, count, chosen)

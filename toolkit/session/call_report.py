"""A session's report of its latest call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CallReport"]


@dataclass(frozen=True)
class CallReport:
    """Expected and measured time of the latest call, and what was skipped to stay in time.

    Attributes:
        budget_s: the time that it had; None is no limit.
        expected_s: the time that was planned; 0 without a latency model.
        spent_s: wall time.
        encodes, decodes: runs of the network's halves.
        compromises: what was skipped to stay in time, a sentence each.
        object_s: wall time of each object.
    """

    budget_s: float | None = None
    expected_s: float = 0.0
    spent_s: float = 0.0
    encodes: int = 0
    decodes: int = 0
    compromises: tuple[str, ...] = ()
    object_s: Mapping[int, float] = field(default_factory=dict)

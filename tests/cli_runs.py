"""Running the command line in process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    def error_line(self) -> str:
        lines = [line for line in self.err.splitlines() if "warning" not in line and "probing" not in line]
        assert len(lines) == 1, self.err
        return lines[0]


Run = Callable[..., Outcome]

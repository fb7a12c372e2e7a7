"""What all campaigns share: their options, how far they are, and their result."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Campaign", "begin"]

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]


@dataclass
class Campaign:
    """A campaign that goes on where it was ended.

    Attributes:
        state: its folder.
        total: how many of what it counts.
        parts: names of its parts that are to be run.
        progress: by part, what came of it so far; kept by `save`.
        out: file of the result; None is none.
        ends_at: when it is to stop, by `time.monotonic`.
    """

    state: Path
    total: int
    parts: list[str]
    progress: dict[str, Any]
    out: Path | None
    ends_at: float = float("inf")

    @property
    def is_time_up(self) -> bool:
        """Whether it is to stop here, and to go on when it is started again."""
        return time.monotonic() >= self.ends_at

    def save(self) -> None:
        """Writes how far it is."""
        (self.state / "progress.json").write_text(json.dumps(self.progress, indent=1))

    def finish(self, counted: str, *packages: str) -> int:
        """Writes the result, with the machine named, and says it.

        Args:
            counted: the key of the parts' numbers.
            packages: whose versions are part of the result.

        Returns:
            The exit code: 1 where something failed.
        """
        from machine import describe

        total = sum(part[counted] for part in self.progress.values())
        failed = sum(len(part["failures"]) for part in self.progress.values())
        if self.out:
            report = {"machine": describe(*packages), counted: total, "parts": self.progress}
            self.out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{total} {counted}, {failed} failures")
        return int(failed > 0)


def begin(documentation: str | None, total: int, parts: Iterable[str]) -> Campaign:
    """Reads the options of the command line, and how far the campaign is."""
    names = list(parts)
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder of the campaign; started again, it goes on")
    parser.add_argument("--total", type=int, default=total, help=f"how many, of all parts (default: {total})")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these parts")
    parser.add_argument(
        "--most-s", type=float, default=float("inf"), help="stop after so many seconds; the state stays"
    )
    parser.add_argument("--out", type=Path, help="file of the result, JSON")
    arguments = parser.parse_args()
    state = arguments.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    file = state / "progress.json"
    progress = json.loads(file.read_text()) if file.exists() else {}
    chosen = [name for name in names if name in arguments.only]
    return Campaign(state, arguments.total, chosen, progress, arguments.out, time.monotonic() + arguments.most_s)

"""The same prompts for Python and C++: lines that both replay, and the mask after each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cpp_build import run
from numpy.typing import NDArray

from gstk.prompts import Box, ObjectPrompts, Point
from gstk.session import Session

Masks = NDArray[np.uint16]


def replay_python(session: Session, image: NDArray[Any], spacing_mm: Sequence[float], lines: Sequence[str]) -> Masks:
    """Masks (S,z,y,x) after each line; the language is that of `cpp/tests/replay.cpp`."""
    session.set_image(image, spacing_mm)  # type: ignore[arg-type]
    masks = []
    for line in lines:
        what, *words = line.split()
        numbers = [int(word) for word in words]
        if what == "undo":
            session.undo()
        elif what == "reset":
            session.reset(numbers[0] or None)
        elif what == "point":
            session.add_point(numbers[1:4], bool(numbers[4]), numbers[0])
        elif what == "box":
            session.add_box(_box(numbers[1:]), numbers[0])
        else:
            box = _box(numbers[2:9]) if numbers[1] else None
            flat = numbers[10 if box else 3 :]
            points = [Point((z, y, x), bool(f)) for z, y, x, f in zip(*(flat[i::4] for i in range(4)), strict=True)]
            session.set_prompts(ObjectPrompts(tuple(points), box), numbers[0])
        masks.append(session.mask.copy())
    return np.array(masks)


def _box(n: Sequence[int]) -> Box:
    return Box(n[0], n[3], n[6], n[2], n[1], n[5], n[4])


def replay_cpp(
    program: Path,
    bundle: Path,
    volume: Path,
    lines: Sequence[str],
    shape: Sequence[int],
    folder: Path,
    threads: int = 0,
    *limited: object,
) -> tuple[Masks, list[dict[str, float]]]:
    """The masks, and what the program printed of each line; the first of these tells of opening.

    `limited` is nothing, or a latency model's file and the seconds of each call.
    """
    prompts, masks = folder / "prompts.txt", folder / "masks.raw"
    prompts.write_text("\n".join(lines) + "\n")
    out = run(program, bundle, volume, prompts, masks, threads, *limited, TBB_ENABLE_SANITIZERS="1")
    told = [line.split() for line in out.splitlines()]
    values = [dict(zip(line[::2], map(float, line[1::2]), strict=True)) for line in told]
    return np.fromfile(masks, np.uint16).reshape(-1, *shape), values

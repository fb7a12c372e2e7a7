"""Random histories of a session: scripts of prompts on three objects, and a model of what can be undone.

`compare_histories` runs them through Python and C++; `benchmarks/cpp_replay.py` does so too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cpp_replay import Volume, agreement, replay_many_cpp, replay_python, volume_of

import gstk
from gstk.cases.npz import save_case
from gstk.core.bundle import builtin
from gstk.core.window import WindowPolicy
from gstk.engines import open_engine
from gstk.session.session import Session

Prompts = tuple[tuple[int, ...] | None, tuple[tuple[int, ...], ...]]
"""A box of seven numbers or None, and points (z, y, x, foreground)."""
OBJECTS = (1, 2, 300)
NOTHING: Prompts = (None, ())
WINDOW_VOXELS = 32**3
"""Windows so small that a trained network, whose masks depend on the prompts, takes milliseconds."""


@dataclass
class History:
    """A script and what a session should do with it.

    Attributes:
        lines: of the script.
        refused: of each line, whether there was nothing to undo or redo.
        prompts: of each object now.
        done: object and prompts before each change, the latest last: what `undo` goes back to.
        undone: object and prompts of what `redo` does again.
    """

    lines: list[str] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)
    prompts: dict[int, Prompts] = field(default_factory=dict)
    done: list[tuple[int, Prompts]] = field(default_factory=list)
    undone: list[tuple[int, Prompts]] = field(default_factory=list)

    def say(self, line: str, refused: bool = False) -> None:
        self.lines.append(line)
        self.refused.append(refused)

    def change(self, object_id: int, prompts: Prompts, line: str) -> None:
        """Prompts replace those of an object; the same ones again change nothing."""
        before = self.prompts.get(object_id, NOTHING)
        self.say(line)
        if prompts != before:
            self.done.append((object_id, before))
            self.undone.clear()
            self.prompts[object_id] = prompts

    def move(self, line: str) -> None:
        """`undo` or `redo`."""
        source, target = (self.done, self.undone) if line == "undo" else (self.undone, self.done)
        self.say(line, refused=not source)
        if source:
            object_id, prompts = source.pop()
            target.append((object_id, self.prompts.get(object_id, NOTHING)))
            self.prompts[object_id] = prompts

    def reset(self, object_id: int) -> None:
        self.say(f"reset {object_id}")
        for k in list(self.prompts) if object_id == 0 else [object_id]:
            self.prompts.pop(k, None)
        self.done = [entry for entry in self.done if entry[0] in self.prompts]
        self.undone.clear()


def random_history(rng: np.random.Generator, shape: Sequence[int], steps: int = 12) -> History:
    """Some steps on a volume of that shape (z,y,x), and then `undo` until it is refused."""
    history = History()
    kinds = ["point", "box", "prompts", "again", "undo", "redo", "reset", "cancel"]
    for _ in range(steps):
        k = int(rng.choice(OBJECTS))
        box, points = history.prompts.get(k, NOTHING)
        kind = rng.choice(kinds, p=[0.42, 0.1, 0.1, 0.1, 0.12, 0.06, 0.04, 0.06])
        if kind == "point":
            point = _point(rng, shape)
            history.change(k, (box, (*points, point)), f"point {k} {_text(point)}")
        elif kind == "box":
            box = _box(rng, shape)
            history.change(k, (box, points), f"box {k} {_text(box)}")
        elif kind == "prompts":
            box = _box(rng, shape) if rng.random() < 0.4 else None
            points = tuple(_point(rng, shape) for _ in range(rng.integers(0, 4)))
            history.change(k, (box, points), _prompts_line(k, box, points))
        elif kind == "again":
            history.change(k, (box, points), _prompts_line(k, box, points))
        elif kind == "reset":
            history.reset(k if rng.random() < 0.8 else 0)
        elif kind == "cancel":
            history.say("cancel")  # of no call
        else:
            history.move(str(kind))
    for _ in range(len(history.done) + 1):
        history.move("undo")
    return history


def _point(rng: np.random.Generator, shape: Sequence[int]) -> tuple[int, ...]:
    return (*(int(rng.integers(0, n)) for n in shape), int(rng.random() < 0.65))


def _box(rng: np.random.Generator, shape: Sequence[int]) -> tuple[int, ...]:
    low, high = np.sort(np.array([[rng.integers(0, n) for n in shape] for _ in range(2)]), axis=0).tolist()
    if rng.random() < 0.25:  # on one slice
        axis = int(rng.integers(0, 3))
        high[axis] = low[axis]
    return (*low, *high, int(rng.integers(low[0], high[0] + 1)))


def _prompts_line(k: int, box: tuple[int, ...] | None, points: tuple[tuple[int, ...], ...]) -> str:
    return " ".join(
        ["prompts", str(k), "0" if box is None else f"1 {_text(box)}", str(len(points)), *map(_text, points)]
    )


def _text(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


@dataclass
class Compared:
    """What became of histories in Python and C++.

    Attributes:
        histories: how many were replayed.
        masks: after all their lines.
        nonempty: how many of the masks hold an object.
        identical: how many of the masks are equal in every voxel.
        least_agreement: the least share of voxels on which two masks agree.
        differing: scripts after which Python and C++, or either and the model, differ in what they refuse (which says
            how long the history is) or in how often they encode and decode.
    """

    histories: int
    masks: int = 0
    nonempty: int = 0
    identical: int = 0
    least_agreement: float = 1.0
    differing: list[list[str]] = field(default_factory=list)


def compare_histories(program: Path, count: int, folder: Path) -> Compared:
    """Replays random histories on three volumes through both sessions, without extras and without a budget.

    Args:
        program: C++'s `replay`.
        count: histories.
        folder: where volumes, scripts and masks are written.
    """
    rng = np.random.default_rng(17)
    volumes = _volumes(rng, folder)
    histories = [random_history(rng, volumes[i % len(volumes)].image.shape) for i in range(count)]
    scripts = [(volumes[i % len(volumes)], history.lines) for i, history in enumerate(histories)]
    settings = {"backend": "openvino", "threads": 1, "refine": 0, "window_voxels": WINDOW_VOXELS}
    replayed = replay_many_cpp(program, builtin("tiny"), scripts, folder, **settings)
    engine = open_engine("tiny", "openvino", threads=1)
    roi = engine.bundle.manifest.roi
    found = Compared(count)
    with Session(engine, WindowPolicy(WINDOW_VOXELS, roi.multiple, roi.minimum)) as session:
        for history, (volume, lines), cpp in zip(histories, scripts, replayed, strict=True):
            python = replay_python(session, volume, lines)
            # The last line of each is the undo that is refused: the histories are as long as the model says.
            if not history.refused == python.refused == cpp.refused or cpp.counts != python.counts:
                found.differing.append(lines)
            found.masks += len(lines)
            found.nonempty += int(python.masks.any(axis=(1, 2, 3)).sum())
            found.identical += int((python.masks == cpp.masks).all(axis=(1, 2, 3)).sum())
            found.least_agreement = min(found.least_agreement, agreement(cpp, python))
    return found


def _volumes(rng: np.random.Generator, folder: Path) -> list[Volume]:
    """Noise with balls, isotropic and not, each also in a file."""
    volumes = []
    for index, (shape, spacing_mm) in enumerate(
        [((28, 36, 30), (1.0, 1.0, 1.0)), ((18, 44, 40), (2.5, 0.8, 1.0)), ((40, 36, 44), (1.0, 1.0, 1.0))]
    ):
        image = rng.normal(100, 20, shape)
        z, y, x = np.indices(shape)
        for _ in range(4):
            middle, radius = rng.uniform(0, shape), rng.uniform(3, 9)
            near = sum(((at - m) * s) ** 2 for at, m, s in zip((z, y, x), middle, spacing_mm, strict=True)) < radius**2
            image[near] += rng.uniform(-60, 60)
        case = gstk.Case(f"volume{index}", np.clip(image, 0, 255).astype(np.uint8), gstk.Geometry(shape, spacing_mm))
        save_case(folder / f"{index}.npz", case)
        volumes.append(volume_of(case, folder / f"{index}.npz"))
    return volumes

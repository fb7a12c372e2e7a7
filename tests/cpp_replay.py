"""The same prompts and tensors for Python and C++, and what each makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cpp_build import run
from numpy.typing import NDArray

import gstk
from gstk.cases.npz import save_case
from gstk.cases.phantom_case import phantom_case
from gstk.core.bundle import Bundle
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.engines import open_engine
from gstk.errors import PromptError
from gstk.session.session import Session

Masks = NDArray[np.uint16]


@dataclass(frozen=True)
class Volume:
    """What a script is about.

    Attributes:
        path: a file that both read.
        image: (z,y,x).
        spacing_mm: (z,y,x).
        line: of a script, that begins with it; by default C++ reads the file.
    """

    path: Path
    image: NDArray[Any]
    spacing_mm: Sequence[float]
    line: str = ""


@dataclass(frozen=True)
class Replayed:
    """What came of a script's lines on one volume.

    Attributes:
        masks: (L,z,y,x) after each line.
        refused: of each line, whether it was (nothing to undo, for one).
        counts: encodes and decodes of the session after each line.
        told: what `replay` says of each line; empty for Python.
    """

    masks: Masks
    refused: list[bool]
    counts: list[tuple[int, int]]
    told: tuple[dict[str, float], ...] = ()


def agreement(first: Replayed, second: Replayed) -> float:
    """The least share of voxels that two replays agree on, over the masks after each line."""
    return float(np.mean(first.masks == second.masks, axis=(1, 2, 3)).min())


def handed_over(file: Path, folder: Path) -> Volume:
    """A file that Python reads, for C++ as voxels and what is known of them."""
    volume = gstk.read_volume(file)
    raw, geometry = folder / f"{file.parent.name}-{file.name}.raw", volume.geometry
    volume.image.astype(np.float32).tofile(raw)
    places = (*geometry.spacing_mm, *geometry.origin_mm, *geometry.direction)
    known = (volume.units or "-", volume.modality or "-", int(volume.has_orientation))
    line = " ".join(["voxels", *map(str, (raw, *known, *geometry.shape)), *(repr(float(number)) for number in places)])
    return Volume(file, volume.image, geometry.spacing_mm, line)


def phantom(path: Path, seed: int, side: int = 48) -> gstk.Case:
    """A generated case of that side, also in a file."""
    case = phantom_case(seed, side, "organs", 2)
    save_case(path, case)
    return case


def volume_of(case: gstk.Case, path: Path) -> Volume:
    """A case that lies in a file, for a replay."""
    return Volume(path, case.image, case.geometry.spacing_mm)


def click_on(case: gstk.Case, object_id: int) -> tuple[int, int, int]:
    """The case's own click on an object."""
    return case.prompts[object_id].points[0].zyx


def clicks_and_a_box(case: gstk.Case) -> list[str]:
    """A script on the last object of a labelled case: clicks alone, then a box with clicks."""
    assert case.labels is not None
    voxels = np.argwhere(case.labels == case.labels.max())
    z, y, x = voxels[len(voxels) // 2]
    (z0, y0, x0), (z1, y1, x1) = voxels.min(axis=0), voxels.max(axis=0)
    return [
        f"point 1 {z} {y} {x} 1",
        f"point 1 {z} {y} {max(x - 9, 0)} 0",
        "reset 1",
        f"box 1 {z0} {y0} {x0} {z1} {y1} {x1} {(z0 + z1) // 2}",
        f"point 1 {z0} {y0} {x0} 0",
        f"point 1 {z} {y} {max(x - 2, 0)} 0",
        f"point 1 {z1} {y} {x} 1",
    ]


def compare_engines(
    program: Path, backend: str, bundle: Bundle, precision: str, folder: Path, **environment: str
) -> None:
    """An encode and a decode in both, `program` being `engine_run`."""
    rng = np.random.default_rng(8)
    image = rng.random((32, 48, 32)).astype(np.float32)
    coords = rng.integers(0, 32, (3, 5, 3)).astype(np.float32)
    labels = np.array([[1, 0, -1, -1, -1], [2, 3, 1, 0, 1], [1, 1, 1, -1, -1]])
    np.savez(folder / "in.npz", image=image, coords=coords, labels=labels)
    given = (backend, bundle.path, precision, folder / "in.npz")
    run(program, *given, folder / "out.raw", **environment)
    found = np.fromfile(folder / "out.raw", np.float32).reshape(3, 1, *image.shape)
    with open_engine(bundle, backend, precision, threads=2) as engine:
        expected = engine.decode(engine.encode(image[None, None]), coords, labels)
    # The same graphs, rewritten in the same way, by the same library: only sums over threads may differ.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def replay_python(session: Session, volume: Volume, lines: Sequence[str]) -> Replayed:
    """Replays a script; its language is that of `cpp/tests/replay.cpp`."""
    session.set_image(gstk.read_volume(volume.path))
    masks, refused, counts = [], [], []
    for line in lines:
        try:
            _replay_line(session, line)
            refused.append(False)
        except PromptError:
            refused.append(True)
        masks.append(session.mask.copy())
        counts.append((session.encodes, session.decodes))
    return Replayed(np.array(masks), refused, counts)


def _replay_line(session: Session, line: str) -> None:
    what, *words = line.split()
    numbers = [int(word) for word in words]
    if what == "reset":
        session.reset(numbers[0] or None)
    elif what in ("point", "novel"):
        session.add_point(numbers[1:4], bool(numbers[4]), numbers[0], novel=what == "novel")
    elif what == "box":
        session.add_box(_box(numbers[1:]), numbers[0])
    elif what == "prompts":
        box = _box(numbers[2:9]) if numbers[1] else None
        flat = numbers[10 if box else 3 :]
        points = [Point((z, y, x), bool(f)) for z, y, x, f in zip(*(flat[i::4] for i in range(4)), strict=True)]
        session.set_prompts(ObjectPrompts(tuple(points), box), numbers[0])
    else:
        {"undo": session.undo, "redo": session.redo, "cancel": session.cancel}[what]()


def _box(n: Sequence[int]) -> Box:
    return Box(n[0], n[3], n[6], n[2], n[1], n[5], n[4])


def replay_cpp(
    program: Path, bundle: Path, volume: Volume, lines: Sequence[str], folder: Path, **named: object
) -> Replayed:
    """The same by `replay`; `named` are its settings, and in capitals variables of its environment."""
    (found,) = replay_many_cpp(program, bundle, [(volume, lines)], folder, **named)
    return found


def replay_many_cpp(
    program: Path, bundle: Path, scripts: Sequence[tuple[Volume, Sequence[str]]], folder: Path, **named: object
) -> Iterator[Replayed]:
    """Several scripts by one process and session, one after the other."""
    words = [f"{name}={value}" for name, value in named.items() if not name.isupper()]
    environment = {name: str(value) for name, value in named.items() if name.isupper()}
    script, masks = folder / "script.txt", folder / "masks.raw"
    script.write_text(
        "".join(
            f"{volume.line or f'volume {volume.path}'}\n" + "".join(f"{x}\n" for x in lines)
            for volume, lines in scripts
        )
    )
    told = timings(run(program, bundle, script, masks, *words, **environment))[1:]
    with masks.open("rb") as file:
        for volume, lines in scripts:
            shape = (len(lines), *volume.image.shape)
            values = np.frombuffer(file.read(2 * int(np.prod(shape))), np.uint16).reshape(shape)
            own, told = told[: len(lines)], told[len(lines) :]
            counts = [(int(line["encodes"]), int(line["decodes"])) for line in own]
            yield Replayed(values, [line["refused"] == 1 for line in own], counts, tuple(own))


def timings(output: str) -> list[dict[str, float]]:
    """What `replay` says of opening the bundle, and then of each line."""
    told = [line.split() for line in output.splitlines()]
    return [dict(zip(line[::2], map(float, line[1::2]), strict=True)) for line in told]

"""The same cases, prompts and tensors for Python and C++: what one computes beside the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cpp_build import SANITIZED, run
from latency import a_model
from numpy.typing import NDArray

import gstk
from gstk.calibration import Host, LatencyModel
from gstk.cases.npz import save_case
from gstk.cases.phantom_case import phantom_case
from gstk.core.bundle import Bundle, builtin
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.engines import open_engine
from gstk.session.session import Session

Masks = NDArray[np.uint16]


def phantom(path: Path, seed: int, side: int = 48) -> gstk.Case:
    """A generated case of that side, also in a file."""
    case = phantom_case(seed, side, "organs", 2)
    save_case(path, case)
    return case


def click_on(case: gstk.Case, object_id: int) -> tuple[int, int, int]:
    """The case's own click on an object."""
    return case.prompts[object_id].points[0].zyx


def many_prompts(case: gstk.Case) -> list[str]:
    """Lines for the replay with all that can be said, on a phantom of side 40."""
    first, second = (" ".join(map(str, click_on(case, k))) for k in list(case.prompts)[:2])
    z, y, x = click_on(case, next(iter(case.prompts)))
    box = [max(0, z - 6), max(0, y - 7), max(0, x - 8), min(z + 7, 39), min(y + 6, 39), min(x + 6, 39), z]
    return [
        "point 2 1 1 1 0",  # says only where the object is not
        f"point 1 {first} 1",
        f"point 2 {second} 1",
        f"point 1 {z} {y} {min(x + 5, 39)} 0",
        "undo",
        f"box 1 {' '.join(map(str, box))}",
        f"point 1 {z} {max(y - 5, 0)} {x} 1",
        f"prompts 3 1 2 3 4 30 34 36 15 2 {second} 1 {first} 0",
        "undo",
        "reset 2",
        f"prompts 300 0 1 {second} 1",
        "undo",
        "reset 0",
        f"point 1 {first} 1",
    ]


def clicks_and_a_box(case: gstk.Case) -> list[str]:
    """Lines for the replay on the last object of a labelled case: clicks alone, then a box with clicks that weigh the
    logits.
    """
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


def slow_model(backend: str) -> LatencyModel:
    """Of `tiny` on this host: far slower than it is, so that time is short for the planner and not for the clock."""
    bundle = Bundle.open(builtin("tiny"))
    with open_engine(bundle, backend) as engine:
        host = Host.of(engine)
    model = a_model(encode=100.0, decode=10.0)
    return replace(model, bundle_sha256=bundle.sha256, host=host, base_bytes=0, bytes_per_voxel=0.0)


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
    run(program, *given, folder / "out.raw", **SANITIZED, **environment)
    found = np.fromfile(folder / "out.raw", np.float32).reshape(3, 1, *image.shape)
    with open_engine(bundle, backend, precision, threads=2) as engine:
        expected = engine.decode(engine.encode(image[None, None]), coords, labels)
    # The same graphs, rewritten in the same way, by the same library: only sums over threads may differ.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


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
    **environment: str,
) -> tuple[Masks, list[dict[str, float]]]:
    """The masks, and what the program printed of each line; the first of these tells of opening.

    `limited` is nothing, or a latency model's file and the seconds of each call.
    """
    prompts, masks = folder / "prompts.txt", folder / "masks.raw"
    prompts.write_text("\n".join(lines) + "\n")
    out = run(program, bundle, volume, prompts, masks, threads, *limited, **SANITIZED, **environment)
    told = [line.split() for line in out.splitlines()]
    values = [dict(zip(line[::2], map(float, line[1::2]), strict=True)) for line in told]
    return np.fromfile(masks, np.uint16).reshape(-1, *shape), values

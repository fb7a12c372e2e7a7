"""What tiles gain on objects that are longer than the training's patch: Dice of one click; writes JSON.

    python benchmarks/tiles.py [--cases DIR] [--out benchmarks/results/tiles.json]

There are no full-size weights to measure with. What windows alone gain is shown by a method that needs no training: an
engine that takes, within a window, what is connected to the points and as bright as they are. `tiny`'s weights are
measured too, in the same profile; they know objects as large as their windows alone. The profile fixes the resolution
and a patch of 64³: an object longer than 64 voxels of it runs out of the patch. Each object gets one click, at the
voxel farthest from its border, and is segmented three times: in the training's window alone, in wider and coarser
windows too, and in tiles as well. Objects are bent tubes in textured noise, 10 to 24 mm thick and 190 to 400 mm long,
and with `--cases` those of `.npz` cases that are longer than the patch. No setting was chosen on those.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage

from gstk.cases.npz import load_case
from gstk.cases.phantoms import smooth_noise
from gstk.core.bundle import find_bundle
from gstk.core.click_rule import component_centre
from gstk.core.profile import find_profile
from gstk.core.regions import bounds, connected_components
from gstk.core.window import WindowPolicy
from gstk.engines import open_engine
from gstk.engines.base import Engine
from gstk.evaluation.metrics import dice
from gstk.session.session import Session
from gstk.session.tiles import TileWalk

SIDE = 64
SIGMA_VOXELS = 0.7
TOLERANCE = 0.13
GENERATED_MM = 2.0
MODES = ("training window", "wider windows", "tiles")


def tube(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[float, float, float]]:
    """A bent tube along z, brighter than the noise around it, beside a straight one that is as bright."""
    rng = np.random.default_rng(seed)
    length = int(rng.integers(95, 200))
    shape = (length, 96, 96)
    z = np.arange(length)
    radius = rng.uniform(2.5, 6.0)
    bend = rng.uniform(8, 18, 2)
    turns = rng.uniform(0.4, 1.1, 2)
    y = 42 + bend[0] * np.sin(2 * np.pi * turns[0] * z / length + rng.uniform(0, 6))
    x = 42 + bend[1] * np.sin(2 * np.pi * turns[1] * z / length + rng.uniform(0, 6))
    grid = np.indices(shape[1:])
    far = np.stack([np.hypot(grid[0] - a, grid[1] - b) for a, b in zip(y, x, strict=True)])
    label = far < radius
    label[:4] = label[-4:] = False
    other = np.hypot(grid[0] - 80, grid[1] - 80)[None] < 5
    image = 90 + 18 * smooth_noise(rng, shape, 9.0) + rng.normal(0, 12, shape)
    image = image + np.where(label | other, 70, 0)
    return np.clip(image, 0, 255).astype(np.uint8), label, (GENERATED_MM,) * 3


def generated(count: int) -> Iterator[tuple[str, NDArray[Any], NDArray[np.bool_], tuple[float, float, float], float]]:
    for seed in range(count):
        image, label, spacing_mm = tube(seed)
        yield f"tube {seed}", image, label, spacing_mm, GENERATED_MM


def labelled(cases: Path) -> Iterator[tuple[str, NDArray[Any], NDArray[np.bool_], tuple[float, float, float], float]]:
    """Objects of cases that are longer than the patch at the resolution of the case's finest axis."""
    for path in sorted(cases.glob("*.npz")):
        case = load_case(path)
        if case.labels is None:
            continue
        finest_mm = float(min(case.geometry.spacing_mm))
        for object_id in [int(k) for k in np.unique(case.labels) if k]:
            components, count = connected_components(case.labels == object_id)
            if not count:
                continue
            mask = components == int(np.bincount(components.ravel())[1:].argmax()) + 1
            box = bounds(mask)
            assert box is not None
            long_mm = max((axis.stop - axis.start) * s for axis, s in zip(box, case.geometry.spacing_mm, strict=True))
            if long_mm > 1.2 * SIDE * finest_mm:
                yield f"{path.stem} {object_id}", case.image, mask, case.geometry.spacing_mm, finest_mm


class AsBright(Engine):
    """Takes what is connected to the foreground points and nearly as bright as they are, after some smoothing."""

    name = "as bright"

    def __init__(self) -> None:
        super().__init__(8, 16)
        self.version = "1"

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        smooth = ndimage.gaussian_filter(image[0, 0], SIGMA_VOXELS)
        return smooth, smooth.nbytes

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        answers = []
        for points, on_it in zip(coords, labels, strict=True):
            seeds = np.rint(points[np.isin(on_it, (1, 3))]).astype(int)
            near = np.zeros(handle.shape, bool)
            for seed in seeds:
                level = float(handle[tuple(slice(max(0, i - 1), i + 2) for i in seed)].mean())
                components, _ = connected_components(np.abs(handle - level) < TOLERANCE)
                near |= components == (components[tuple(seed)] or -1)
            answers.append(np.where(near, np.float32(1), np.float32(-1)))
        return np.stack(answers)[:, None]

    def _release(self) -> None:
        pass


def session_of(engine: Any, spacing_mm: float, adapts: bool) -> Session:
    profile = replace(find_profile("tiny"), spacing_mm=float(spacing_mm), patch=(SIDE,) * 3)
    policy = WindowPolicy(SIDE**3, 8, 16, adapts=adapts)
    return Session(engine, policy, profile=profile, owns_engine=False)


def measure(engine: Any, name: str, image: Any, label: Any, spacing_mm: Any, grid_mm: float) -> dict[str, Any]:
    click = component_centre(label)
    row: dict[str, Any] = {"object": name, "voxels": int(label.sum())}
    next_tile = TileWalk.next_tile
    for mode in MODES:
        if mode != "tiles":
            TileWalk.next_tile = lambda _: None  # type: ignore[method-assign]
        try:
            with session_of(engine, grid_mm, adapts=mode != "training window") as session:
                session.set_image(image, spacing_mm)
                began = time.perf_counter()
                session.add_point(click)
                mask = session.mask > 0
                row[mode] = {
                    "dice": float(dice(mask, label)),
                    "encodes": session.encodes,
                    "seconds": time.perf_counter() - began,
                }
        finally:
            TileWalk.next_tile = next_tile  # type: ignore[method-assign]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--generated", type=int, default=12)
    parser.add_argument("--engines", nargs="+", default=["as bright", "tiny"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tiles.json")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    report: dict[str, Any] = {"machine": describe("openvino"), "patch": SIDE}
    for name in arguments.engines:
        with AsBright() if name == "as bright" else open_engine(find_bundle(name), "openvino", "fp32") as engine:
            sources = {"generated": generated(arguments.generated)}
            if arguments.cases:
                sources["labelled"] = labelled(arguments.cases)
            for kind, objects in sources.items():
                rows = []
                for given in objects:
                    rows.append(measure(engine, *given))
                    console.print(name, json.dumps(rows[-1]), soft_wrap=True)
                means = {mode: float(np.mean([row[mode]["dice"] for row in rows])) for mode in MODES} if rows else {}
                console.print(name, kind, len(rows), means)
                report[f"{name}, {kind}"] = {"objects": len(rows), "mean_dice": means, "rows": rows}
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

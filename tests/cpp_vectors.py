"""Vectors for the C++ core: inputs of every stage and what Python makes of them, an .npz a case."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.regions import Region
from gstk.core.resampling import intensity_range
from gstk.core.window import Window, WindowPolicy, frame
from gstk.session.click_update import (
    ClickScope,
    apply_click,
    clicked_components,
    enforce_clicks,
    fallback_mask,
    keep_clicked_components,
)
from gstk.session.extras.image_refiner import LocalPrompts, fine_part, refine_logits
from gstk.session.label_fusion import ObjectLogits, label_map
from gstk.session.window_answer import WindowAnswer
from gstk.session.window_selection import adapt_window, initial_extent

Arrays = dict[str, object]


def write_vectors(folder: Path, seed: int = 0) -> None:
    """Writes some cases of each kind; `cpp/tests/vectors.cpp` names what each holds."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    kinds = {
        "range": _ranges(rng),
        "frame": [_frame(rng) for _ in range(200)],
        "sample": [*(_sample(rng) for _ in range(40)), *(_large_sample(rng, axis) for axis in range(2))],
        "back": [_back(rng) for _ in range(40)],
        "points": [_points(rng) for _ in range(20)],
        "components": [_components(rng) for _ in range(30)],
        "keep": [_clicked(rng, keep_clicked_components) for _ in range(30)],
        "enforce": [_clicked(rng, _enforced) for _ in range(10)],
        "click": [_click(rng) for _ in range(80)],
        "refine": [_refine(rng) for _ in range(24)],
        "fine": [_fine(rng) for _ in range(60)],
        "initial": [_initial(rng) for _ in range(40)],
        "adapt": [_adapt(rng) for _ in range(60)],
        "half": [_half(rng)],
        "labels": [_labels(rng) for _ in range(60)],
        "nearest": [_back(rng, nearest=True) for _ in range(20)],
        "fallback": [_fallback(rng) for _ in range(40)],
    }
    for kind, cases in kinds.items():
        for index, case in enumerate(cases):
            np.savez(folder / f"{kind}-{index}.npz", **case)  # type: ignore[arg-type]


def _ranges(rng: np.random.Generator) -> list[Arrays]:
    volumes = [
        (rng.normal(0, 50, (9, 11, 7)) * scale).astype(kind)
        for kind, scale in (("i1", 0.5), ("i2", 100), ("i4", 1e6), ("i8", 1e12), ("f4", 1e-3), ("f8", 1e200))
    ]
    volumes += [np.abs(volume).astype(volume.dtype.str.replace("i", "u")) for volume in volumes[:4]]
    volumes += [np.full((3, 3, 3), 7, "u1"), np.zeros((1, 1, 1), "f4"), rng.integers(0, 2, (2, 1, 1)).astype("i2")]
    spike = np.zeros((20, 20, 20), "u1")
    spike[3, 3, 3] = 200  # fewer than the 99th percentile leaves out
    volumes += [spike, np.asfortranarray(volumes[1]), volumes[4].astype(">f4"), rng.random((5, 6, 7)).astype("f2")]
    return [{"volume": volume, "expected": intensity_range(volume)} for volume in volumes]


def _window(rng: np.random.Generator, longest: int = 20) -> Window:
    start = rng.uniform(-8, 14, 3)
    step = rng.choice([1.0, 0.5, *rng.uniform(0.3, 3, 4)], 3)
    start = np.where(rng.random(3) < 0.5, np.rint(start), start)
    return Window(tuple(start.tolist()), tuple(step.tolist()), tuple(rng.integers(1, longest, 3).tolist()))


def _described(window: Window) -> Arrays:
    return {"start": window.start, "step": window.step, "shape": np.array(window.shape, np.int64)}


def _frame(rng: np.random.Generator) -> Arrays:
    shape = rng.integers(1, 500, 3)
    spacing = rng.choice([1.0, 0.5, 3.0, *rng.uniform(0.2, 9, 3)], 3)
    corners = np.sort(rng.uniform(-3, 3, (2, 3)) + rng.integers(0, shape, (2, 3)), axis=0)
    corners = np.where(rng.random(3) < 0.5, np.rint(corners), corners)
    multiple = int(rng.choice([8, 16]))
    policy = WindowPolicy(int(rng.integers(20, 140)) ** 3, multiple, 2 * multiple, float(rng.uniform(0, 1)), 0.5)
    geometry = Geometry(tuple(shape), tuple(spacing))  # type: ignore[arg-type]
    window = frame(geometry, corners[0], corners[1] + 1, policy)
    given = {"volume_shape": shape, "spacing": spacing, "low": corners[0], "high": corners[1] + 1}
    return {**given, "policy": _settings(policy), **_described(window), "expected": 0}


def _volume(rng: np.random.Generator) -> np.ndarray:
    kind = rng.choice(["u1", "i2", "f4", "f8", "u2", "i4"])
    return (rng.random(rng.integers(1, 30, 3)) * 200).astype(kind)


def _sample(rng: np.random.Generator) -> Arrays:
    volume, window = _volume(rng), _window(rng)
    low, high = sorted(rng.uniform(0, 200, 2)) if rng.random() < 0.9 else (5.0, 5.0)
    return {"volume": volume, "range": (low, high), **_described(window), "expected": window.sample(volume, low, high)}


def _large_sample(rng: np.random.Generator, axis: int) -> Arrays:
    """Of a volume that is looked at slab by slab; it shrinks most along an axis."""
    volume = rng.integers(0, 250, (170, 160, 156), np.uint8)
    shape = tuple(8 if a == axis else 24 for a in range(3))
    step = tuple(n / s for n, s in zip(volume.shape, shape, strict=True))
    window = Window((-3.0, 2.5, 0.0), step, shape)  # type: ignore[arg-type]
    return {"volume": volume, "range": (9.0, 200.0), **_described(window), "expected": window.sample(volume, 9, 200)}


def _back(rng: np.random.Generator, nearest: bool = False) -> Arrays:
    window, shape = _window(rng), rng.integers(14, 40, 3)
    values = (rng.normal(size=window.shape) * 4).astype(np.float32)
    inside = window.inside(tuple(shape))
    given = {"volume_shape": shape, "values": values, "inside": _corners(inside)}
    expected = (window.nearest if nearest else window.back)(values, tuple(shape))
    return {**given, **_described(window), "expected": expected}


def _corners(region: Region) -> list[int]:
    return [axis.start for axis in region] + [axis.stop for axis in region]


def _points(rng: np.random.Generator) -> Arrays:
    window, points = _window(rng), rng.uniform(-10, 30, (30, 3))
    points[:10] = np.rint(points[:10])
    held = window.holds(points).astype(np.uint8)
    return {"points": points, **_described(window), "held": held, "expected": window.to_window(points)}


def _components(rng: np.random.Generator) -> Arrays:
    shape = rng.integers(1, 14, 3)
    mask = rng.random(shape) < rng.choice([0.05, 0.15, 0.5])
    points = rng.uniform(-1, 13, (rng.integers(0, 6), 3)).astype(np.float32)
    return {"mask": mask.astype(np.uint8), "points": points, "expected": clicked_components(mask, points).astype("u1")}


def _logits(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.normal(size=shape) - 0.8).astype(np.float32)


def _region(rng: np.random.Generator) -> Region:
    start = rng.integers(0, 6, 3)
    z, y, x = (slice(int(a), int(a + n)) for a, n in zip(start, rng.integers(3, 12, 3), strict=True))
    return z, y, x


def _clicked(rng: np.random.Generator, change: Callable[[np.ndarray, Region, ObjectPrompts], np.ndarray]) -> Arrays:
    region = _region(rng)
    values = _logits(rng, tuple(s.stop - s.start for s in region))
    points = np.column_stack([rng.integers(0, 14, (4, 3)), rng.integers(0, 2, 4)])
    prompts = ObjectPrompts(tuple(Point((int(z), int(y), int(x)), bool(f)) for z, y, x, f in points))
    given = {"region": _corners(region), "values": values.copy(), **_described_prompts(prompts)}
    return {**given, "expected": change(values, region, prompts)}


def _enforced(values: np.ndarray, region: Region, prompts: ObjectPrompts) -> np.ndarray:
    enforce_clicks(values, region, prompts)
    return values


def _click(rng: np.random.Generator) -> Arrays:
    regions = _region(rng), _region(rng)
    before, after = (_logits(rng, tuple(s.stop - s.start for s in region)) for region in regions)
    click = [int(rng.integers(axis.start, axis.stop)) for axis in regions[1]]
    if rng.random() < 0.1:
        click = [0, 0, 0]  # mostly outside of both
    opposite = rng.integers(0, 14, (rng.integers(0, 4), 3))
    spacing = rng.uniform(0.5, 4, 3)
    foreground = bool(rng.integers(0, 2))
    scope = ClickScope(
        Point((click[0], click[1], click[2]), foreground),
        [(int(z), int(y), int(x)) for z, y, x in opposite],
        tuple(spacing.tolist()),
        is_boxed=bool(rng.integers(0, 2)),
    )
    region, expected = apply_click(scope, regions[0], before, regions[1], after)
    return {
        "before_region": _corners(regions[0]),
        "after_region": _corners(regions[1]),
        "before": before,
        "after": after,
        "click": [*click, int(foreground), int(scope.is_boxed)],
        "opposite": opposite,
        "spacing": spacing,
        "region": _corners(region),
        "expected": expected,
    }


def _refine(rng: np.random.Generator) -> Arrays:
    shape = tuple(int(n) for n in rng.integers(2, 20, 3))
    image = np.clip(rng.normal(0.5, 0.1, shape), 0, 1)
    image[tuple(slice(n // 4, n // 4 + n // 2) for n in shape)] *= rng.random()
    logits = rng.normal(scale=rng.choice([0.5, 3, 9]), size=shape) + rng.choice([-20, 0, 0, 0, 20])
    points = np.column_stack([rng.uniform(-1, 20, (5, 3)), rng.integers(0, 2, 5)])[: rng.integers(0, 6)]
    points[:1] = np.rint(points[:1] + 0.5) - 0.5  # halves, whose rounding must agree
    box = np.sort(rng.uniform(-2, 20, (2, 3)), axis=0) if rng.random() < 0.5 else None
    local = LocalPrompts(points[:, :3], points[:, 3] > 0, box)
    image, logits = image.astype(np.float32), logits.astype(np.float32)
    given = {"image": image, "logits": logits, "points": points, "box": [] if box is None else box}
    return {**given, "expected": refine_logits(image, logits, local)}


def _fine(rng: np.random.Generator) -> Arrays:
    window = Window(
        tuple(rng.uniform(-8, 14, 3).tolist()),
        tuple((rng.uniform(0.5, 4) * rng.uniform(0.9, 1.1, 3)).tolist()),
        tuple(rng.integers(2, 12, 3) * 16),
    )
    geometry = Geometry((300, 300, 300), tuple(rng.uniform(0.7, 1.4, 3).tolist()))
    box = np.sort(rng.uniform(0, 100, (2, 3)), axis=0) if rng.random() < 0.7 else None
    points = np.column_stack([rng.uniform(-1, 150, (3, 3)), rng.integers(0, 2, 3)])[: rng.integers(0, 4)]
    low, high, finer = fine_part(geometry, window, LocalPrompts(points[:, :3], points[:, 3] > 0, box))
    part = window.part(low, high, finer)
    given = {"spacing": geometry.spacing_mm, "points": points, "box": [] if box is None else box}
    found = {"expected": [*low, *high, finer], "part_start": part.start, "part_step": part.step}
    return {**_described(window), **given, **found, "part_shape": np.array(part.shape, np.int64)}


def _initial(rng: np.random.Generator) -> Arrays:
    """The first window for some prompts."""
    geometry, policy = _geometry(rng, 300), _policy(rng)
    prompts = _prompts(rng, geometry, 5)
    window = frame(geometry, *initial_extent(geometry, prompts, policy), policy)
    return {**_described_case(geometry, policy, prompts), **_described(window), "expected": 0}


def _adapt(rng: np.random.Generator) -> Arrays:
    """A window that an object of some size, which may be cut off, sits in."""
    geometry, policy = _geometry(rng, 120), _policy(rng)
    prompts = _prompts(rng, geometry, 3)
    window = frame(geometry, *initial_extent(geometry, prompts, policy), policy)
    middle = window.to_window(prompts.clicked())[0] if prompts.points else np.array(window.shape) / 2
    away = np.indices(window.shape).reshape(3, -1) - middle[:, None]
    radius = rng.choice([0.5, 2, 5, 20, 60])
    logits = (radius - np.linalg.norm(away, axis=0)).reshape(window.shape).astype(np.float32)
    found = adapt_window(geometry, WindowAnswer(window, logits, prompts), policy)
    adapted = _described(window if found is None else found)
    given = {**_described_case(geometry, policy, prompts), **_described(window), "logits": logits}
    return {**given, **{f"adapted_{key}": value for key, value in adapted.items()}, "expected": int(found is not None)}


def _policy(rng: np.random.Generator) -> WindowPolicy:
    return WindowPolicy(int(rng.integers(20, 60)) ** 3, 8, 16)


def _described_case(geometry: Geometry, policy: WindowPolicy, prompts: ObjectPrompts) -> Arrays:
    return {**_described_geometry(geometry), "policy": _settings(policy), **_described_prompts(prompts)}


def _settings(policy: WindowPolicy) -> np.ndarray:
    return np.array([policy.max_voxels, policy.multiple, policy.min_side, policy.margin, policy.min_step], float)


def _half(rng: np.random.Generator) -> Arrays:
    edges = [0, 6e-8, 2.98e-8, 6.1e-5, 6.103e-5, 1, 1.0004883, 1.0014648, 65504, 65519.9, 65520, 1e30, -3.3, -0.0]
    values = np.concatenate([edges, rng.normal(size=2000) * 10.0 ** rng.integers(-9, 6, 2000)]).astype(np.float32)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return {"floats": values, "halves": half.view(np.uint16), "expected": half.astype(np.float32)}


def _labels(rng: np.random.Generator) -> Arrays:
    """Objects that overlap much, some clicked inside others."""
    objects = {}
    for object_id in rng.choice(np.arange(1, 400), rng.integers(1, 6), replace=False):
        region = _region(rng)
        values = _logits(rng, tuple(s.stop - s.start for s in region)) * np.float32(rng.choice([1, 5]))
        places = rng.integers([s.start for s in region], [s.stop for s in region], (rng.integers(0, 4), 3))
        values[tuple(places.T - np.array([[s.start] for s in region]))] = 1
        clicks = tuple((int(z), int(y), int(x)) for z, y, x in places)
        objects[int(object_id)] = ObjectLogits(region, values, clicks, clicks[0] if len(clicks) == 2 else None)
    spacing = tuple(rng.uniform(0.5, 4, 3).tolist())
    given: Arrays = {"volume_shape": np.array((18, 18, 18), np.int64), "spacing": spacing, "ids": sorted(objects)}
    for k, each in objects.items():
        given |= {f"{k}_region": _corners(each.region), f"{k}_values": each.logits}
        given |= {
            f"{k}_clicks": np.array(each.clicks, np.int64),
            f"{k}_box_centre": np.array(each.box_centre or (), np.int64),
        }
    return {**given, "expected": label_map((18, 18, 18), spacing, objects)}


def _geometry(rng: np.random.Generator, longest: int) -> Geometry:
    z, y, x = rng.integers(4, longest, 3).tolist()
    return Geometry((z, y, x), tuple(rng.choice([1.0, 3.0, *rng.uniform(0.5, 5, 3)], 3).tolist()))  # type: ignore[arg-type]


def _prompts(rng: np.random.Generator, geometry: Geometry, most: int) -> ObjectPrompts:
    """A box, or a foreground click, and others."""
    points = [
        Point(tuple(rng.integers(0, geometry.shape).tolist()), bool(rng.integers(0, 2)))  # type: ignore[arg-type]
        for _ in range(rng.integers(0, most))
    ]
    if rng.random() < 0.5:
        corners = np.sort(rng.integers(0, geometry.shape, (2, 3)), axis=0)
        return ObjectPrompts(tuple(points), Box.from_corners(corners.tolist()))
    points.insert(rng.integers(0, len(points) + 1), Point(tuple(n // 2 for n in geometry.shape), True))  # type: ignore[arg-type]
    return ObjectPrompts(tuple(points))


def _described_prompts(prompts: ObjectPrompts) -> Arrays:
    box = prompts.box
    corners = [*box.corners()[0], *box.corners()[1], box.z_mid] if box else []
    flat = [[*p.zyx, p.foreground] for p in prompts.points]
    return {"points": np.array(flat, np.int64).reshape(-1, 4), "box": np.array(corners, np.int64)}


def _described_geometry(geometry: Geometry) -> Arrays:
    return {"volume_shape": np.array(geometry.shape, np.int64), "spacing": np.array(geometry.spacing_mm)}


def _fallback(rng: np.random.Generator) -> Arrays:
    geometry = _geometry(rng, 24)
    prompts = _prompts(rng, geometry, 4)
    region = logits = None
    if rng.random() < 0.5:
        low = [int(rng.integers(0, n)) for n in geometry.shape]
        z, y, x = (slice(a, int(rng.integers(a, n)) + 1) for a, n in zip(low, geometry.shape, strict=True))
        region = (z, y, x)
        logits = _logits(rng, tuple(s.stop - s.start for s in region))
    found, values = fallback_mask(prompts, geometry, region, logits)
    before = {"before_region": _corners(region) if region else [], "before": [] if logits is None else logits}
    return {
        **_described_geometry(geometry),
        **_described_prompts(prompts),
        **before,
        "region": _corners(found),
        "expected": values,
    }


if __name__ == "__main__":
    write_vectors(Path(sys.argv[1]))

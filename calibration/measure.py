"""Measures an engine over regions, objects and points, from small to large, within a time limit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from gstk.calibration import memory
from gstk.calibration.host import Host
from gstk.calibration.model import CLASS_KINDS, KINDS, LatencyModel, Measurement, fit_calls, fit_memory
from gstk.core.bundle import Bundle
from gstk.core.foreign_text import reason_of
from gstk.core.manifest import CLASS_GRAPH
from gstk.engines import BundleEngine, Embedding, open_engine
from gstk.errors import CalibrationError, OutOfMemory

__all__ = ["FULL_S", "QUICK_S", "fit_model", "measure", "measure_classes", "measure_region", "regions"]

QUICK_S = 16.0
"""Time limit of a quick calibration, seconds; including the start it takes at most 20."""
FULL_S = 180.0

Progress = Callable[[float, str], None]
Shape = tuple[int, int, int]

_DECODES = ((1, 1), (1, 6), (3, 1))
"""Numbers of objects and points that are decoded in each region."""
_AGAIN = 4
"""After each region, this many much smaller earlier regions are measured again. Small regions take so little time that
a short disturbance of the machine could otherwise spoil all of their measurements."""
_FAR_SMALLER = 4
_MEMORY_SHARE = 0.8
"""Share of the free memory; a region that is expected to need more is not measured."""
_STARTUP = """
import json, sys
from gstk.engines import open_engine
open_engine(**json.loads(sys.argv[1])).close()
"""


def measure(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    options: Mapping[str, object] | None = None,
    seconds: float = FULL_S,
    on_progress: Progress = lambda share, text: None,
) -> tuple[LatencyModel, list[Measurement]]:
    """Opens a bundle and measures it.

    Args:
        bundle: the bundle to measure.
        backend, precision, device, threads, options: see `gstk.engines.open_engine`.
        seconds: approximate time limit; as many regions as fit are measured, and at least two sizes.
        on_progress: called with the completed share, 0–1, and a description of the current step.

    Raises:
        EngineError: see `open_engine`.
        CalibrationError: memory suffices for fewer than two sizes of region, or another process cannot open the bundle.
    """
    began = time.perf_counter()
    settings = dict(options or {})
    opening = time.perf_counter()
    with open_engine(bundle, backend, precision, threads, device, settings) as engine:
        load_s = time.perf_counter() - opening
        base_bytes = memory.resident_bytes()
        on_progress(0.02, "starting a process")
        startup_s = _startup_s(engine, settings)
        free_bytes = memory.free_bytes()
        found: list[Measurement] = []
        rate = 0.0  # seconds per voxel
        seen: list[Shape] = []
        for shape in regions(engine, dense=seconds > 2 * QUICK_S):
            spent = time.perf_counter() - began
            next_s = rate * math.prod(shape)
            if len({m.shape for m in found}) >= 3 and spent + next_s > seconds:
                break
            run_bytes, bytes_per_voxel = fit_memory(found, base_bytes)
            if run_bytes + bytes_per_voxel * math.prod(shape) > _MEMORY_SHARE * free_bytes:
                break
            on_progress(min(0.99, spent / seconds), f"region {shape[0]}×{shape[1]}×{shape[2]}")
            region_began = time.perf_counter()
            try:
                found += measure_region(engine, shape, 2 if seconds <= 2 * QUICK_S else 4)
            except OutOfMemory:
                break
            rate = (time.perf_counter() - region_began) / math.prod(shape)
            small = [s for s in seen if _FAR_SMALLER * math.prod(s) <= math.prod(shape)]
            for again in small[-_AGAIN:]:
                found += (m for m in measure_region(engine, again, 1) if m.kind in ("encode", "decode"))
            seen.append(shape)
        if not found:
            raise CalibrationError(
                "got no region that fits into memory, expected two; free memory or take a smaller bundle"
            )
        class_load_s, of_classes = 0.0, list[Measurement]()
        if CLASS_GRAPH in bundle.manifest.graphs:
            on_progress(0.99, "class prompts")
            class_load_s, of_classes = measure_classes(engine, [m.shape for m in found])
        on_progress(1.0, "fitting")
        model = fit_model(engine, found, load_s, startup_s, base_bytes)
        return with_classes(model, of_classes, class_load_s), [*found, *of_classes]


def fit_model(
    engine: BundleEngine, found: Sequence[Measurement], load_s: float, startup_s: float, base_bytes: int
) -> LatencyModel:
    """Fits the latency model of an engine to measurements; see `LatencyModel` for the other arguments.

    Raises:
        CalibrationError: fewer than two regions were measured.
    """
    run_bytes, bytes_per_voxel = fit_memory(found, base_bytes)
    class_run_bytes, class_bytes_per_voxel = _unmeasured_class_bytes(engine, found, base_bytes)
    return LatencyModel(
        bundle=engine.bundle.manifest.name,
        bundle_sha256=engine.bundle.sha256,
        host=Host.of(engine),
        fits={kind: fit_calls(found, kind) for kind in KINDS},
        load_s=load_s,
        startup_s=startup_s,
        base_bytes=base_bytes,
        bytes_per_voxel=bytes_per_voxel,
        run_bytes=run_bytes,
        class_bytes_per_voxel=class_bytes_per_voxel,
        class_run_bytes=class_run_bytes,
        largest_voxels=max(math.prod(m.shape) for m in found),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _unmeasured_class_bytes(engine: BundleEngine, found: Sequence[Measurement], base_bytes: int) -> tuple[float, float]:
    """Memory of a run for class prompts, see `fit_memory`, by that of an encode; 0 for a bundle without them.

    Features have a value for every voxel, where an embedding has one for eight. The runtime holds them, and the caller.
    """
    if CLASS_GRAPH not in engine.bundle.manifest.graphs:
        return 0.0, 0.0
    channels = int(engine.class_vectors().shape[1])
    run_bytes, bytes_per_voxel = fit_memory([m for m in found if m.kind.endswith("encode")], base_bytes)
    return run_bytes, bytes_per_voxel + 2 * 4 * channels


def with_classes(model: LatencyModel, found: Sequence[Measurement], class_load_s: float) -> LatencyModel:
    """The model with fits of class prompts, where two sizes of region or more were measured.

    Args:
        model: without them.
        found, class_load_s: from `measure_classes`.
    """
    if len({m.shape for m in found}) < 2:
        return model
    fits = {**model.fits, **{kind: fit_calls(found, kind) for kind in CLASS_KINDS}}
    run_bytes, bytes_per_voxel = fit_memory(found, 0)
    return replace(
        model,
        fits=fits,
        class_load_s=class_load_s,
        class_run_bytes=run_bytes,
        class_bytes_per_voxel=bytes_per_voxel,
    )


def measure_classes(engine: BundleEngine, shapes: Sequence[Shape]) -> tuple[float, list[Measurement]]:
    """Measures encodes for class prompts in two regions: the network's patch, or the largest that fits, and a smaller.

    Windows of class prompts always are the patch, so other sizes matter little.

    Args:
        engine: of a bundle with class prompts.
        shapes: regions that fit into memory.

    Returns:
        Seconds to load the graph, and the measurements; none where the memory suffices for no region. Their memory is
        beyond that of the process before, which still holds what the runtime keeps of clicks in large regions.
    """
    held_bytes = memory.resident_bytes()
    patch = math.prod(engine.bundle.manifest.roi.default)
    by_size = sorted({*shapes}, key=math.prod)
    largest = max((s for s in by_size if math.prod(s) <= patch), key=math.prod, default=by_size[0])
    if math.prod(by_size[-1]) >= patch:
        largest = engine.bundle.manifest.roi.default
    found: list[Measurement] = []
    load_s = 0.0
    try:
        for shape in dict.fromkeys((by_size[0], largest)):
            image = np.random.default_rng(math.prod(shape)).random((1, 1, *shape), dtype=np.float32)
            if not found:
                load_s = _timed(lambda i=image: engine.class_features(i))[0]  # type: ignore[misc]
            for index in range(3):
                seconds, peak = _timed(lambda i=image: engine.class_features(i))  # type: ignore[misc]
                more = max(1, peak - held_bytes)
                found.append(Measurement("classes" if index else "first_classes", shape, 1, 1, seconds, more))
    except OutOfMemory:
        return load_s, [m for m in found if m.shape != shape]
    return max(0.0, load_s - found[0].seconds), found


def regions(engine: BundleEngine, dense: bool) -> Iterator[Shape]:
    """Regions to measure, cubes and others, each about twice (four times if not `dense`) as large as the one before."""
    rules = engine.bundle.manifest.roi
    limit = rules.max_voxels
    side: float = max(rules.minimum, 2 * rules.multiple, 32)
    seen: set[Shape] = set()
    while True:
        cube = (_round(side, rules.multiple),) * 3
        flat = tuple(max(rules.minimum, _round(side * f, rules.multiple)) for f in (0.6, 1.0, 1.5))
        for shape in (cube, flat):
            z, y, x = shape
            if (z, y, x) in seen:
                continue
            if z * y * x > limit:
                return
            seen.add((z, y, x))
            yield (z, y, x)
        side *= (2 if dense else 4) ** (1 / 3)


def measure_region(engine: BundleEngine, shape: Shape, repeats: int) -> Iterator[Measurement]:
    """Measures encodes and decodes of one region: the first of each, and `repeats` more."""
    rng = np.random.default_rng(math.prod(shape))
    image = rng.random((1, 1, *shape), dtype=np.float32)
    kept: list[Embedding] = []
    for index in range(repeats + 1):
        kept.clear()  # so that only one embedding is in memory
        seconds, peak = _timed(lambda: kept.append(engine.encode(image)))
        yield Measurement("encode" if index else "first_encode", shape, 1, 1, seconds, peak)
    for objects, points in _DECODES:
        coords = rng.integers(0, shape, (objects, points, 3)).astype(np.float32)
        labels = np.ones((objects, points), np.int64)
        for index in range(repeats + 1):
            seconds, peak = _timed(lambda c=coords, p=labels: engine.decode(kept[0], c, p))  # type: ignore[misc]
            if index:
                yield Measurement("decode", shape, objects, points, seconds, peak)
            elif objects == points == 1:
                yield Measurement("first_decode", shape, objects, points, seconds, peak)


def _timed(call: Callable[[], object]) -> tuple[float, int]:
    """Seconds that a call takes, and the peak memory of this process during the call."""
    memory.forget_peak()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began, memory.peak_bytes()


def _startup_s(engine: BundleEngine, options: Mapping[str, object]) -> float:
    """Seconds that a new process takes to open the same engine and exit."""
    asked = {
        "bundle": str(engine.bundle.path),
        "backend": engine.name,
        "precision": engine.precision,
        "threads": engine.threads,
        "device": engine.device.id,
        "options": {name: None if value is None else str(value) for name, value in options.items()},
    }
    began = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", _STARTUP, json.dumps(asked)], capture_output=True, text=True)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise CalibrationError(f"a process that opens {engine.bundle.path} failed: {reason_of(last, 200)}")
    return time.perf_counter() - began


def _round(side: float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple

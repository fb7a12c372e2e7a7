"""Builds the TensorRT plans of a bundle, reuses plans that already exist, and stores the results."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from gstk.core.bundle import Bundle, find_bundle
from gstk.core.private_files import stranger, write_private
from gstk.engines.arguments import Shape
from gstk.engines.devices import find_device
from gstk.engines.failures import failure, refuse_lost_device
from gstk.engines.tensorrt_package import require_gpu, require_tensorrt
from gstk.engines.tensorrt_plans import graph_hash, plan_folder, plan_kinds, read_plan, read_record, save_plan
from gstk.engines.tensorrt_profiles import Profiles, default_regions, default_wide
from gstk.engines.tensorrt_record import BuildTarget, PlanFile, PlanRecord, Settings
from gstk.errors import GstkError, PlanError

__all__ = ["BuildStep", "PlanResult", "build_plans", "choose_profiles"]

OBJECTS, POINTS = 8, 32
"""Largest number of objects decoded at once, and largest number of points of an object."""


class BuildStep(NamedTuple):
    """The progress of a build.

    Attributes:
        kind: `encoder`, `prompt_decoder` or `class_encoder`.
        phase: TensorRT's name of the current phase.
        parent: the phase that contains this one.
        done, steps: completed and total steps of the phase; equal when the phase has ended.
    """

    kind: str
    phase: str
    parent: str | None
    done: int
    steps: int


class PlanResult(NamedTuple):
    """A plan, and whether it was built by this call or already existed."""

    plan: PlanFile
    built: bool


def choose_profiles(
    bundle: Bundle,
    regions: Sequence[Shape] | None = None,
    wide: tuple[int, int, int] | str | None = "default",
    objects: int = OBJECTS,
    points: int = POINTS,
) -> Profiles:
    """The profiles that `build_plans` would build for the same arguments; see `build_plans`."""
    roi = bundle.manifest.roi
    chosen = default_regions(roi) if regions is None else regions
    span = default_wide(roi) if isinstance(wide, str) else wide
    return Profiles.choose(roi, chosen, span, objects, points)


def build_plans(
    bundle: Bundle | str | os.PathLike[str],
    precision: str = "auto",
    regions: Sequence[Shape] | None = None,
    wide: tuple[int, int, int] | str | None = "default",
    objects: int = OBJECTS,
    points: int = POINTS,
    settings: Settings | None = None,
    device: str = "cuda",
    plans: Path | None = None,
    rebuild: bool = False,
    on_progress: Callable[[BuildStep], None] = lambda step: None,
) -> list[PlanResult]:
    """Builds the TensorRT plans of a bundle on this machine's GPU; takes minutes.

    Each plan is written atomically as soon as it is built, so a build after an interrupt only builds the missing plans.

    Args:
        bundle: an opened bundle, a bundle's folder, or a built-in name.
        precision: precision of the graphs; `auto` is `fp16` if the bundle has FP16 graphs.
        regions: common regions (z,y,x) in voxels, each with its own profile; None for the region that the network was
            trained on, one a quarter smaller and one a quarter larger.
        wide: smallest, usual and largest side of the profile for all other regions. None builds no such profile;
            "default" ranges from the smallest region that the network takes to twice the usual one.
        objects: largest number of objects decoded at once.
        points: largest number of points of an object.
        settings: see `Settings`.
        device: `cuda` or `cuda:N`.
        plans: folder for the plans; None for `engines` in the bundle, or the user's cache if the bundle is read-only.
        rebuild: build plans even if they already exist.
        on_progress: called after each step.

    Returns:
        The plans of the encoder, the decoder and, where the bundle has class prompts, the encoder for classes.

    Raises:
        BackendMissing: no TensorRT that gstk can use.
        DriverMissing: no NVIDIA driver, or no GPU.
        BundleError: not a bundle, or the bundle has no graphs in that precision.
        PlanError: the profiles do not fit the bundle, or TensorRT cannot build it.
        OutOfMemory, DeviceError: the GPU ran out of memory, or failed.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(find_bundle(bundle))
    if precision == "auto":
        precision = "fp16" if all("fp16" in files for files in bundle.manifest.graphs.values()) else "fp32"
    graphs = {kind: bundle.graph(kind, precision) for kind in plan_kinds(bundle)}
    profiles = choose_profiles(bundle, regions, wide, objects, points)
    gpu = find_device(device, require_gpu(), "tensorrt")
    refuse_lost_device()
    host = BuildTarget.here(gpu, require_tensorrt())
    folder = _own_folder(plan_folder(bundle, plans))
    results = []
    for kind in graphs:
        wanted = PlanRecord(
            model=bundle.manifest.name,
            kind=kind,
            precision=precision,
            graph=graph_hash(bundle, kind, precision),
            profiles=profiles,
            settings=settings or Settings(),
            host=host,
            built="",
            seconds=0,
            dtypes={},
            layers={},
            memory_bytes=(),
            sha256="",
            size_bytes=0,
        )
        found = None if rebuild else _existing(folder, wanted)
        plan = found or _build(folder, wanted, graphs[kind], gpu.index, on_progress)
        results.append(PlanResult(plan, found is None))
    return results


def _build(
    folder: Path, wanted: PlanRecord, onnx: Path, device: int, on_progress: Callable[[BuildStep], None]
) -> PlanFile:
    from gstk.engines.tensorrt_network import build_plan

    kind = wanted.kind
    cache = _timing_cache(folder, wanted.host)
    began = time.perf_counter()
    try:
        built = build_plan(
            onnx,
            kind,
            wanted.precision,
            wanted.profiles,
            wanted.settings,
            device,
            _read_own(cache),
            lambda phase, parent, done, steps: on_progress(BuildStep(kind, phase, parent, done, steps)),
        )
    except GstkError:
        raise
    except Exception as error:
        raise failure("tensorrt", f"build {onnx}", error) from error
    with suppress(OSError):  # without the timing cache the next build only takes longer
        write_private(cache, built.timing_cache)
    record = replace(
        wanted,
        built=datetime.now(UTC).isoformat(timespec="microseconds"),
        seconds=round(time.perf_counter() - began, 3),
        dtypes=built.dtypes,
        layers=built.layers,
        memory_bytes=built.memory_bytes,
        sha256=hashlib.sha256(built.plan).hexdigest(),
        size_bytes=len(built.plan),
    )
    return save_plan(folder, record, built.plan)


def _existing(folder: Path, wanted: PlanRecord) -> PlanFile | None:
    """The wanted plan, if it already exists, is intact and runs with this driver; otherwise None."""
    sidecar = folder / f"{wanted.stem}.json"
    if not sidecar.exists():
        return None
    try:
        plan = read_record(sidecar)
        read_plan(plan)
    except PlanError:
        return None
    fits = plan.record.key == wanted.key and plan.record.host.cuda <= wanted.host.cuda
    return plan if fits else None


def _own_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = stranger(folder)
    except OSError as error:
        raise PlanError(
            f"cannot write plans to {folder} ({error.strerror}); give another folder with --plans"
        ) from None
    if foreign:
        raise PlanError(
            f"{foreign}, and plans in it would not be loaded; take its rights away from others (chmod go-w), or give "
            "another folder with --plans"
        )
    return folder


def _timing_cache(folder: Path, host: BuildTarget) -> Path:
    about = f"{host.gpu} {host.capability} {host.tensorrt} {host.system}"
    return folder / f"timing.{hashlib.sha256(about.encode()).hexdigest()[:16]}.cache"


def _read_own(file: Path) -> bytes:
    """The content of a file that only this user or the administrator can write."""
    with suppress(OSError):
        return b"" if stranger(file) else file.read_bytes()
    return b""

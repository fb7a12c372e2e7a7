"""TensorRT plans on disk: their folders, their records, and the checks before a plan is loaded.

    encoder.fp16.3f0c9a5d1b7e2468.plan    the plan
    encoder.fp16.3f0c9a5d1b7e2468.json    its record: graph, settings, GPU and SHA-256

A plan is a program. It is loaded only if three conditions hold: its folder and files belong to this user or the
administrator, its SHA-256 is that of the record, and it was built from this bundle's graphs for this GPU and TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gstk.core.bundle import GRAPH_KINDS, Bundle, builtin
from gstk.core.manifest import CLASS_GRAPH
from gstk.core.private_files import stranger, user_cache, write_private
from gstk.engines.tensorrt_package import version_pair
from gstk.engines.tensorrt_record import BuildTarget, PlanFile, PlanRecord, Settings
from gstk.errors import EngineError, PlanError, WrongArchitecture

__all__ = [
    "build_command",
    "find_plans",
    "graph_hash",
    "plan_folder",
    "plan_kinds",
    "read_plan",
    "read_record",
    "save_plan",
    "search_folders",
]

_AMPERE = (8, 0)
_SIDECAR_LIMIT_BYTES = 2**20


def graph_hash(bundle: Bundle, kind: str, precision: str) -> str:
    """SHA-256 of a graph, including its external weight files."""
    manifest = bundle.manifest
    graphs = {name for files in manifest.graphs.values() for name in files.values()}
    weights = sorted(set(manifest.files) - graphs - {manifest.vectors})
    name = manifest.graphs[kind][precision]
    about = [manifest.files[file].sha256 for file in (name, *weights)]
    return hashlib.sha256(" ".join(about).encode()).hexdigest()


def plan_kinds(bundle: Bundle) -> tuple[str, ...]:
    """The graphs of a bundle that have a plan each."""
    return (*GRAPH_KINDS, *([CLASS_GRAPH] if CLASS_GRAPH in bundle.manifest.graphs else []))


def plan_folder(bundle: Bundle, plans: Path | None) -> Path:
    """The folder for new plans: `plans` if given, `engines/` in the bundle, or the user's cache.

    The cache is used for bundles that are read-only or that ship inside the package.
    """
    if plans is not None:
        return plans
    own, cache = search_folders(bundle, None)
    return own if os.access(bundle.path, os.W_OK) and not _is_builtin(bundle) else cache


def search_folders(bundle: Bundle, plans: Path | None) -> list[Path]:
    """The folders that are searched for plans, in order."""
    if plans is not None:
        return [plans]
    own = f"{bundle.manifest.name}-{bundle.sha256[:16]}"
    return [bundle.path / "engines", user_cache() / "gstk" / "plans" / own]


def find_plans(bundle: Bundle, precision: str, host: BuildTarget, folders: Sequence[Path]) -> dict[str, PlanFile]:
    """Finds the plans of the latest build for this host.

    Args:
        bundle: the bundle whose plans are wanted.
        precision: precision of the graphs.
        host: the machine that runs the plans.
        folders: from `search_folders`.

    Returns:
        The plans by kind: those of the encoder and the decoder, and of the encoder for classes where it was built.

    Raises:
        PlanError: there are no such plans, or only outdated or foreign ones, or the folder does not belong to the user.
        WrongArchitecture: all plans are for other GPUs.
    """
    pairs: dict[str, dict[str, PlanFile]] = {}
    refused: list[EngineError] = []
    for folder in folders:
        for sidecar in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            try:
                plan = read_record(sidecar)
                if (plan.record.model, plan.record.precision) == (bundle.manifest.name, precision):
                    _require_fit(plan, bundle, host)
                    pairs.setdefault(plan.record.pair, {}).setdefault(plan.record.kind, plan)
            except EngineError as error:
                refused.append(error)
    whole = [pair for pair in pairs.values() if pair.keys() >= set(GRAPH_KINDS)]
    if whole:
        return max(whole, key=lambda pair: (len(pair), max(plan.record.built for plan in pair.values())))
    if refused:
        raise refused[0]
    looked = " or ".join(map(str, folders))
    raise PlanError(
        f"got no TensorRT plans of {bundle.manifest.name!r} in {precision} in {looked}, expected an encoder and a "
        f"decoder; run: {build_command(bundle, precision)}"
    )


def build_command(bundle: Bundle, precision: str) -> str:
    """The command that builds missing plans."""
    return f"gstk build {bundle.path} --precision {precision}"


def read_plan(plan: PlanFile) -> bytes:
    """The plan's bytes. The hash is computed from the returned bytes, so the file cannot change in between.

    Raises:
        PlanError: the file is missing, does not belong to the user, or was altered.
    """
    try:
        foreign = stranger(plan.path)
        content = plan.path.read_bytes()
    except OSError as error:
        raise PlanError(f"cannot read {plan.path} ({error.strerror}); build it again") from None
    if foreign:
        raise PlanError(f"{foreign}, and a plan is a program; build it again with gstk build")
    if hashlib.sha256(content).hexdigest() != plan.record.sha256:
        raise PlanError(f"{plan.path} is not the plan that the file beside it describes; build it again")
    return content


def save_plan(folder: Path, record: PlanRecord, content: bytes) -> PlanFile:
    """Writes a plan, and then its record; a plan without a record is ignored.

    Raises:
        PlanError: a file cannot be written.
    """
    path = folder / f"{record.stem}.plan"
    sidecar = path.with_suffix(".json")
    try:
        sidecar.unlink(missing_ok=True)
        write_private(path, content)
        write_private(sidecar, json.dumps(record.to_json(), indent=1).encode())
    except OSError as error:
        raise PlanError(f"cannot write {path} ({error.strerror}); give another folder with --plans") from None
    return PlanFile(path, record)


def read_record(sidecar: Path) -> PlanFile:
    """Reads the record of a plan; the plan itself is not read.

    Raises:
        PlanError: the file or its folder does not belong to the user, or the file is not a record.
    """
    for place in (sidecar.parent, sidecar):
        foreign = stranger(place)
        if foreign:
            raise PlanError(
                f"{foreign}, and a plan is a program; take its rights away from others, or build plans of your own "
                "with gstk build --plans DIR"
            )
    try:
        if sidecar.stat().st_size > _SIDECAR_LIMIT_BYTES:
            raise ValueError("too large")
        record = PlanRecord.from_json(json.loads(sidecar.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, AttributeError) as error:
        raise PlanError(f"{sidecar} does not describe a plan ({type(error).__name__}: {error}); remove it") from None
    return PlanFile(sidecar.with_suffix(".plan"), record)


def _require_fit(plan: PlanFile, bundle: Bundle, host: BuildTarget) -> None:
    """Raises an error if a plan was built from another bundle or does not run on this host."""
    record, built = plan.record, plan.record.host
    again = f"run: {build_command(bundle, record.precision)}"
    if record.graph != graph_hash(bundle, record.kind, record.precision):
        raise PlanError(f"{plan.path} is stale: it was built from another {record.kind} than the bundle's; {again}")
    if built.system != host.system:
        raise PlanError(f"got {plan.path} for {built.system}, expected {host.system}; {again}")
    if not _runs_in(record.settings, built.tensorrt, host.tensorrt):
        raise PlanError(f"got {plan.path} for TensorRT {built.tensorrt}, expected {host.tensorrt}; {again}")
    if tuple(built.cuda) > tuple(host.cuda):
        raise PlanError(
            f"got {plan.path}, built with a driver for CUDA {_dotted(built.cuda)}, on one for {_dotted(host.cuda)}; "
            f"install the newer driver, or {again}"
        )
    if not _runs_on(record.settings, built, host):
        raise WrongArchitecture(
            f"got {plan.path} for {built.gpu} ({_dotted(built.capability)}), expected {host.gpu} "
            f"({_dotted(host.capability)}); {again}"
        )


def _runs_in(settings: Settings, built: str, here: str) -> bool:
    if not settings.version_compatible:
        return built == here
    then, now = version_pair(built), version_pair(here)
    return now >= then and (now[0] == then[0] or (then[0], now[0]) == (10, 11))


def _runs_on(settings: Settings, built: BuildTarget, host: BuildTarget) -> bool:
    if settings.hardware == "ampere-plus":
        return host.capability >= _AMPERE
    if settings.hardware == "same-capability":
        return host.capability == built.capability
    return (host.gpu, host.capability) == (built.gpu, built.capability)


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def _is_builtin(bundle: Bundle) -> bool:
    with suppress(Exception):
        return builtin(bundle.path.name).resolve() == bundle.path
    return False

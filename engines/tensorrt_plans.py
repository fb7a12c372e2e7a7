"""TensorRT plans on disk: where they lie, what each was built from, and whether it may be loaded here.

    encoder.fp16.3f0c9a5d1b7e2468.plan    the plan
    encoder.fp16.3f0c9a5d1b7e2468.json    what it was built from and on, and its SHA-256

A plan is a program. It is loaded where its folder and files are this user's own (or the administrator's), its bytes are
those that the file beside it names, and it was built from this bundle's graphs for this GPU and TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gstk.core.bundle import GRAPH_KINDS, Bundle, builtin
from gstk.core.private_files import stranger, user_cache, write_private
from gstk.engines.tensorrt_package import version_pair
from gstk.engines.tensorrt_record import BuildTarget, PlanFile, PlanRecord, Settings
from gstk.errors import EngineError, PlanError, WrongArchitecture

__all__ = [
    "build_command",
    "find_plans",
    "graph_hash",
    "plan_folder",
    "read_plan",
    "read_record",
    "save_plan",
    "search_folders",
]

_AMPERE = (8, 0)
_SIDECAR_LIMIT_BYTES = 2**20


def graph_hash(bundle: Bundle, kind: str, precision: str) -> str:
    """SHA-256 of a graph with the weights that it keeps in other files."""
    manifest = bundle.manifest
    graphs = {name for files in manifest.graphs.values() for name in files.values()}
    weights = sorted(set(manifest.files) - graphs - {manifest.vectors})
    name = manifest.graphs[kind][precision]
    about = [manifest.files[file].sha256 for file in (name, *weights)]
    return hashlib.sha256(" ".join(about).encode()).hexdigest()


def plan_folder(bundle: Bundle, plans: Path | None) -> Path:
    """Where new plans go: the folder that is named, `engines/` in the bundle, or the user's cache.

    A bundle that cannot be written to, or that ships inside the package, is left as it is.
    """
    if plans is not None:
        return plans
    own, cache = search_folders(bundle, None)
    return own if os.access(bundle.path, os.W_OK) and not _is_builtin(bundle) else cache


def search_folders(bundle: Bundle, plans: Path | None) -> list[Path]:
    """Where plans are looked for, in order."""
    if plans is not None:
        return [plans]
    own = f"{bundle.manifest.name}-{bundle.sha256[:16]}"
    return [bundle.path / "engines", user_cache() / "gstk" / "plans" / own]


def find_plans(bundle: Bundle, precision: str, host: BuildTarget, folders: Sequence[Path]) -> dict[str, PlanFile]:
    """Encoder and decoder of one build for this host, the latest where there are several.

    Args:
        bundle: what they were built from.
        precision: of its graphs.
        host: where they are to run.
        folders: from `search_folders`.

    Returns:
        By kind.

    Raises:
        PlanError: there are none, or only stale or foreign ones, or the folder is not the user's own.
        WrongArchitecture: there are some, for other GPUs.
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
    whole = [pair for pair in pairs.values() if len(pair) == len(GRAPH_KINDS)]
    if whole:
        return max(whole, key=lambda pair: max(plan.record.built for plan in pair.values()))
    if refused:
        raise refused[0]
    looked = " or ".join(map(str, folders))
    raise PlanError(
        f"got no TensorRT plans of {bundle.manifest.name!r} in {precision} in {looked}, expected an encoder and a "
        f"decoder; run: {build_command(bundle, precision)}"
    )


def build_command(bundle: Bundle, precision: str) -> str:
    """What builds plans that are missing."""
    return f"gstk build {bundle.path} --precision {precision}"


def read_plan(plan: PlanFile) -> bytes:
    """The plan's bytes, checked: those that are returned are those that were compared.

    Raises:
        PlanError: the file is gone, is not the user's own, or has been altered.
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
    """Writes a plan and, last, the record beside it; a plan without one is not looked at.

    Raises:
        PlanError: it cannot be written.
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
    """A plan by the file beside it; the plan itself is not read.

    Raises:
        PlanError: the file or its folder is not the user's own, or it describes no plan.
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
    """Raises where a plan is not of this bundle, or does not run here."""
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

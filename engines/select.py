"""Which backends are there, and the best of them for a bundle."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from gstk.core.bundle import Bundle, find_bundle
from gstk.core.foreign_text import reason_of
from gstk.engines.base import BundleEngine
from gstk.engines.devices import Device, find_device, nvidia_gpus
from gstk.engines.failures import refuse_lost_device
from gstk.engines.options import accepted, read_options, show_value
from gstk.errors import BackendMissing, DriverMissing, EngineError, PlanError, WrongArchitecture

__all__ = [
    "BACKENDS",
    "Backend",
    "Probe",
    "available",
    "describe_options",
    "describe_processor_engine",
    "open_engine",
    "preferred",
    "probe",
    "processor_backend",
]


class Backend(NamedTuple):
    """A backend as `available` lists it.

    Attributes:
        name: what `open_engine` takes.
        version: version of its package, None where it is missing.
        reason: what it is good for, or how to install it.
    """

    name: str
    version: str | None
    reason: str


class Probe(NamedTuple):
    """A backend as `probe` found it.

    Attributes:
        name: what `open_engine` takes.
        version: of its package, None where it is missing.
        devices: what it runs on here, the best first.
        precisions: of a bundle's graphs, those that it runs.
        note: what it is good for; where it cannot be used, why, and what to do.
    """

    name: str
    version: str | None
    devices: tuple[Device, ...]
    precisions: tuple[str, ...]
    note: str


class _Entry(NamedTuple):
    class_name: str
    packages: tuple[str, ...]
    distributions: tuple[str, ...]
    extra: str
    merit: str


BACKENDS = {
    "openvino": _Entry("OpenVINOEngine", ("openvino",), ("openvino",), "cpu", "fastest on a CPU"),
    "onnxruntime": _Entry(
        "ONNXRuntimeEngine",
        ("onnxruntime",),
        ("onnxruntime-gpu", "onnxruntime"),
        "cpu",
        "runs nearly everywhere, needs the least memory",
    ),
    "tensorrt": _Entry(
        "TensorRTEngine",
        ("tensorrt", "cuda.bindings"),
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
        "tensorrt",
        "fastest on an NVIDIA GPU, with plans from gstk build",
    ),
    "torch": _Entry(
        "TorchEngine", ("torch", "onnx"), ("torch",), "train", "the reference; a GPU where torch finds one"
    ),
}
"""Backends by name, the preferred one on a CPU first."""
GPU_ORDER = ("tensorrt", "onnxruntime", "torch")
"""Backends that use an NVIDIA GPU, the preferred one first."""
_ON_CPU = tuple(name for name in BACKENDS if name != "tensorrt")


def available() -> list[Backend]:
    """Every backend that gstk knows, the preferred one on a CPU first, without importing any."""
    return [_describe(name, entry) for name, entry in BACKENDS.items()]


def probe() -> list[Probe]:
    """Every backend that gstk knows, the preferred one first, each imported and asked for its devices."""
    return [_probe(backend) for backend in available()]


def preferred(probes: Sequence[Probe]) -> tuple[str, Device, str]:
    """What `auto` takes: backend, device, and why.

    Args:
        probes: from `probe`, one of them with a device at least.
    """
    devices = {entry.name: entry.devices for entry in probes}
    for name, wanted, why in _candidates("auto", None):
        for found in devices.get(name, ()):
            if found.id.partition(":")[0] == wanted:
                return name, found, why
    raise BackendMissing('no backend can be used here; pip install "gstk[cpu]"')


def describe_options() -> list[tuple[str, str, str, str, str]]:
    """Backend, name, default, values and meaning of every setting that a backend has of its own."""
    rows = []
    for name in BACKENDS:
        kind = _engine_class(name).options_type
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            rows.append(
                (
                    name,
                    field.name,
                    show_value(field.default),
                    accepted(hints[field.name], field.metadata["choices"]),
                    field.metadata["help"],
                )
            )
    return rows


def processor_backend(backend: str = "auto", device: str = "auto") -> str | None:
    """The backend that `open_engine` takes on the processor; None where it may take a GPU, or there is none."""
    if device not in ("auto", "cpu"):
        return None
    if device == "auto":
        with suppress(DriverMissing):
            if nvidia_gpus():
                return None
    there = {entry.name for entry in available() if entry.version is not None and entry.name in _ON_CPU}
    if backend != "auto":
        return backend if backend in there else None
    return next((name for name in BACKENDS if name in there), None)


def describe_processor_engine(backend: str, options: Mapping[str, object]) -> tuple[Device, object]:
    """The device and settings of an engine on the processor, before it is opened.

    Raises:
        EngineError: an option that the backend does not have.
    """
    kind = _engine_class(backend)
    return find_device("cpu", kind.devices(), backend), read_options(kind.options_type, options, backend)


def open_engine(
    bundle: Bundle | str | os.PathLike[str],
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    device: str = "auto",
    options: Mapping[str, object] | None = None,
    *,
    clicks_later: bool = False,
) -> BundleEngine:
    """Opens a bundle with a backend.

    Args:
        bundle: an opened bundle, a bundle's folder, or a built-in name such as `tiny`.
        backend: a name from `available`, or `auto` for the best that works here: on an NVIDIA GPU where there is one,
            on the processor otherwise. TensorRT is taken where `gstk build` has made plans of the bundle.
        precision: `fp32`, another that the bundle holds, or `bf16` (OpenVINO, where the processor has it); `auto` is
            `fp16` on a GPU where the bundle has it, and `fp32` otherwise.
        threads: CPU threads; None leaves it to the backend.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `gpu` or `gpu:N` (OpenVINO's GPUs, such as Intel's graphics).
        options: settings of a backend that is named; see its `options_type`.
        clicks_later: see `BundleEngine`.

    Returns:
        The engine; its `reason` says why it was chosen where `backend` is `auto`.

    Raises:
        BundleError: not a bundle, or not in that precision.
        BackendMissing: the backend, its device, or with `auto` every backend, is not there.
        EngineError: no backend of that name, an option that it does not have, or it cannot load the graphs.
        DeviceError: this process had a CUDA error, and a GPU is not ruled out by `device`.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise EngineError(f"got backend {backend!r}, expected auto, {', '.join(BACKENDS)}")
    if backend == "auto" and options:
        raise EngineError(f"got options {', '.join(options)} without a backend, expected one that they belong to")
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(find_bundle(bundle))
    if backend != "auto":
        engine_class = _engine_class(backend)
        if precision == "auto":
            precision = _precision(bundle, engine_class, device)
        return engine_class(bundle, precision, device, threads, options, clicks_later=clicks_later)
    last: BackendMissing | None = None
    without = ""
    for name, place, why in _candidates(device, threads):
        try:
            engine_class = _engine_class(name)
            if precision in engine_class.computed_from and precision not in engine_class.precisions:
                continue
            chosen = _precision(bundle, engine_class, place) if precision == "auto" else precision
            engine = engine_class(bundle, chosen, place, threads, clicks_later=clicks_later)
        except BackendMissing as error:
            last = error
            continue
        except (PlanError, WrongArchitecture) as error:  # of TensorRT; the others need no plans
            without = f"; without TensorRT, since {error}"
            continue
        engine.reason = why + without
        return engine
    if last is not None and (device not in ("auto", "cpu") or precision in BundleEngine.computed_from):
        raise last
    raise BackendMissing(f'none of {", ".join(BACKENDS)} can be used here; pip install "gstk[cpu]"')


def _candidates(device: str, threads: int | None) -> Iterator[tuple[str, str, str]]:
    """Backend, device and the reason for it, the best first; on GPUs only where the driver shows one."""
    if device.startswith("gpu"):
        yield "openvino", device, "the backend of this GPU"
        return
    if device != "cpu" and threads is None:
        gpus: list[Device] = []
        with suppress(DriverMissing):
            gpus = nvidia_gpus()
        if gpus:
            refuse_lost_device()
        if gpus or device != "auto":
            for name in GPU_ORDER:
                why = "fastest on a GPU of those that are installed"
                if name == "tensorrt":
                    why = "fastest on a GPU, where gstk build has made plans of the bundle"
                yield name, "cuda" if device == "auto" else device, why
    if device in ("auto", "cpu"):
        for name, entry in BACKENDS.items():
            if name in _ON_CPU:
                yield name, "cpu", entry.merit


def _precision(bundle: Bundle, engine_class: type[BundleEngine], device: str) -> str:
    """`fp16` where a GPU computes and the bundle has it."""
    devices = engine_class.devices()
    on_gpu = device.startswith("cuda") or (device == "auto" and devices[0].is_gpu)
    halves = all("fp16" in files for files in bundle.manifest.graphs.values())
    return "fp16" if on_gpu and halves and "fp16" in engine_class.precisions else "fp32"


def _engine_class(name: str) -> type[BundleEngine]:
    module = importlib.import_module(f"gstk.engines.{name}")
    found: type[BundleEngine] = getattr(module, BACKENDS[name].class_name)
    return found


def _is_there(package: str) -> bool:
    """Whether a package can be imported; a folder without code, such as one of type stubs, is none."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # what it is part of is not there
        return False
    return spec is not None and spec.origin is not None


def _probe(backend: Backend) -> Probe:
    if backend.version is None:
        reason = backend.reason
        if backend.name not in _ON_CPU:
            reason += _without_gpu()
        return Probe(backend.name, None, (), (), reason)
    engine = _engine_class(backend.name)
    try:
        devices = (*engine.devices(), *engine.named_devices())
        return Probe(backend.name, backend.version, devices, engine.precisions, backend.reason)
    except Exception as error:  # a package that is there and broken raises whatever it likes
        return Probe(backend.name, backend.version, (), (), f"cannot be used: {reason_of(error, 200)}")


def _without_gpu() -> str:
    try:
        nvidia_gpus()
    except DriverMissing as error:
        return f"; it also needs an NVIDIA GPU: {error}"
    return ""


def _describe(name: str, entry: _Entry) -> Backend:
    missing = [package for package in entry.packages if not _is_there(package)]
    if missing:
        which = "" if len(missing) == len(entry.packages) else f"{' and '.join(missing)} "
        return Backend(name, None, f'{which}not installed; pip install "gstk[{entry.extra}]"')
    for distribution in entry.distributions:
        try:
            return Backend(name, importlib.metadata.version(distribution), entry.merit)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Backend(name, "unknown", entry.merit)

"""Which backends are there, and the best of them for a bundle."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from typing import NamedTuple

from gstk.engines.base import BundleEngine
from gstk.errors import BackendMissing, EngineError
from gstk.export.bundle import Bundle, find_bundle

__all__ = ["BACKENDS", "Backend", "Probe", "available", "open_engine", "probe"]


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
        devices: what it runs on here.
        precisions: of a bundle's graphs, those that it runs.
        note: what it is good for; where it cannot be used, why, and what to do.
    """

    name: str
    version: str | None
    devices: tuple[str, ...]
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
        ("onnxruntime", "onnxruntime-gpu"),
        "cpu",
        "runs nearly everywhere, needs the least memory",
    ),
    "torch": _Entry(
        "TorchEngine", ("torch", "onnx"), ("torch",), "train", "the reference; a GPU where torch finds one"
    ),
}
"""Backends by name, the preferred one first."""


def available() -> list[Backend]:
    """Every backend that gstk knows, the preferred one first, without importing any."""
    return [_describe(name, entry) for name, entry in BACKENDS.items()]


def probe() -> list[Probe]:
    """Every backend that gstk knows, the preferred one first, each imported and asked for its devices."""
    return [_probe(backend) for backend in available()]


def open_engine(
    bundle: Bundle | str | os.PathLike[str],
    backend: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> BundleEngine:
    """Opens a bundle with a backend.

    Args:
        bundle: an opened bundle, a bundle's folder, or a built-in name such as `tiny`.
        backend: a name from `available`, or `auto` for the first that works.
        precision: `fp32`, or another that the bundle holds.
        threads: CPU threads; None leaves it to the backend.

    Raises:
        BundleError: not a bundle, or not in that precision.
        BackendMissing: the backend, or with `auto` every backend, is not installed.
        EngineError: no backend of that name, or it cannot load the graphs.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise EngineError(f"got backend {backend!r}, expected auto, {', '.join(BACKENDS)}")
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(find_bundle(bundle))
    if backend != "auto":
        return _open(backend, bundle, precision, threads)
    for name in BACKENDS:
        try:
            return _open(name, bundle, precision, threads)
        except BackendMissing:
            continue
    raise BackendMissing(f'none of {", ".join(BACKENDS)} is installed; pip install "gstk[cpu]"')


def _open(name: str, bundle: Bundle, precision: str, threads: int | None) -> BundleEngine:
    return _engine_class(name)(bundle, precision, threads)


def _engine_class(name: str) -> type[BundleEngine]:
    module = importlib.import_module(f"gstk.engines.{name}")
    found: type[BundleEngine] = getattr(module, BACKENDS[name].class_name)
    return found


def _probe(backend: Backend) -> Probe:
    if backend.version is None:
        return Probe(backend.name, None, (), (), backend.reason)
    engine = _engine_class(backend.name)
    try:
        return Probe(backend.name, backend.version, tuple(engine.devices()), engine.precisions, backend.reason)
    except Exception as error:  # a package that is there and broken raises whatever it likes
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return Probe(backend.name, backend.version, (), (), f"cannot be used: {reason[:200]}")


def _describe(name: str, entry: _Entry) -> Backend:
    if any(importlib.util.find_spec(package) is None for package in entry.packages):
        return Backend(name, None, f'not installed; pip install "gstk[{entry.extra}]"')
    for distribution in entry.distributions:
        try:
            return Backend(name, importlib.metadata.version(distribution), entry.merit)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Backend(name, "unknown", entry.merit)

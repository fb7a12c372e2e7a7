"""Chooses the fastest precision on this host, among those whose loss of Dice the bundle records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gstk.calibration.host import Host
from gstk.calibration.model import LatencyModel
from gstk.calibration.store import read_models
from gstk.core.bundle import Bundle
from gstk.engines.base import BundleEngine
from gstk.engines.select import processor_backend

__all__ = ["compare_precisions", "fastest_precision", "precision_within"]

_WORTH_IT = 0.9
"""Largest ratio of a precision's seconds to float32's for which `auto` chooses it."""


def fastest_precision(
    bundle: Bundle,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[str, str]:
    """The precision that `auto` chooses on a CPU, based on measurements by `gstk calibrate`.

    INT8 is chosen if three conditions hold: the bundle records its loss of Dice, both float32 and INT8 were measured
    with this backend and these settings on this host, and INT8 takes at most nine tenths of the time. Processors
    without VNNI gain less from INT8, and ONNX Runtime gains nothing.

    Args:
        bundle: the bundle to open.
        backend, device, threads, options: see `gstk.engines.open_engine`.

    Returns:
        A precision and the reason for it; `auto` and an empty reason to keep the engine's own choice.
    """
    models = _comparable_models(bundle, backend, device, threads, options)
    if models is None:
        return "auto", ""
    seconds = {precision: _seconds(bundle, model) for precision, model in models.items()}
    if seconds["int8"] > _WORTH_IT * seconds["fp32"]:
        return "auto", ""
    ratio = seconds["fp32"] / seconds["int8"]
    return "int8", f"int8 is {ratio:.1f} times as fast as fp32 here, as gstk calibrate measured"


def precision_within(
    bundle: Bundle,
    seconds: float,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[str, str]:
    """The precision that `auto` chooses on a CPU for clicks within some seconds.

    It is float32 where a window of the usual size fits into half of the time, as the planner asks, at the 95th
    percentile; else INT8 on the conditions of `fastest_precision`.

    Args:
        seconds: for a click that needs a new window.
        bundle, backend, device, threads, options: as in `fastest_precision`.

    Returns:
        As `fastest_precision`.
    """
    models = _comparable_models(bundle, backend, device, threads, options)
    if models is not None:
        p95_s = _seconds(bundle, models["fp32"], cautious=True)
        if 2 * p95_s <= seconds:
            return (
                "fp32",
                f"fp32 answers in a window of the usual size in {p95_s:.2g} s here, which {seconds:g} s allow",
            )
    return fastest_precision(bundle, backend, device, threads, options)


def _comparable_models(
    bundle: Bundle, backend: str, device: str, threads: int | None, options: Mapping[str, object] | None
) -> dict[str, LatencyModel] | None:
    """Models of fp32 and int8, measured alike on this host; None where one is missing or int8 was not gated."""
    name = processor_backend(backend, device)
    if name is None or "int8" not in bundle.manifest.reports:
        return None
    here = Host.without_engine(name, threads, options or {})
    models: dict[str, LatencyModel] = {}
    for model in read_models(bundle):
        if model.host == replace(here, version=model.host.version, precision=model.host.precision):
            models.setdefault(model.host.precision, model)
    if not {"fp32", "int8"} <= models.keys() or models["fp32"].host.version != models["int8"].host.version:
        return None
    return models


def compare_precisions(engine: BundleEngine) -> str:
    """A warning if an engine's precision was measured to be no faster than float32 on this host; otherwise empty."""
    if engine.precision == "fp32":
        return ""
    host = Host.of(engine)
    models = {model.host: model for model in read_models(engine.bundle)}
    own, exact = models.get(host), models.get(replace(host, precision="fp32"))
    if own is None or exact is None:
        return ""
    seconds, exact_s = _seconds(engine.bundle, own), _seconds(engine.bundle, exact)
    if seconds < exact_s:
        return ""
    return (
        f"{host.precision} takes {seconds:.2f} s for a window and a click on this processor, fp32 {exact_s:.2f} s; "
        "take --precision fp32"
    )


def _seconds(bundle: Bundle, model: LatencyModel, *, cautious: bool = False) -> float:
    """Seconds of an encode of a window of the usual size and one click in it; `cautious`: at the 95th percentile."""
    shape = bundle.manifest.roi.default
    return model.encode_s(shape, cautious=cautious) + model.decode_s(shape, cautious=cautious)

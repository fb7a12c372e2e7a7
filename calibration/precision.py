"""Chooses the fastest precision on this host, among those whose loss of Dice the bundle records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gstk.calibration.host import Host
from gstk.calibration.model import LatencyModel
from gstk.calibration.quality import find_quality
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

    Another than float32 is chosen if three conditions hold: its loss of Dice is known and small (INT8: the bundle's own
    report; bfloat16: `gstk check --precision bf16 --cases`), both float32 and it were measured with this backend and
    these settings on this host, and it takes at most nine tenths of the time. Processors without VNNI gain less from
    INT8, and ONNX Runtime gains nothing.

    Args:
        bundle: the bundle to open.
        backend, device, threads, options: see `gstk.engines.open_engine`.

    Returns:
        A precision and the reason for it; `auto` and an empty reason to keep the engine's own choice.
    """
    models = _comparable_models(bundle, backend, device, threads, options)
    if not models:
        return "auto", ""
    seconds = {precision: _seconds(bundle, model) for precision, model in models.items()}
    fastest = min(seconds, key=seconds.__getitem__)
    if seconds[fastest] > _WORTH_IT * seconds["fp32"]:
        return "auto", ""
    ratio = seconds["fp32"] / seconds[fastest]
    return fastest, f"{fastest} is {ratio:.1f} times as fast as fp32 here, as gstk calibrate measured"


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
    percentile; else another on the conditions of `fastest_precision`.

    Args:
        seconds: for a click that needs a new window.
        bundle, backend, device, threads, options: as in `fastest_precision`.

    Returns:
        As `fastest_precision`.
    """
    models = _comparable_models(bundle, backend, device, threads, options)
    if models:
        p95_s = _seconds(bundle, models["fp32"], cautious=True)
        if 2 * p95_s <= seconds:
            return "fp32", f"fp32 takes {p95_s:.2g} s for a window of the usual size here, which {seconds:g} s allow"
    return fastest_precision(bundle, backend, device, threads, options)


def _comparable_models(
    bundle: Bundle, backend: str, device: str, threads: int | None, options: Mapping[str, object] | None
) -> dict[str, LatencyModel]:
    """Models of fp32 and of precisions whose loss of Dice is accepted, measured alike on this host.

    Empty where fp32 or all others are missing.
    """
    name = processor_backend(backend, device)
    if name is None:
        return {}
    accepted = {"fp32"}
    if "int8" in bundle.manifest.reports:
        accepted.add("int8")
    quality = find_quality(bundle, name, "bf16")
    if quality is not None and quality.is_accepted:
        accepted.add("bf16")
    if len(accepted) == 1:
        return {}
    here = Host.without_engine(name, threads, options or {})
    models: dict[str, LatencyModel] = {}
    for model in read_models(bundle):
        if model.host == replace(here, version=model.host.version, precision=model.host.precision):
            models.setdefault(model.host.precision, model)
    exact = models.get("fp32")
    if exact is None:
        return {}
    alike = {k: m for k, m in models.items() if k in accepted and m.host.version == exact.host.version}
    return alike if len(alike) > 1 else {}


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

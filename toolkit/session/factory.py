"""`gstk.open`: a session on a bundle and the best backend of this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from gstk.calibration.host import Host
from gstk.calibration.model import LatencyModel
from gstk.calibration.precision import compare_precisions, fastest_precision, precision_within
from gstk.calibration.probe import PROBE_S, probe
from gstk.calibration.store import find_model, save_model
from gstk.core.bundle import Bundle, find_bundle
from gstk.core.files import StrPath
from gstk.core.window import WindowPolicy
from gstk.engines.base import BundleEngine
from gstk.engines.select import open_engine
from gstk.errors import GstkError, OutputError
from gstk.session.deadline import Budget, process_age_s
from gstk.session.session import Session

if TYPE_CHECKING:
    from gstk.session.extras import Extra

__all__ = ["open"]

_PROBE_SHARE = 0.05
"""Of a call's time, for a probe."""


def open(
    bundle: StrPath = "tiny",
    backend: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    options: Mapping[str, object] | None = None,
    budget_s: float | None = None,
    calls: int = 1,
    refine: bool | None = None,
    windows: str = "adapted",
    click_within_s: float | None = None,
    clicks_later: bool = False,
    on_progress: Callable[[str], None] = lambda reason: None,
) -> Session:
    """Opens a bundle for interactive use.

    Args:
        bundle: a bundle's folder, or the name of one that ships inside the package.
        backend: a name that `gstk engines` lists, or "auto" for the best one of this machine.
        threads: processor threads to use; None leaves it to the backend.
        precision: "fp32", another that the bundle holds, such as "int8", or "bf16" for OpenVINO on processors that have
            it. "auto" is "fp16" on a GPU if the bundle has it. On a processor it is "int8" or "bf16" if its loss of
            Dice was measured and `gstk calibrate` found it faster than "fp32" by at least a tenth; else "fp32".
        device: "auto", "cpu", "cuda", "cuda:N", "gpu" or "gpu:N" (OpenVINO's, such as Intel's graphics).
        options: settings of the named backend, such as `{"cache": folder}` for OpenVINO.
        budget_s: seconds for each object in all its calls together; None is no limit. The planned times come from
            `gstk calibrate` on this machine; without it, a probe of up to two seconds measures them once.
        calls: number of calls that share the budget of an object.
        refine: whether the image corrects the network's logits (`session.extras`); None leaves it to the bundle.
        windows: "adapted" goes on to wider and narrower windows as the mask needs them; "training" keeps to the
            first window, which is the profile's around the click, as in NVIDIA's pipeline.
        click_within_s: target time of a click in seconds for each object. Windows are planned for it from the same
            measurements; with `precision="auto"`, so is the precision. It is no limit: where even the smallest
            windows take longer, the mask comes later. None is no target.
        clicks_later: for class prompts only: OpenVINO loads the graphs for clicks at the first click, which saves
            seconds, and a gigabyte of memory with full-size weights. Other backends load them now.
        on_progress: called with the reason before a probe.

    Raises:
        GstkError: `windows` is neither; `budget_s` or `click_within_s` is not above 0, or `calls` below 1.
        BundleError: the bundle is not there, is not what its manifest says, or has no graphs of that precision.
        BackendMissing: the backend is not installed or its device not there; the message names the remedy.
    """
    budget = None if budget_s is None else Budget(budget_s, calls)
    opened = Bundle.open(find_bundle(bundle))
    roi = opened.manifest.roi
    z, y, x = roi.default
    if windows not in ("adapted", "training"):
        raise GstkError(f"got windows {windows!r}, expected 'adapted' or 'training'")
    policy = WindowPolicy(z * y * x, roi.multiple, roi.minimum, adapts=windows == "adapted")
    began = time.perf_counter()
    why = ""
    if precision == "auto" and click_within_s is not None:
        precision, why = precision_within(opened, click_within_s, backend, device, threads, options)
    elif precision == "auto":
        precision, why = fastest_precision(opened, backend, device, threads, options)
    engine = open_engine(opened, backend, precision, threads, device, options, clicks_later=clicks_later)
    engine.reason = "; ".join(filter(None, (engine.reason, why)))
    try:
        if slower := compare_precisions(engine):
            on_progress(slower)
        load_s = time.perf_counter() - began
        model = None
        if budget is not None or click_within_s is not None:
            call_s = math.inf if budget is None else budget.left_s(1, 0.0)
            model = _latency_model(engine, load_s, call_s, on_progress)
        wants_extra = opened.manifest.refine if refine is None else refine
        extra = _image_guidance() if wants_extra else None
        _load_blas()
        return Session(
            engine,
            policy,
            extra,
            model=model,
            budget=budget,
            profile=opened.manifest.profile,
            click_within_s=click_within_s,
        )
    except BaseException:
        engine.close()
        raise


def _load_blas() -> None:
    """Loads SciPy's OpenBLAS now: where it is loaded when memory is short, it asks for some without end."""
    import scipy.ndimage  # noqa: F401


def _image_guidance() -> Extra:
    from gstk.session.extras.image_guidance import ImageGuidance  # a network without an extra imports nothing of it

    return ImageGuidance()


def _latency_model(
    engine: BundleEngine, load_s: float, call_s: float, on_progress: Callable[[str], None]
) -> LatencyModel:
    model, reason = find_model(engine.bundle, Host.of(engine))
    if model is None:
        on_progress(reason)
        model = probe(engine, load_s, process_age_s(), min(PROBE_S, _PROBE_SHARE * call_s))
        with suppress(OutputError):  # a cache that cannot be written costs the probe again, nothing else
            save_model(model)
    return model

"""Measures a latency model in a second or two, for a host that was not calibrated."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from gstk.calibration import memory
from gstk.calibration.measure import fit_model, measure_region
from gstk.calibration.model import LatencyModel, Measurement
from gstk.engines import BundleEngine

__all__ = ["PROBE_S", "probe"]

PROBE_S = 2.0
"""Approximate time limit of a probe, seconds; at least two regions are measured, even if that takes longer."""
_SIDES = (32, 48, 64, 96)
_LEAST_SPREAD = 1.5
"""Least spread of a probe's fits, since a few measurements do not show how much calls vary."""


def probe(engine: BundleEngine, load_s: float, startup_s: float, seconds: float = PROBE_S) -> LatencyModel:
    """Measures the latency model of an engine on its smallest regions.

    Args:
        engine: an open engine.
        load_s, startup_s: seconds to open the engine, without and with the start of the process.
        seconds: approximate time limit.
    """
    began, base_bytes = time.perf_counter(), memory.resident_bytes()
    rules = engine.bundle.manifest.roi
    found: list[Measurement] = []
    rate = 0.0
    for side in dict.fromkeys(max(rules.minimum, math.ceil(s / rules.multiple) * rules.multiple) for s in _SIDES):
        spent = time.perf_counter() - began
        if len({m.shape for m in found}) >= 2 and spent + rate * side**3 > seconds:
            break
        before = time.perf_counter()
        found += measure_region(engine, (side, side, side), 1)
        rate = (time.perf_counter() - before) / side**3
    model = fit_model(engine, found, load_s, startup_s, base_bytes)
    fits = {kind: replace(fit, spread=max(_LEAST_SPREAD, fit.spread)) for kind, fit in model.fits.items()}
    return replace(model, fits=fits)

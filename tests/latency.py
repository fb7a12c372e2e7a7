"""Latency models with round numbers."""

from __future__ import annotations

from gstk.calibration import Host, LatencyModel
from gstk.calibration.model import Fit

__all__ = ["a_model"]

HOST = Host("cpu", 2, 2**34, "cpu", "openvino", "1", "fp32", "")


def a_model(encode: float = 4.0, decode: float = 0.5, spread: float = 1.25) -> LatencyModel:
    """Seconds a million voxels."""
    fits = {
        "encode": Fit((0.01, encode), spread, 0.05),
        "first_encode": Fit((0.02, encode), spread, 0.05),
        "decode": Fit((0.01, 0.0, 0.0, decode, 0.0), spread, 0.05),
        "first_decode": Fit((0.01, 0.0, 0.0, decode, 0.0), spread, 0.05),
    }
    return LatencyModel("a", "0" * 64, HOST, fits, 0.5, 1.0, 10**8, 2000.0, 128**3, "2026-01-01T00:00:00+00:00")

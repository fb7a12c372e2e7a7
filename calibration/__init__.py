"""Calibration: measures encodes and decodes on this host, and fits a latency model for planners."""

from gstk.calibration.host import Host
from gstk.calibration.measure import measure
from gstk.calibration.model import LatencyModel, Measurement
from gstk.calibration.store import find_model, save_model

__all__ = ["Host", "LatencyModel", "Measurement", "find_model", "measure", "save_model"]

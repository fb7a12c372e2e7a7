"""Engines: one protocol, a module per backend. Importing this package imports no backend."""

from gstk.engines.base import BundleEngine, Embedding, Engine
from gstk.engines.devices import Device
from gstk.engines.select import Backend, Probe, available, describe_options, open_engine, preferred, probe

__all__ = [
    "Backend",
    "BundleEngine",
    "Device",
    "Embedding",
    "Engine",
    "Probe",
    "available",
    "describe_options",
    "open_engine",
    "preferred",
    "probe",
]

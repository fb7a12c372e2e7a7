"""Engines: one protocol, a module per backend. Importing this package imports no backend."""

from gstk.engines.base import BundleEngine, Embedding, Engine
from gstk.engines.select import Backend, Probe, available, open_engine, probe

__all__ = ["Backend", "BundleEngine", "Embedding", "Engine", "Probe", "available", "open_engine", "probe"]

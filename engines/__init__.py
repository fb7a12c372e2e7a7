"""Engines: one protocol, a module per backend. Importing this package imports no backend."""

from gstk.engines.base import BundleEngine, Embedding, Engine
from gstk.engines.select import Backend, available, open_engine

__all__ = ["Backend", "BundleEngine", "Embedding", "Engine", "available", "open_engine"]

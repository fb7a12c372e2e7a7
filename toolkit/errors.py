"""Every error that gstk raises on purpose.

    GstkError
    ├── CaseError            a case or volume file that cannot be read, or does not hold what it must
    ├── GeometryError        a spacing, shape or direction that is no geometry
    ├── PromptError          a click or box that is malformed or lies outside the volume
    ├── OutputError          a result that cannot be written
    ├── BundleError          a bundle that is incomplete, altered, or of an unknown schema
    ├── CheckpointError      weights that cannot be loaded into the network
    ├── ExportError          an export that failed or did not agree with torch
    ├── TrainingError        a recipe or data set that cannot be trained on
    └── EngineError          a tensor an engine cannot take, or an engine that was closed
        └── BackendMissing   a backend whose package or device is not there

Messages are one line: what was got, what was expected, what to do. This module imports nothing, and every room may
import it.
"""

__all__ = [
    "BackendMissing",
    "BundleError",
    "CaseError",
    "CheckpointError",
    "EngineError",
    "ExportError",
    "GeometryError",
    "GstkError",
    "OutputError",
    "PromptError",
    "TrainingError",
]


class GstkError(Exception):
    """Root of every error that gstk raises on purpose. The command line shows it as one line."""


class CaseError(GstkError):
    """A case or volume file cannot be read, or does not hold what it must."""


class GeometryError(GstkError, ValueError):
    """A spacing, shape or direction that is no geometry."""


class PromptError(GstkError, ValueError):
    """A click or box is malformed or lies outside the volume."""


class OutputError(GstkError):
    """A result cannot be written."""


class BundleError(GstkError):
    """A bundle is incomplete, altered, or of an unknown schema."""


class CheckpointError(GstkError):
    """Weights cannot be loaded into the network."""


class ExportError(GstkError):
    """An export failed, or its graphs did not agree with torch."""


class TrainingError(GstkError):
    """A recipe or a data set cannot be trained on."""


class EngineError(GstkError):
    """A tensor is not one an engine can take, or the engine was closed."""


class BackendMissing(EngineError):
    """The package or device of a backend is not there; the message names the remedy."""

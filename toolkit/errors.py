"""Every error that gstk raises on purpose.

    GstkError
    ├── CaseError            a case or volume file that cannot be read, or does not hold what it must
    ├── GeometryError        a spacing, shape or direction that is no geometry
    ├── PromptError          a click or box that is malformed or lies outside the volume
    ├── OutputError          a result that cannot be written
    ├── ProfileError         an input profile that is unknown or malformed, or a volume that does not fit it
    ├── BundleError          a bundle that is incomplete, altered, or of an unknown schema
    ├── CheckpointError      weights that cannot be loaded into the network
    ├── ExportError          an export that failed or did not agree with torch
    ├── CalibrationError     a latency model that cannot be measured or read
    ├── TrainingError        a recipe or data set that cannot be trained on
    ├── TrainingInterrupted  a training run that a signal ended, after its checkpoint was written
    ├── EvaluationError      an evaluation's folder that is not what it must be, or workers that were lost
    └── EngineError          a tensor an engine cannot take, or an engine that was closed
        ├── BackendMissing    a backend whose package or device is not there
        │   └── DriverMissing  the NVIDIA driver is not there, or too old
        ├── Interrupted       a call that somebody ended before it was done
        ├── OutOfMemory       the device or machine has too little memory left
        ├── WrongArchitecture a GPU that the backend was not built for
        ├── PlanError         a TensorRT plan that is stale, foreign or cannot be built
        └── DeviceError       a CUDA error: this process can use the GPU no more

Messages are one line: what was got, what was expected, what to do. This module imports nothing, and every room may
import it.
"""

__all__ = [
    "BackendMissing",
    "BundleError",
    "CalibrationError",
    "CaseError",
    "CheckpointError",
    "DeviceError",
    "DriverMissing",
    "EngineError",
    "EvaluationError",
    "ExportError",
    "GeometryError",
    "GstkError",
    "Interrupted",
    "OneLine",
    "OutOfMemory",
    "OutputError",
    "PlanError",
    "ProfileError",
    "PromptError",
    "TrainingError",
    "TrainingInterrupted",
    "WrongArchitecture",
]


class OneLine:
    """Of errors and warnings: their text is one line that can be printed, whatever names and values it quotes.

    What a stranger's file says may hold line breaks, a terminal's escape codes, or bytes that are no text.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


class GstkError(OneLine, Exception):
    """Root of every error that gstk raises on purpose. The command line shows it as one line."""


class CaseError(GstkError):
    """A case or volume file cannot be read, or does not hold what it must."""


class GeometryError(GstkError, ValueError):
    """A spacing, shape or direction that is no geometry."""


class PromptError(GstkError, ValueError):
    """A click or box is malformed or lies outside the volume."""


class OutputError(GstkError):
    """A result cannot be written."""


class ProfileError(GstkError):
    """An input profile is unknown or malformed, or a volume does not fit it."""


class BundleError(GstkError):
    """A bundle is incomplete, altered, or of an unknown schema."""


class CheckpointError(GstkError):
    """Weights cannot be loaded into the network."""


class ExportError(GstkError):
    """An export failed, or its graphs did not agree with torch."""


class CalibrationError(GstkError):
    """A latency model cannot be measured or read."""


class TrainingError(GstkError):
    """A recipe or a data set cannot be trained on."""


class TrainingInterrupted(GstkError):
    """A signal ended a training run after a step; `checkpoint` holds all of it, so that the run can go on.

    Attributes:
        signal: its number.
        checkpoint: path of the checkpoint to resume from.
    """

    def __init__(self, message: str, signal: int, checkpoint: object) -> None:
        super().__init__(message)
        self.signal, self.checkpoint = signal, checkpoint


class EvaluationError(GstkError):
    """An evaluation's folder is not what it must be, or its workers were lost."""


class EngineError(GstkError):
    """A tensor is not one an engine can take, or the engine was closed."""


class BackendMissing(EngineError):
    """The package or device of a backend is not there; the message names the remedy."""


class DriverMissing(BackendMissing):
    """The NVIDIA driver is not there, is too old, or finds no GPU."""


class Interrupted(EngineError):
    """A call was ended before it was done, by `Engine.interrupt` or `Session.cancel`. Everything can go on."""


class OutOfMemory(EngineError):
    """The device or the machine has too little memory left. The engine can go on with less."""


class WrongArchitecture(EngineError):
    """The backend, or a plan, was not built for this GPU."""


class PlanError(EngineError):
    """A TensorRT plan is stale, foreign, altered, or cannot be built."""


class DeviceError(EngineError):
    """A CUDA error. What is on the GPU is lost, and no engine of this process uses it again: start another process."""

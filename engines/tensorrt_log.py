"""TensorRT's log messages. A TensorRT call that fails returns None or False, and reports the reason only to the logger.

Import this module inside functions alone: it imports TensorRT.
"""

from __future__ import annotations

import logging
from collections import deque

import tensorrt as trt

__all__ = ["logger", "what_went_wrong"]

_LEVELS = {
    trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
    trt.ILogger.Severity.ERROR: logging.ERROR,
    trt.ILogger.Severity.WARNING: logging.INFO,
    trt.ILogger.Severity.INFO: logging.DEBUG,
}
_python = logging.getLogger("gstk.tensorrt")
_KEPT = 20


class _Log(trt.ILogger):
    """Forwards messages to `logging`, and keeps the last errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: deque[str] = deque(maxlen=_KEPT)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        level = _LEVELS.get(severity)
        if level is None:
            return
        if level == logging.ERROR:
            self.errors.append(" ".join(msg.split()))
            level = logging.DEBUG  # the message becomes part of an exception
        _python.log(level, "%s", msg)


_log = _Log()


def logger() -> trt.ILogger:
    """The logger of this process. TensorRT uses the first logger that it is given for all of its objects."""
    _log.errors.clear()
    return _log


def what_went_wrong(task: str) -> str:
    """The errors since the last `logger` or `what_went_wrong`, in one line.

    Args:
        task: the task that failed; it is named if TensorRT gave no reason.
    """
    found = "; ".join(dict.fromkeys(_log.errors))
    _log.errors.clear()
    return found or f"TensorRT did not {task}, and gave no reason"

"""Stores latency models in the user's cache, one file for each bundle and host.

A model is data whose fields are all checked when it is read. A wrong model can mislead planning, and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from gstk.calibration.host import Host
from gstk.calibration.model import LatencyModel
from gstk.core.bundle import Bundle
from gstk.core.files import atomic_path, make_folder
from gstk.core.private_files import user_cache
from gstk.errors import CalibrationError

__all__ = ["cache_folder", "find_model", "read_model", "read_models", "save_model"]

_LIMIT_BYTES = 2**20


def cache_folder() -> Path:
    """`$GSTK_CACHE`, or `gstk` in the user's cache folder."""
    named = os.environ.get("GSTK_CACHE")
    if named:
        return Path(named)
    return user_cache() / "gstk"


def save_model(model: LatencyModel, file: Path | None = None) -> Path:
    """Writes a model to a file, atomically.

    Args:
        model: the model to write.
        file: path of the file; None for the path in the user's cache that `find_model` reads.

    Returns:
        The path of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    file = _place(model.bundle_sha256, model.host) if file is None else file
    make_folder(file.parent)
    with atomic_path(file) as draft:
        draft.write_text(json.dumps(model.to_json(), indent=1) + "\n", encoding="utf-8")
    return file


def read_model(file: Path) -> LatencyModel:
    """Reads a model from a file.

    Raises:
        CalibrationError: the file cannot be read, or is not a model.
    """
    try:
        if file.stat().st_size > _LIMIT_BYTES:
            raise CalibrationError(f"got {file} of {file.stat().st_size} bytes, expected a latency model of a few kB")
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(f"{file} cannot be read ({error}); run gstk calibrate again") from None
    return LatencyModel.from_json(values)


def find_model(bundle: Bundle, host: Host) -> tuple[LatencyModel | None, str]:
    """Finds the model of a bundle and host in the user's cache.

    Returns:
        The model or None, and the reason for None: never calibrated, or calibrated on a host with these differences.
    """
    sha256 = bundle.sha256
    place = _place(sha256, host)
    if place.is_file():
        try:
            model = read_model(place)
        except CalibrationError as error:
            return None, str(error)
        if model.bundle_sha256 == sha256 and model.host == host:
            return model, ""
        return None, f"{place} belongs to another bundle or host; run gstk calibrate again"
    for other in read_models(bundle):
        same_use = (other.host.backend, other.host.precision) == (host.backend, host.precision)
        if same_use:
            return (
                None,
                f"the calibration is stale: {'; '.join(host.differences(other.host))}; run gstk calibrate again",
            )
    return None, "not calibrated; run gstk calibrate"


def read_models(bundle: Bundle) -> Iterator[LatencyModel]:
    """All models of a bundle in the user's cache, of every host; invalid files are skipped."""
    for file in sorted((cache_folder() / "latency" / bundle.sha256[:16]).glob("*.json")):
        try:
            model = read_model(file)
        except CalibrationError:
            continue
        if model.bundle_sha256 == bundle.sha256:
            yield model


def _place(sha256: str, host: Host) -> Path:
    return cache_folder() / "latency" / sha256[:16] / f"{host.backend}-{host.precision}-{host.key}.json"

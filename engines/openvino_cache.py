"""Compiled graphs on disk, so that a process starts without compiling them again.

A file's name is a hash of everything that the compiled graph depends on: the graph, OpenVINO, the processor, the
settings and the code of the rewrites. The file begins with the SHA-256 of its content, so damaged files are detected
and compiled again. The folder must belong to the user, since the programs in it are run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gstk.core.private_files import write_private

__all__ = ["compile_cached"]

_SOURCES = sorted(Path(__file__).parent.glob("openvino*.py"))
_DIGEST_BYTES = hashlib.sha256().digest_size


def compile_cached(
    core: Any,
    make: Callable[[], Any],
    config: Mapping[str, Any],
    folder: Path | None,
    identity: Mapping[str, Any],
    plugin: str = "CPU",
    check: Callable[[Any], None] | None = None,
) -> Any:
    """A compiled graph, loaded from the folder if the folder holds it.

    Args:
        core: an `openvino.Core`.
        make: returns the graph; called if the graph has to be compiled.
        config: settings of the compilation.
        folder: folder of compiled graphs; None stores nothing. A read-only folder only costs time.
        identity: values that the graph depends on besides `config`, OpenVINO, the device and the code of gstk.
        plugin: OpenVINO's name of the device.
        check: is given a graph that was compiled anew, and raises where it is not to be used nor stored.

    Returns:
        An `openvino.CompiledModel` for the device.
    """

    def compiled_anew() -> Any:
        compiled = core.compile_model(make(), plugin, dict(config))
        if check is not None:
            check(compiled)
        return compiled

    if folder is None:
        return compiled_anew()
    file = folder / f"{_key(core, config, identity, plugin)}.openvino"
    blob = _read(file)
    if blob is not None:
        with suppress(RuntimeError):
            return core.import_model(blob, plugin, dict(config))
    compiled = compiled_anew()
    with suppress(OSError):
        blob = compiled.export_model().getvalue()
        write_private(file, hashlib.sha256(blob).digest(), blob)
    return compiled


def _key(core: Any, config: Mapping[str, Any], identity: Mapping[str, Any], plugin: str) -> str:
    import openvino

    about = {
        "identity": identity,
        "config": {name: str(value) for name, value in config.items()},
        "openvino": openvino.__version__,
        "plugin": plugin,
        "device": core.get_property(plugin, "FULL_DEVICE_NAME"),
        "capabilities": sorted(core.get_property(plugin, "OPTIMIZATION_CAPABILITIES")),
        "code": [hashlib.sha256(source.read_bytes()).hexdigest() for source in _SOURCES],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _read(file: Path) -> bytes | None:
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, blob = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return blob if hashlib.sha256(blob).digest() == digest else None

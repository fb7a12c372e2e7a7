"""The host of a measurement: the machine, the backend and its settings, which determine latency besides the bundle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from gstk.engines import BundleEngine
from gstk.engines.devices import memory_bytes
from gstk.engines.processor import this_processor
from gstk.engines.select import describe_processor_engine

__all__ = ["Host"]


@dataclass(frozen=True)
class Host:
    """The machine and the engine that a model was measured with.

    Attributes:
        processor: name of the processor, and its instructions that matter for INT8 and bfloat16.
        cores: number of cores that this process may use.
        memory_bytes: memory of the machine.
        device: the device that the engine computes on, such as `cpu` or `cuda:0: NVIDIA H200`.
        backend, version: name and version of the engine's backend.
        precision: precision of the graphs.
        settings: the engine's options and its number of threads, as text.
    """

    processor: str
    cores: int
    memory_bytes: int
    device: str
    backend: str
    version: str
    precision: str
    settings: str

    @classmethod
    def of(cls, engine: BundleEngine) -> Host:
        """The host of an open engine."""
        return cls._describe(
            str(engine.device), engine.name, engine.version, engine.precision, engine.threads, engine.options
        )

    @classmethod
    def without_engine(cls, backend: str, threads: int | None, options: Mapping[str, object]) -> Host:
        """The host of a CPU engine that is not open yet; version and precision are empty.

        Raises:
            EngineError: an option that the backend does not have.
        """
        device, settings = describe_processor_engine(backend, options)
        return cls._describe(str(device), backend, "", "", threads, settings)

    @classmethod
    def _describe(
        cls, device: str, backend: str, version: str, precision: str, threads: int | None, options: object
    ) -> Host:
        return cls(
            processor=str(this_processor()),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_bytes=memory_bytes(),
            device=device,
            backend=backend,
            version=version,
            precision=precision,
            settings=f"threads={threads} {options}",
        )

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that identify the host."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def differences(self, other: Host) -> list[str]:
        """The differences from another host, one phrase for each; empty if there are none."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name} {theirs[name]} is now {mine[name]}" for name in mine if mine[name] != theirs[name]]

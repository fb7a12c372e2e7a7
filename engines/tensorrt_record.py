"""What is known of a TensorRT plan: how, from what and where it was built. It is the JSON file beside the plan."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gstk.core.manifest import GRAPH_KINDS
from gstk.engines.devices import Device, cuda_version, driver_version
from gstk.engines.tensorrt_profiles import Profiles
from gstk.errors import PlanError

__all__ = ["HARDWARE", "BuildTarget", "PlanFile", "PlanRecord", "Settings"]

SCHEMA = 1
HARDWARE = ("exact", "same-capability", "ampere-plus")
"""Which GPUs a plan runs on: one model, all of one compute capability, or all from Ampere (8.0) on."""


@dataclass(frozen=True)
class Settings:
    """How plans are built.

    Attributes:
        level: how much TensorRT tries, 0 to 5.
        workspace_mb: scratch memory that a layer may use, MB; None for all of the GPU's.
        hardware: one of `HARDWARE`.
        version_compatible: also runs in later versions of TensorRT of the same major, and of the next from 10 on. Such
            a plan carries code of its own.
        stripped: without weights, which are put in from the bundle when it is loaded.
        tf32: round FP32 products to 10 bits.
    """

    level: int = 3
    workspace_mb: int | None = None
    hardware: str = HARDWARE[0]
    version_compatible: bool = False
    stripped: bool = False
    tf32: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 5:
            raise PlanError(f"got optimisation level {self.level}, expected 0 to 5")
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise PlanError(f"got a workspace of {self.workspace_mb} MB, expected 1 or more")
        if self.hardware not in HARDWARE:
            raise PlanError(f"got hardware {self.hardware!r}, expected {', '.join(HARDWARE)}")


@dataclass(frozen=True)
class BuildTarget:
    """Where plans are built and run.

    Attributes:
        gpu: its name.
        capability: compute capability.
        tensorrt: version.
        cuda: newest CUDA of the driver, (major, minor).
        driver: version of the driver; empty where it is not known.
        system: operating system and processor, such as `linux-x86_64`.
    """

    gpu: str
    capability: tuple[int, int]
    tensorrt: str
    cuda: tuple[int, int]
    driver: str
    system: str

    @classmethod
    def here(cls, device: Device, tensorrt: str) -> BuildTarget:
        """This machine.

        Args:
            device: the GPU.
            tensorrt: version.
        """
        system = f"{sys.platform}-{platform.machine().lower()}"
        return cls(device.name, device.capability, tensorrt, cuda_version(), driver_version(), system)


@dataclass(frozen=True)
class PlanRecord:
    """What is known of a plan; the file beside it.

    Attributes:
        model: name of the bundle's model.
        kind: `encoder` or `prompt_decoder`.
        precision: of the graph.
        graph: what `graph_hash` gave for it.
        profiles: see `Profiles`.
        settings: see `Settings`.
        host: where it was built.
        built: when, ISO 8601, UTC.
        seconds: that it took.
        dtypes: of inputs and outputs, by name, as TensorRT calls them.
        layers: how many results inside the plan are of each type.
        memory_bytes: that a run needs at the most, for each profile.
        sha256: of the plan.
        size_bytes: of the plan.
    """

    model: str
    kind: str
    precision: str
    graph: str
    profiles: Profiles
    settings: Settings
    host: BuildTarget
    built: str
    seconds: float
    dtypes: Mapping[str, str]
    layers: Mapping[str, int]
    memory_bytes: tuple[int, ...]
    sha256: str
    size_bytes: int

    @property
    def pair(self) -> str:
        """The same for the encoder and the decoder of one build."""
        host = dataclasses.asdict(self.host)
        kept = {name: host[name] for name in ("gpu", "capability", "tensorrt", "system")}
        about = [self.precision, self.profiles.to_json(), dataclasses.asdict(self.settings), kept]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @property
    def key(self) -> str:
        """Of all that it was built from and for."""
        return hashlib.sha256(f"{self.kind} {self.graph} {self.pair}".encode()).hexdigest()[:16]

    @property
    def stem(self) -> str:
        """Name of its files, without the ending."""
        return f"{self.kind}.{self.precision}.{self.key}"

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), "profiles": self.profiles.to_json()}

    @classmethod
    def from_json(cls, values: Any) -> PlanRecord:
        """What `to_json` gave. Anything else raises KeyError, TypeError or ValueError."""
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']}")
        host, settings = values["host"], values["settings"]
        texts = [values[name] for name in ("model", "kind", "precision", "graph", "built", "sha256")]
        texts += [host[name] for name in ("gpu", "tensorrt", "driver", "system")]
        if not all(isinstance(text, str) for text in texts) or values["kind"] not in GRAPH_KINDS:
            raise ValueError("not a text")
        fields = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        pairs = {name: (int(host[name][0]), int(host[name][1])) for name in ("capability", "cuda")}
        return cls(
            **fields
            | {
                "profiles": Profiles.from_json(values["profiles"]),
                "settings": Settings(**settings),
                "host": BuildTarget(**host | pairs),
                "memory_bytes": tuple(int(size) for size in values["memory_bytes"]),
                "size_bytes": int(values["size_bytes"]),
            }
        )


class PlanFile(NamedTuple):
    """A plan on disk."""

    path: Path
    record: PlanRecord

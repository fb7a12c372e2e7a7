"""The record of a TensorRT plan: its graph, build settings and machine. It is stored as a JSON file beside the plan."""

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

from gstk.core.manifest import CLASS_GRAPH, GRAPH_KINDS
from gstk.engines.devices import Device, cuda_version, driver_version
from gstk.engines.tensorrt_profiles import Profiles
from gstk.errors import PlanError

__all__ = ["HARDWARE", "BuildTarget", "PlanFile", "PlanRecord", "Settings"]

SCHEMA = 1
HARDWARE = ("exact", "same-capability", "ampere-plus")
"""The GPUs that a plan runs on: one model, all of one compute capability, or all from Ampere (8.0) on."""


@dataclass(frozen=True)
class Settings:
    """Build settings of plans.

    Attributes:
        level: TensorRT's optimisation level, 0 to 5.
        workspace_mb: scratch memory that a layer may use, MB; None for all memory of the GPU.
        hardware: one of `HARDWARE`.
        version_compatible: the plan also runs in later versions of TensorRT with the same major number, and from 10 on
            with the next one. Such a plan contains host code.
        stripped: the plan is stored without weights; they are taken from the bundle when it is loaded.
        tf32: allow TF32: the factors of FP32 products are rounded to 10 bits of mantissa.
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
    """The machine on which plans are built or run.

    Attributes:
        gpu: name of the GPU.
        capability: compute capability.
        tensorrt: version of TensorRT.
        cuda: newest CUDA version that the driver supports, (major, minor).
        driver: version of the driver; empty if it is not known.
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
            tensorrt: version of TensorRT.
        """
        system = f"{sys.platform}-{platform.machine().lower()}"
        return cls(device.name, device.capability, tensorrt, cuda_version(), driver_version(), system)


@dataclass(frozen=True)
class PlanRecord:
    """The content of the JSON file beside a plan.

    Attributes:
        model: name of the bundle's model.
        kind: `encoder`, `prompt_decoder` or `class_encoder`.
        precision: precision of the graph.
        graph: hash of the graph, from `graph_hash`.
        profiles: see `Profiles`.
        settings: see `Settings`.
        host: the machine that built it.
        built: date and time of the build, ISO 8601, UTC.
        seconds: duration of the build.
        dtypes: TensorRT's types of inputs and outputs, by name.
        layers: number of layer outputs of each type.
        memory_bytes: largest memory that a run needs, for each profile.
        sha256: hash of the plan.
        size_bytes: size of the plan.
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
        """A key that all plans of one build share."""
        host = dataclasses.asdict(self.host)
        kept = {name: host[name] for name in ("gpu", "capability", "tensorrt", "system")}
        about = [self.precision, self.profiles.to_json(), dataclasses.asdict(self.settings), kept]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @property
    def key(self) -> str:
        """A hash of the graph, the profiles, the settings and the build target."""
        return hashlib.sha256(f"{self.kind} {self.graph} {self.pair}".encode()).hexdigest()[:16]

    @property
    def stem(self) -> str:
        """Name of the plan's files without the extension."""
        return f"{self.kind}.{self.precision}.{self.key}"

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), "profiles": self.profiles.to_json()}

    @classmethod
    def from_json(cls, values: Any) -> PlanRecord:
        """The record from the values of `to_json`. Other values raise KeyError, TypeError or ValueError."""
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']}")
        host, settings = values["host"], values["settings"]
        texts = [values[name] for name in ("model", "kind", "precision", "graph", "built", "sha256")]
        texts += [host[name] for name in ("gpu", "tensorrt", "driver", "system")]
        if not all(isinstance(text, str) for text in texts) or values["kind"] not in (*GRAPH_KINDS, CLASS_GRAPH):
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

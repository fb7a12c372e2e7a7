"""The pipelines of `gstk evaluate`. They run in this process, in a worker, or in a new process for each call."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from gstk.errors import EvaluationError

if TYPE_CHECKING:
    from gstk.evaluation.protocol import Segmenter

__all__ = ["Pipeline", "PipelineName", "open_pipeline"]


class PipelineName(StrEnum):
    """The pipeline that segments the cases."""

    gstk = "gstk"
    reference = "reference"
    monai_bundle = "monai-bundle"
    classical = "classical"
    command = "command"


@dataclass(frozen=True)
class Pipeline:
    """A pipeline and its options. It is pickled for workers, and written as JSON for new processes.

    Attributes:
        name: one of `PipelineName`.
        bundle, backend, precision, threads, device: the options of `gstk infer` with these names.
        engine: settings of the backend, each `NAME=VALUE`.
        checkpoint: weights for the pipelines `reference` and `monai-bundle`; None uses the bundle's weights.
        program: for the pipeline `command`: a command line that contains `{inputs}` and `{outputs}`.
        profile: for the pipeline `monai-bundle`: the input profile of the weights; None uses the bundle's profile.
        assume_window: for `gstk` and `monai-bundle`: the CT window that mapped HU to the cases' 0 to 255; needed if
            the input of the profile is HU.
        budget_s: for the pipeline `gstk`: seconds for each class in all steps; None sets no limit.
        classes: for `gstk` and `monai-bundle`: the class of each label, from 1 on; the first step then segments by
            class, and clicks correct it. Empty segments by boxes and clicks.
    """

    name: str = "gstk"
    bundle: str = "tiny"
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    checkpoint: str | None = None
    program: str | None = None
    device: str = "auto"
    engine: tuple[str, ...] = ()
    budget_s: float | None = None
    profile: str | None = None
    assume_window: str | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = {
            "--backend": self.backend != "auto" and self.name != "gstk",
            "--precision": self.precision != "auto" and self.name != "gstk",
            "--device": self.device != "auto" and self.name != "gstk",
            "--engine": bool(self.engine) and self.name != "gstk",
            "--budget": self.budget_s is not None and self.name != "gstk",
            "--checkpoint": self.checkpoint is not None and self.name not in ("reference", "monai-bundle"),
            "--profile": self.profile is not None and self.name != "monai-bundle",
            "--assume-window": self.assume_window is not None and self.name not in ("gstk", "monai-bundle"),
            "--bundle": self.bundle != "tiny" and self.name in ("classical", "command"),
            "--threads": self.threads is not None and self.name in ("classical", "command"),
            "--command": self.program is not None and self.name != "command",
            "--classes": bool(self.classes) and self.name not in ("gstk", "monai-bundle"),
        }
        for option, meaningless in given.items():
            if meaningless:
                raise EvaluationError(f"got {option}, which the pipeline {self.name} does not take; leave it out")
        if self.classes and self.name == "monai-bundle" and self.checkpoint is None:
            raise EvaluationError(
                "got --classes for the pipeline monai-bundle without --checkpoint, expected one: a bundle does not "
                "give back the weights of the class head"
            )
        if self.name == "command" and self.program is None:
            raise EvaluationError("got the pipeline command, expected --command with {inputs} and {outputs} in it")

    @property
    def method(self) -> str:
        """The name of the method in tables."""
        from pathlib import Path

        model = Path(self.checkpoint or self.bundle).name
        by_class = " by class" if self.classes else ""
        match self.name:
            case "gstk":
                return f"gstk {model}" + ("" if self.precision == "auto" else f" {self.precision}") + by_class
            case "reference":
                return f"MONAI {model}"
            case "monai-bundle":
                return f"MONAI's bundle {model}{by_class}"
            case _:
                return self.name

    def settings(self) -> dict[str, Any]:
        """All settings that the masks depend on, as JSON values; weights are given by their hash."""
        found: dict[str, Any] = {"pipeline": self.name}
        if self.name == "classical":
            return found
        if self.name == "command":
            return {**found, "command": self.program}
        from gstk.core.bundle import MANIFEST_NAME, Bundle, find_bundle

        if self.name == "gstk":
            found |= {"backend": self.backend, "precision": self.precision, "device": self.device}
            found["engine"] = sorted(self.engine)
            if self.budget_s is not None:
                found["budget_s"] = self.budget_s
        if self.threads is not None:
            found["threads"] = self.threads
        if self.profile is not None:
            found["profile"] = self.profile
        if self.assume_window is not None:
            found["assume_window"] = self.assume_window
        if self.classes:
            found["classes"] = list(self.classes)
        found["weights"] = _digest(self.checkpoint or str(Bundle.open(find_bundle(self.bundle)).path / MANIFEST_NAME))
        return found

    def command(self) -> list[str]:
        """A command that segments the cases in `{inputs}` into `{outputs}`, as a container's entry point does."""
        import json
        import shlex
        from dataclasses import asdict

        if self.program is not None:
            return shlex.split(self.program)
        if self.name != "gstk":
            return [sys.executable, "-m", "gstk.cli.once", json.dumps(asdict(self)), "{inputs}", "{outputs}"]
        from gstk.evaluation.case_scores import STEPS

        options = ["--bundle", self.bundle, "--backend", self.backend, "--precision", self.precision]
        options += ["--device", self.device, *(text for setting in self.engine for text in ("--engine", setting))]
        if self.threads is not None:
            options += ["--threads", str(self.threads)]
        if self.assume_window is not None:
            options += ["--assume-window", self.assume_window]
        if self.budget_s is not None:
            options += ["--budget", str(self.budget_s), "--calls", str(STEPS)]
        else:
            options += ["--budget", "none"]
        return [sys.executable, "-m", "gstk", "infer", "{inputs}", "-o", "{outputs}", "--name", "{stem}", *options]

    def opener(self, cold: bool = False) -> "Callable[[], Segmenter]":
        """A picklable function that opens the pipeline; with `cold`, each call runs in a new process."""
        if cold and self.classes:
            raise EvaluationError("got --cold and --classes, expected one of the two: features of classes are kept")
        cold = cold or self.name == "command"
        return partial(_open_cold, self.command()) if cold else partial(open_pipeline, self)


def open_pipeline(pipeline: Pipeline) -> "Segmenter":
    """Opens a pipeline in this process.

    Raises:
        GstkError: a package or a file that the pipeline needs is missing.
    """
    match pipeline.name:
        case "gstk":
            import gstk
            from gstk.cli.infer import say_probe
            from gstk.engines.options import parse_assignments
            from gstk.evaluation.case_scores import STEPS
            from gstk.evaluation.protocol import SessionSegmenter

            session = gstk.open(
                pipeline.bundle,
                pipeline.backend,
                pipeline.threads,
                pipeline.precision,
                pipeline.device,
                parse_assignments(list(pipeline.engine)),
                budget_s=pipeline.budget_s,
                calls=STEPS,
                on_progress=say_probe,
            )
            if pipeline.classes:
                from gstk.evaluation.class_segmenter import ClassSegmenter

                return ClassSegmenter(session, pipeline.classes, pipeline.assume_window)
            return SessionSegmenter(session, pipeline.assume_window)
        case "classical":
            from gstk.evaluation.protocol import SessionSegmenter
            from gstk.evaluation.watershed import open_classical

            return SessionSegmenter(open_classical())
        case "reference" | "monai-bundle":
            return _open_reference(pipeline)
        case _:
            return _open_cold(pipeline.command())


def _open_reference(pipeline: Pipeline) -> "Segmenter":
    from gstk.cli.options import needing

    with needing("export"):
        import torch

        from gstk.core.bundle import Bundle, find_bundle
        from gstk.export.weights import network_of_bundle
        from gstk.training.checkpoint import load_network
        from gstk.training.reference import ReferenceSegmenter

        bundle = Bundle.open(find_bundle(pipeline.bundle))
        if pipeline.threads is not None:
            torch.set_num_threads(pipeline.threads)
        network = network_of_bundle(bundle) if pipeline.checkpoint is None else load_network(pipeline.checkpoint)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if pipeline.name == "reference":
            return ReferenceSegmenter(network.to(device), bundle.manifest.roi.default)
        from gstk.core.profile import find_profile
        from gstk.training.bundle_reference import BundleClassSegmenter, BundleSegmenter

        profile = bundle.manifest.profile if pipeline.profile is None else find_profile(pipeline.profile)
        if pipeline.classes:
            return BundleClassSegmenter(network.to(device), profile, pipeline.classes, pipeline.assume_window)
        return BundleSegmenter(network.to(device), profile, pipeline.assume_window)


def _open_cold(command: list[str]) -> "Segmenter":
    from gstk.evaluation.subprocess_segmenter import ColdSegmenter

    return ColdSegmenter(command)


def _digest(path: str) -> str:
    import hashlib

    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise EvaluationError(f"cannot read {path}: {error.strerror}; check the path") from None

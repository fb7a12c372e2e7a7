"""`gstk train`: the two stages, with checkpoints, validation and a log, from a recipe and a folder of cases.

A run's folder:

    recipe.json                      what was trained
    cases.json                       on what: files with their hashes
    profile.json                     what its network's input is, where a profile says so
    init.pt                          what it began with, where that is no file of its own
    stage1/model.pt                  the stage's result: the moving average of its weights
    stage1/checkpoints/step-*.pt     to resume from; each holds a model, too
    stage1/events.out.tfevents.*     TensorBoard's log
    stage2/...
"""

from __future__ import annotations

import contextlib
import copy
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from monai.networks.nets.vista3d import VISTA3D
from torch import nn

from gstk.core.files import make_folder
from gstk.core.profile import InputProfile
from gstk.errors import CheckpointError, TrainingError, TrainingInterrupted
from gstk.training.case_files import check_cases
from gstk.training.checkpoint import load_checkpoint, load_extra, load_network, save_checkpoint
from gstk.training.cutting import Volume
from gstk.training.distributed import Processes
from gstk.training.initialise import local_prompt_init
from gstk.training.loop import Progress, Trainer
from gstk.training.network import build_network
from gstk.training.precision import autocast_dtype
from gstk.training.recipe import Recipe, with_spec
from gstk.training.run_folder import RunCases, RunFolder
from gstk.training.run_profile import check_case_units, trained_profile
from gstk.training.validation import NetworkEngine, Score, validate, validation_phantoms

__all__ = ["Report", "train"]

PICTURES = 2
"""Cases of a validation that are drawn."""


class Report:
    """What a run tells: override what is of interest. The first process alone calls it."""

    def changed(self, changes: Sequence[str]) -> None:
        """A run goes on otherwise than it began, a sentence each."""

    def fresh(self) -> None:
        """Training begins with random weights."""

    def begin(self, stage: int, step: int, steps: int) -> None:
        """A stage begins, or goes on, after `step` of `steps` steps."""

    def stopping(self, number: int) -> None:
        """A signal came: the run ends after the step under way."""

    def progress(self, stage: int, progress: Progress) -> None:
        """A step was done."""

    def validated(self, stage: int, step: int, scores: Sequence[Score]) -> None:
        """The model was scored."""

    def saved(self, stage: int, path: Path) -> None:
        """A checkpoint or model was written."""


def train(
    recipe: Recipe,
    out_dir: Path,
    cases: Sequence[Path] = (),
    validation: Sequence[Path] = (),
    stages: Sequence[int] = (1, 2),
    init: Path | nn.Module | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    report: Report | None = None,
    before: Mapping[str, Any] | None = None,
    profile: InputProfile | None = None,
) -> Path:
    """Trains one stage or both; every process of a run calls it with the same arguments.

    Args:
        recipe: what to do. Where there is an `init`, its architecture takes the place of the recipe's.
        out_dir: the run's folder, see above.
        cases: .npz files to train on; empty where the recipe generates volumes.
        validation: .npz files to score on; those that are in `cases` too are not trained on.
        stages: 1, 2 or both. Stage 2 begins with the model of stage 1 in `out_dir`, or with `init`.
        init: weights to begin the first of the stages with, a file or a network of the recipe's architecture; None
            takes fresh ones for stage 1.
        resume: continue from the newest checkpoint in `out_dir`; stages that are done stay as they are. `report` is
            told what differs from how the run began.

        before: the record of the training that `init` comes from, where it is a network; a file has its own.
        profile: what the network's input is; the checkpoints carry it. None takes cases in their own axes and voxels,
            0 to 255. The recipe has the profile's patch already (`gstk.training.run_profile.with_profile`).

    Returns:
        The last stage's `model.pt`. Its record names the recipe, the step, what it took, the cases with their hashes,
        and the training before it.

    Raises:
        TrainingError: nothing to train on, a folder that holds another run, or nothing to begin stage 2 with.
        CheckpointError: `init` or a checkpoint cannot be used.
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint was written.
    """
    processes, report = processes or Processes(), report or Report()
    cases = check_cases(recipe, cases, validation)
    check_case_units([*cases, *validation], profile)
    if isinstance(init, Path):
        recipe = with_spec(recipe, load_checkpoint(init)[0])
    folder = RunFolder(out_dir)
    begin: Path | None
    if isinstance(init, nn.Module):
        begin = folder.init
    else:
        begin = folder.began_with(stages) if init is None and resume else init
    listed = RunCases(tuple(cases), tuple(validation), tuple(stages), begin)
    profile = None if profile is None else trained_profile(profile, recipe)
    changes = folder.check(recipe, listed, resume, profile)
    if changes and processes.is_first:
        report.changed(changes)
    if processes.is_first:
        folder.write(recipe, listed, profile)
        if isinstance(init, nn.Module):
            save_checkpoint(folder.init, init, recipe.network, {"training": dict(before or {})})
    model = begin
    processes.sum([0.0])  # nobody reads the folder before it is there
    with _signals(report.stopping) as signals:
        for stage in stages:
            finished = folder.stage(stage) / "model.pt"
            if not (resume and finished.is_file()):
                if stage == 2 and model is None:
                    model = folder.stage(1) / "model.pt"
                    if not model.is_file():
                        raise TrainingError(f"got stage 2 without {model}, expected stage 1 before it, or --init")
                run = _Stage(recipe, stage, folder, cases, validation, processes, report, profile)
                run.run(model, resume, signals)
            model = finished
    assert model is not None
    return model


class _Stage:
    """One stage of a run, and the files that it writes."""

    def __init__(
        self,
        recipe: Recipe,
        stage: int,
        run: RunFolder,
        cases: Sequence[Path],
        validation: Sequence[Path],
        processes: Processes,
        report: Report,
        profile: InputProfile | None,
    ) -> None:
        self.recipe, self.stage, self.cases, self.profile = recipe, stage, cases, profile
        self.processes, self.report = processes, report
        self.folder = run.stage(stage)
        self._record: dict[str, Any] = {"recipe": json.dumps(recipe.to_dict()), "stage": stage, **run.record()}
        self.checkpoints = self.folder / "checkpoints"
        volumes = validation_phantoms(recipe) if recipe.data.source == "phantoms" else list(validation)
        self.scored: list[Path | Volume] = list(volumes[: recipe.validation.cases])

    def run(self, init: Path | None, resume: bool, signals: Sequence[int]) -> None:
        """Trains to the end of the stage, or to a signal, of which `signals` holds the numbers."""
        if init is not None and (before := load_extra(init).get("training")):
            self._record["before"] = before
        network = _fresh(self.recipe) if init is None else load_network(init, self.recipe.network)
        trainer = Trainer(self.recipe, self.stage, network, self.cases, self.processes, self.profile)
        found = _checkpoints(self.checkpoints) if resume else []
        if found:
            trainer.load_state(_run_state(found[-1], trainer))
        first = self.processes.is_first
        if first:
            make_folder(self.checkpoints)
            if init is None and not found:
                self.report.fresh()
            self.report.begin(self.stage, trainer.step, trainer.steps)
        loop, judged = self.recipe.loop, self.recipe.validation
        with self._log() as log:
            for progress in trainer.run(lambda: bool(signals)):
                if first:
                    _log_step(log, progress)
                    self.report.progress(self.stage, progress)
                last = progress.step == trainer.steps
                if judged.steps and progress.step % judged.steps == 0 and not last:
                    self._validate(trainer, log)
                if progress.step % loop.checkpoint_steps == 0 and not last:
                    self._save_checkpoint(trainer)
            (stops,) = self.processes.sum([float(bool(signals))])
            if stops or trainer.step < trainer.steps:
                self._save_checkpoint(trainer)
                number = max(int(n) for n in self.processes.gather(signals[0] if signals else 0))
                checkpoint = _checkpoint_name(self.checkpoints, trainer.step)
                name = signal.Signals(number).name
                raise TrainingInterrupted(f"stopped by {name}; {checkpoint} holds all of it", number, checkpoint)
            self._validate(trainer, log)
        if first:
            self._save(trainer, self.folder / "model.pt", {})
            self.report.saved(self.stage, self.folder / "model.pt")
        self.processes.sum([0.0])  # nobody reads the model before it is there

    def _save_checkpoint(self, trainer: Trainer) -> None:
        if self.processes.is_first:
            path = _checkpoint_name(self.checkpoints, trainer.step)
            self._save(trainer, path, {"run": trainer.state()})
            for old in _checkpoints(self.checkpoints)[: -self.recipe.loop.keep]:
                old.unlink()
            self.report.saved(self.stage, path)

    def _save(self, trainer: Trainer, path: Path, extra: dict[str, Any]) -> None:
        model: nn.Module = trainer.average
        if self.recipe.loop.half_weights:
            model = copy.deepcopy(model).half().float()
        training = {**self._record, "step": trainer.step, "seconds": round(trainer.seconds)}
        if self.profile is not None:
            extra = {"profile": self.profile.to_json(), **extra}
        save_checkpoint(path, model, self.recipe.network, {"training": training, **extra})

    def _validate(self, trainer: Trainer, log: Any) -> None:
        """Every process scores its share of the cases."""
        if not self.scored:
            return
        average = trainer.average
        training = average.training
        multiple = self.recipe.network.roi_multiple
        with NetworkEngine(
            average, multiple, trainer.device, autocast_dtype(self.recipe.loop.precision, trainer.device)
        ) as engine:
            mine = self.scored[self.processes.rank :: self.processes.count]
            own = validate(engine, self.recipe, mine, PICTURES if self.processes.is_first else 0, self.profile)
        average.train(training)
        shares = self.processes.gather(own)
        scores = [score for place in range(len(shares[0])) for share in shares for score in share[place : place + 1]]
        if self.processes.is_first:
            _log_scores(log, trainer.step, scores)
            self.report.validated(self.stage, trainer.step, scores)

    @contextlib.contextmanager
    def _log(self) -> Iterator[Any]:
        if not self.processes.is_first:
            yield None
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise TrainingError('the log needs tensorboard; pip install "gstk[train]"') from None
        with SummaryWriter(str(self.folder)) as log:
            yield log


def _fresh(recipe: Recipe) -> VISTA3D:
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network)
    if recipe.loop.local_init:
        local_prompt_init(network)
    return network


def _checkpoint_name(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))


def _run_state(path: Path, trainer: Trainer) -> dict[str, Any]:
    run = load_extra(path).get("run")
    if not isinstance(run, dict) or set(run) != set(trainer.state()):
        raise CheckpointError(f"{path} holds no state of a run; give it to --init instead")
    if run["lanes"] != trainer.state()["lanes"]:
        raise TrainingError(
            f"got {trainer.state()['lanes']} patches a step, expected {run['lanes']} as the run had (processes times "
            "loop.accumulate): set loop.accumulate so that it stays the same"
        )
    return run


@contextlib.contextmanager
def _signals(on_signal: Callable[[int], None]) -> Iterator[list[int]]:
    """Numbers of the SIGINTs and SIGTERMs that came; a second one ends the process at once."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, before[signal.Signals(number)])
        on_signal(number)

    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals are its host's business
        pass
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_step(log: Any, progress: Progress) -> None:
    values = progress.values
    for key in ("loss", "dice", "first_dice"):
        if np.isfinite(values[key]):
            log.add_scalar(f"train/{key}", values[key], progress.step)
    log.add_scalar("train/lr", values["lr"], progress.step)
    log.add_scalar("speed/patches_per_second", values["patches"] / values["seconds"], progress.step)
    log.add_scalar("speed/share_waiting_for_data", values["wait"] / values["seconds"], progress.step)


def _log_scores(log: Any, step: int, scores: Sequence[Score]) -> None:
    usable = [score.dice for score in scores if score.dice]
    if usable:
        for click, value in enumerate(np.mean(usable, axis=0), start=1):
            log.add_scalar(f"validation/dice_click_{click}", value, step)
        log.add_scalar("validation/dice_auc", float(np.mean([np.trapezoid(d) for d in usable])), step)
    for score in scores:
        if score.picture is not None:
            log.add_image(f"validation/{score.name}", score.picture, step, dataformats="HWC")

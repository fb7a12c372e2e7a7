"""`gstk train`: trains a network on cases, or on generated volumes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gstk.cli.options import SpacingOrderOption, needing
from gstk.cli.progress import format_duration, log_interval_s
from gstk.core.bundle import Bundle, find_bundle
from gstk.errors import BundleError, TrainingError, TrainingInterrupted

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from gstk.core.profile import InputProfile
    from gstk.training.distributed import Processes
    from gstk.training.recipe import Recipe

__all__ = ["StageOption", "train_command"]


class StageOption(StrEnum):
    """The paper's training stage to run."""

    first = "1"
    second = "2"
    all = "all"


def train_command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of labelled .npz cases; its subfolders are searched, too. Leave it out for a recipe that "
            "generates its data.",
            show_default=False,
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/train"),
    recipe: Annotated[
        str | None,
        typer.Option(
            help="coreset (the default), all-data, small, tiny, tiny-real, or a .toml file.", show_default=False
        ),
    ] = None,
    stage: Annotated[
        StageOption | None,
        typer.Option(
            help="Stage 1 trains with clicks by VISTA3D's rule; stage 2 continues with clicks by the edge-center rule."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights to begin with: a .pt, .pth or .safetensors file, a bundle's folder, or a built-in bundle, "
            "such as tiny. Without it training begins with random weights.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Input profile of the initial weights, which intensities, axes, resolution and patch follow: a "
            "built-in one or a .toml file. Default: that of the bundle or checkpoint of --init, where it has one.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, on its cases and with its settings.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a field of the recipe, such as stage1.epochs=20. May be repeated.",
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            help="List of the cases to train on, as `gstk coreset` writes it. Default: all in the folder.",
            show_default=False,
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="List of cases that are scored while training, and not trained on.", show_default=False),
    ] = None,
    spacing_order: Annotated[
        SpacingOrderOption | None,
        typer.Option(help="Axis order of the spacing in the cases; the recipe's (zyx).", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or cuda:1 and so on.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the recipe, its steps, and the memory that it will take.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --dry-run: do a few steps too, to say how long the run will take.")
    ] = False,
) -> None:
    """Fine-tune VISTA3D in the paper's two stages. Several GPUs: torchrun --nproc-per-node N -m gstk train."""
    from rich.console import Console

    # User errors are reported before torch is loaded, which takes seconds.
    from gstk.core.profile import find_profile
    from gstk.training.case_files import check_cases, check_spacing, find_cases, read_list
    from gstk.training.recipe import load_recipe, with_settings, with_spec
    from gstk.training.run_folder import RunFolder
    from gstk.training.run_profile import check_case_units, require_profile, with_profile, without_classes
    from gstk.training.spec import VISTA3DSpec

    run = RunFolder(out_dir)
    known = resume and recipe is None
    changes = [*(settings or []), *([f"data.spacing_order={spacing_order.order}"] if spacing_order else [])]
    bundle = _bundle(init)
    used = find_profile(profile) if profile is not None else None
    if used is None and bundle is not None and not resume:
        used = without_classes(bundle.manifest.profile)
    if used is None:
        used = run.profile()
    plain = run.recipe() if known else load_recipe(recipe or "coreset")
    chosen = with_settings(plain if used is None or known else with_profile(plain, used), changes)
    if folder is None and (cases or validation):
        raise typer.BadParameter("a list needs the folder that its paths are in", param_hint="--cases, --validation")
    if measure and not dry_run:
        raise typer.BadParameter("it is a part of --dry-run", param_hint="--measure")
    remembered = run.cases() if known and folder is None else None
    if remembered is not None:
        listed, held_out = list(remembered.train), list(remembered.validation)
    else:
        listed = [] if folder is None else read_list(cases, folder) if cases else find_cases(folder)
        held_out = read_list(validation, folder) if validation and folder else []
    listed = check_cases(chosen, listed, held_out)
    check_case_units([*listed, *held_out], used)
    odd_spacing = check_spacing([*listed, *held_out], chosen.data.spacing_order)
    if odd_spacing:
        typer.echo(f"warning: {odd_spacing}", err=True)
    if stage is None and remembered is not None:
        stages = remembered.stages
    else:
        stages = (1, 2) if stage in (None, StageOption.all) else (int(stage),)

    console = Console(stderr=True)
    # OpenMP threads that wait in a busy loop take CPU time from other programs: with other programs running, a training
    # step took 2.5 s instead of 1.0 s. The variable is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with needing("train"), console.status("starting"):
        from gstk.training.checkpoint import load_checkpoint, load_extra
        from gstk.training.distributed import join_processes
        from gstk.training.train import train
    processes = join_processes(device)
    try:
        if bundle is not None:
            chosen = with_spec(chosen, VISTA3DSpec.from_dict(bundle.manifest.architecture))
        elif init is not None:
            spec = load_checkpoint(init)[0]
            if used is None and not resume:
                used = require_profile(spec, load_extra(init), Path(init))
                if used is not None:
                    check_case_units([*listed, *held_out], used)
                    chosen = with_settings(with_profile(plain, used), changes)
            chosen = with_spec(chosen, spec)
        if dry_run:
            if processes.is_first:
                typer.echo(json.dumps(chosen.to_dict(), indent=1))
                _show_plan(console, chosen, stages, listed, processes, measure, used)
            return
        weights: Path | nn.Module | None = None if init is None else Path(init)
        if bundle is not None:
            with needing("export"), console.status(f"reading the weights of {bundle.manifest.name}"):
                from gstk.export.weights import network_of_bundle
            weights = network_of_bundle(bundle)
        report = _progress(console, chosen.name)
        before = None if bundle is None else {"bundle": bundle.manifest.name, **bundle.manifest.training}
        model = train(chosen, out_dir, listed, held_out, stages, weights, resume, processes, report, before, used)
        if processes.is_first:
            typer.echo(str(model))
    except TrainingInterrupted as stopped:
        if processes.is_first:
            typer.echo(f"{stopped}; continue with gstk train -o {out_dir} --resume", err=True)
        raise typer.Exit(128 + stopped.signal) from None
    finally:
        processes.leave()


def _bundle(init: str | None) -> Bundle | None:
    """The bundle that `--init` names; None if `--init` is a file of weights or is not given.

    Raises:
        TrainingError: `--init` names neither a bundle nor a file of weights.
    """
    if init is None or Path(init).is_file():
        return None
    try:
        return Bundle.open(find_bundle(init))
    except BundleError as error:
        raise TrainingError(
            f"got --init {init}, expected a file of weights (.pt, .pth, .safetensors) or a bundle ({error})"
        ) from None


def _show_plan(
    console: Console,
    recipe: Recipe,
    stages: Sequence[int],
    cases: Sequence[Path],
    processes: Processes,
    measure: bool,
    profile: InputProfile | None,
) -> None:
    from rich.console import Console
    from rich.table import Table

    from gstk.training.estimate import measure_stage, plan_stage

    with console.status("counting weights and memory"):
        plans = {stage: plan_stage(recipe, stage, len(cases), processes) for stage in stages}
    first = next(iter(plans.values()))
    what = f"{recipe.data.phantoms} generated volumes per epoch"
    if cases:
        what = f"{len(cases)} case{'s' if len(cases) > 1 else ''}"
    table = Table(title=f"{what}, on {first.device} in {first.precision}", title_justify="left")
    columns = ["stage", "clicks", "steps", "patches per step", "weights", "memory per process"]
    for column in (*columns, *(["s per step", "time"] if measure else [])):
        table.add_column(column, justify="left" if column == "clicks" else "right")
    for stage, plan in plans.items():
        cells = [
            str(stage),
            recipe.stage(stage).sampler,
            f"{plan.steps:,}",
            str(plan.patches_per_step),
            f"{plan.parameters / 1e6:.1f} million",
            f"{plan.memory_bytes / 1e9:.1f} GB",
        ]
        if measure:
            measured = measure_stage(
                recipe,
                stage,
                cases,
                processes,
                on_progress=lambda line: typer.echo(line, err=True),
                profile=profile,
            )
            cells += [f"{measured.seconds_per_step:.2f}", format_duration(plan.steps * measured.seconds_per_step)]
        table.add_row(*cells)
    Console(width=120).print(table)
    if not measure:
        typer.echo("--measure adds the time of the run; it runs a few steps, for about a minute per stage")


def _progress(console: Any, name: str) -> Any:
    """Progress of training: a bar on a terminal; elsewhere log lines, as often as `LongWork` writes them."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from gstk.training.loop import Progress
    from gstk.training.train import Report
    from gstk.training.validation import Score

    class Shown(Report):
        bar: Bar | None = None
        task: Any = None
        smooth: dict[str, float] = {}  # noqa: RUF012 - every stage replaces it
        told = 0.0

        def changed(self, changes: Sequence[str]) -> None:
            for change in changes:
                self._say(f"changed since the run began: {change}")

        def fresh(self) -> None:
            self._say("training begins with random weights, since no --init was given")

        def stopping(self, number: int) -> None:
            typer.echo("\nstopping after this step; a second signal ends it at once, without a checkpoint", err=True)

        def begin(self, stage: int, step: int, steps: int) -> None:
            self.smooth = {}
            self.began, self.first = time.monotonic(), step
            if console.is_terminal:
                columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
                self.bar = Bar(TextColumn(f"{name}, stage {stage}"), *columns, console=console)
                self.task = self.bar.add_task("", total=steps, completed=step, state="")
                self.bar.start()
            else:
                typer.echo(f"stage {stage}: step {step} of {steps}", err=True)

        def progress(self, stage: int, progress: Progress) -> None:
            for problem in progress.problems:
                self._say(f"warning: {problem}")
            for key, value in progress.values.items():
                if value == value:  # a step without a patch has no loss
                    self.smooth[key] = 0.98 * self.smooth.get(key, value) + 0.02 * value
            state = "  ".join(f"{k} {self.smooth[v]:.3f}" for k, v in _SHOWN.items() if v in self.smooth)
            last = progress.step == progress.steps
            if self.bar is not None:
                self.bar.update(self.task, completed=progress.step, state=state)
                if last:
                    self.bar.stop()
            elif last or time.monotonic() > self.told + log_interval_s(time.monotonic() - self.began):
                self.told = time.monotonic()
                rate = (self.told - self.began) / max(1, progress.step - self.first)
                left = format_duration((progress.steps - progress.step) * rate)
                self._say(f"stage {stage}: step {progress.step} of {progress.steps}  {state}  {left} left")

        def validated(self, stage: int, step: int, scores: Sequence[Score]) -> None:
            usable = [score.dice for score in scores if score.dice]
            for score in scores:
                if score.problem:
                    self._say(f"warning: {score.name} is not scored: {score.problem}")
            if usable:
                means = [sum(column) / len(usable) for column in zip(*usable, strict=True)]
                clicks = "  ".join(f"{value:.3f}" for value in means)
                self._say(f"stage {stage}, step {step}: Dice after each click {clicks} ({len(usable)} cases)")

        def _say(self, line: str) -> None:
            if self.bar is not None:
                self.bar.console.print(line, highlight=False)
            else:
                typer.echo(line, err=True)

    return Shown()


_SHOWN = {"loss": "loss", "dice": "dice", "first click": "first_dice", "s/step": "seconds"}

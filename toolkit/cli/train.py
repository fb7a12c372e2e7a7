"""`gstk train`: fit a network to cases, or to generated volumes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gstk.cli.options import needing
from gstk.errors import TrainingInterrupted

if TYPE_CHECKING:
    from gstk.training.estimate import Estimate
    from gstk.training.recipe import Recipe

__all__ = ["StageOption", "train_command"]


class StageOption(StrEnum):
    """Which of the paper's stages."""

    first = "1"
    second = "2"
    all = "all"


def train_command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of .npz cases with labels, searched with those in it; none for a recipe that generates its "
            "data.",
            show_default=False,
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/train"),
    recipe: Annotated[str, typer.Option(help="coreset, all-data, tiny, or a .toml file.")] = "coreset",
    stage: Annotated[
        StageOption, typer.Option(help="1: VISTA3D's clicks; 2: clicks by edge and centre, from stage 1's weights.")
    ] = StageOption.all,
    init: Annotated[
        Path | None, typer.Option(help="Weights to begin with: .pt, .pth or .safetensors.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe, as stage1.epochs=20."),
    ] = None,
    cases: Annotated[
        Path | None, typer.Option(help="List of the cases to train on, as gstk coreset writes it.", show_default=False)
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="List of cases to score on and not to train on.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or cuda:1 and so on.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the recipe, its steps, and the time and memory it will take.")
    ] = False,
) -> None:
    """Fit VISTA3D to cases in the paper's two stages. Several GPUs: torchrun --nproc-per-node N -m gstk train ..."""
    from rich.console import Console

    console = Console(stderr=True)
    with needing("train"), console.status("starting"):
        from gstk.training.checkpoint import load_checkpoint
        from gstk.training.data import find_cases, read_list
        from gstk.training.distributed import join_processes
        from gstk.training.recipe import load_recipe, with_settings, with_spec
        from gstk.training.train import train
    chosen = with_settings(load_recipe(recipe), settings or [])
    listed = [] if folder is None else read_list(cases, folder) if cases else find_cases(folder)
    held_out = read_list(validation, folder) if validation and folder else []
    if folder is None and (cases or validation):
        raise typer.BadParameter("a list needs the folder that its paths are in", param_hint="--cases, --validation")
    stages = (1, 2) if stage is StageOption.all else (int(stage.value),)
    processes = join_processes(device)
    try:
        if dry_run:
            if processes.is_first:
                from gstk.training.estimate import estimate_stage

                if init is not None:
                    chosen = with_spec(chosen, load_checkpoint(init)[0])
                left = len(set(listed) - set(held_out))
                with console.status("measuring"):
                    estimates = {s: estimate_stage(chosen, s, left, processes) for s in stages}
                _show_plan(chosen, left, estimates)
            return
        model = train(
            chosen, out_dir, listed, held_out, stages, init, resume, processes, _progress(console, chosen.name)
        )
        if processes.is_first:
            typer.echo(str(model))
    except TrainingInterrupted as stopped:
        if processes.is_first:
            typer.echo(f"{stopped}; go on with --resume", err=True)
        raise typer.Exit(128 + stopped.signal) from None
    finally:
        processes.leave()


def _show_plan(recipe: Recipe, cases: int, estimates: dict[int, Estimate]) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    typer.echo(json.dumps(recipe.to_dict(), indent=1))
    first = next(iter(estimates.values()))
    sides = " x ".join(map(str, first.measured))
    what = f"{cases} cases" if cases else f"{recipe.data.phantoms} generated volumes an epoch"
    table = Table(title=f"{what}; measured on {first.device} with a patch of {sides}", title_justify="left")
    for column in ("stage", "clicks", "steps", "patches a step", "weights", "s a step", "time", "memory a process"):
        table.add_column(column, justify="left" if column == "clicks" else "right")
    for stage, e in estimates.items():
        table.add_row(
            str(stage),
            recipe.stage(stage).sampler,
            f"{e.steps:,}",
            str(e.patches_per_step),
            f"{e.parameters / 1e6:.1f} M",
            f"{e.seconds_per_step:.2f}",
            _duration(e.seconds),
            f"{e.memory_bytes / 1e9:.1f} GB",
        )
    Console(width=120).print(table)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _progress(console: Any, name: str) -> Any:
    """A bar on a terminal; elsewhere a line every half minute, so that a log file stays short."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from gstk.training.loop import Progress
    from gstk.training.train import Report
    from gstk.training.validation import Score

    class Shown(Report):
        bar: Bar | None = None
        task: Any = None
        smooth: dict[str, float] = {}  # noqa: RUF012 - set anew by every stage
        told = 0.0

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
            elif last or time.monotonic() > self.told + 30:
                self.told = time.monotonic()
                rate = (self.told - self.began) / max(1, progress.step - self.first)
                left = _duration((progress.steps - progress.step) * rate)
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

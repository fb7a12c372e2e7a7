"""`gstk build`: TensorRT plans for a bundle, on this machine's GPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gstk.cli.progress import LongWork

if TYPE_CHECKING:
    from rich.progress import TaskID

    from gstk.engines.tensorrt_build import BuildStep

__all__ = ["build_command"]


def build_command(
    bundle: Annotated[
        str, typer.Argument(help="A bundle's folder, or the name of a built-in one.", show_default=False)
    ],
    precision: Annotated[
        str, typer.Option(help="Precision of the plans: fp32, fp16 or int8. auto: fp16 where the bundle has it.")
    ] = "auto",
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE,SIDE,...",
            help="Usual regions in voxels, each with kernels of its own, such as 96,128,160 or 96x128x128. Default: "
            "the network's training region, one a quarter smaller and one a quarter larger.",
            show_default=False,
        ),
    ] = None,
    wide: Annotated[
        str | None,
        typer.Option(
            metavar="LEAST:USUAL:MOST",
            help="Smallest, usual and largest side of all other regions, such as 64:128:256; none leaves them out. "
            "Default: from the smallest that the network takes to twice the usual one.",
            show_default=False,
        ),
    ] = None,
    objects: Annotated[int, typer.Option(min=1, help="Most objects that are decoded at once.")] = 8,
    points: Annotated[int, typer.Option(min=1, help="Most points of an object.")] = 32,
    level: Annotated[
        int,
        typer.Option(
            min=0, max=5, help="Optimisation level of TensorRT: a higher one builds longer and may run faster."
        ),
    ] = 3,
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="Scratch memory of one layer, MB. Default: all of the GPU's memory.")
    ] = None,
    hardware: Annotated[
        str, typer.Option(help="GPUs that the plans run on: exact (this model alone), same-capability or ampere-plus.")
    ] = "exact",
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible", help="Make plans that also run in later versions of TensorRT; they are larger."
        ),
    ] = False,
    stripped: Annotated[
        bool,
        typer.Option(
            "--stripped", help="Leave the weights out of the plans; they are read from the bundle at every load."
        ),
    ] = False,
    tf32: Annotated[
        bool,
        typer.Option("--tf32", help="Compute FP32 products in TF32, with 10 bits of mantissa: faster, less exact."),
    ] = False,
    device: Annotated[str, typer.Option(help="GPU to build on: cuda or cuda:N.")] = "cuda",
    plans: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the plans. Default: `engines` in the bundle, or the user's cache where that is read-only.",
            show_default=False,
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build plans again that exist and fit.")] = False,
) -> None:
    """Build a bundle's TensorRT plans for this GPU. It takes minutes; an interrupt loses only the plan under way."""
    from rich.table import Table

    from gstk.cli.tables import print_table
    from gstk.engines.tensorrt_build import build_plans
    from gstk.engines.tensorrt_profiles import parse_regions, parse_wide
    from gstk.engines.tensorrt_record import Settings

    with _Report() as report:
        results = build_plans(
            bundle,
            precision,
            regions=None if roi is None else parse_regions(roi),
            wide="default" if wide is None else None if wide == "none" else parse_wide(wide),
            objects=objects,
            points=points,
            settings=Settings(level, workspace_mb, hardware, version_compatible, stripped, tf32),
            device=device,
            plans=plans,
            rebuild=rebuild,
            on_progress=report.step,
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("plan", "", "seconds", "MB", "FP16", "FP32", "regions", "run MB"):
        table.add_column(heading, justify="left" if heading in ("plan", "", "regions") else "right")
    for result in results:
        record = result.plan.record
        table.add_row(
            record.kind,
            "built" if result.built else "kept",
            f"{record.seconds:.0f}",
            f"{record.size_bytes / 1e6:.0f}",
            str(record.layers["half"]),
            str(record.layers["float"]),
            "\n".join(map(str, record.profiles.ranges)),
            "\n".join(f"{size / 1e6:.0f}" for size in record.memory_bytes),
        )
    typer.echo(f"{record.model} in {record.precision} for {record.host.gpu}, TensorRT {record.host.tensorrt}")
    print_table(table)
    for result in results:
        typer.echo(result.plan.path)


class _Report:
    """Shows the progress of TensorRT: on a terminal one bar for each running phase, outer phases above inner ones.

    TensorRT does not report how long a phase will take. In a log the progress is the line of `LongWork`.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True)
        self._tasks: dict[tuple[str, str], tuple[TaskID, int]] = {}
        self._log = None if self._bars.console.is_terminal else LongWork("build")

    def __enter__(self) -> "_Report":
        if self._log is not None:
            self._log.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.__exit__(None, None, None)
        if self._bars.live.is_started:
            self._bars.stop()

    def step(self, step: "BuildStep") -> None:
        """Moves a bar; called from TensorRT's threads."""
        if self._log is not None:
            self._log.update(step.done, text=f"{step.kind}, {step.phase} {step.done} of {step.steps}")
            return
        self._bars.start()  # has no effect if the bars are already shown
        key = (step.kind, step.phase)
        if step.done == step.steps:
            task, _ = self._tasks.pop(key, (None, 0))
            if task is not None:
                self._bars.remove_task(task)
            return
        if key not in self._tasks:
            outer = self._tasks.get((step.kind, step.parent or ""))
            depth = outer[1] + 1 if outer else 0
            name = f"{'  ' * depth}{step.phase}" if depth else f"{step.kind}: {step.phase}"
            self._tasks[key] = (self._bars.add_task(name, total=step.steps), depth)
        self._bars.update(self._tasks[key][0], completed=step.done)

"""`gstk infer`: writes masks for cases."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gstk.cli.options import (
    CHALLENGE_CALLS,
    BackendOption,
    BoxOption,
    CallsOption,
    DeviceOption,
    EngineOption,
    LimitOption,
    LpsOption,
    PhaseOption,
    PointMmOption,
    PointOption,
    PrecisionOption,
    RayOption,
    SeriesOption,
    SpacingOrderOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkerGpusOption,
    WorkersOption,
    ray_workers,
    read_limit,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

    from gstk.batch.results import InferResult
__all__ = ["infer_command", "say_probe"]

_EXIT_S = 0.2
"""Seconds that a process takes to end."""


def infer_command(
    cases: Annotated[
        list[Path],
        typer.Argument(
            help="Cases (.npz), NIfTI, NRRD or MetaImage files, DICOM folders, or folders of them.", show_default=False
        ),
    ],
    point: PointOption = None,
    background: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ID:]z,y,x",
            help="Click beside an object, where the mask is wrong: voxel indices from 0. May be repeated.",
            show_default=False,
        ),
    ] = None,
    point_mm: PointMmOption = None,
    background_mm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ID:]x,y,z", help="Click beside an object, in mm: RAS. May be repeated.", show_default=False
        ),
    ] = None,
    lps: LpsOption = False,
    box: BoxOption = None,
    called: Annotated[
        list[str] | None,
        typer.Option(
            "--object",
            metavar="[ID:]NAME",
            help="Name of an object, for the mask and the picture: liver, or 2:spleen. May be repeated.",
            show_default=False,
        ),
    ] = None,
    novel: Annotated[
        bool,
        typer.Option(
            "--novel",
            help="Tell the network that the objects belong to none of its training classes (zero-shot).",
        ),
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Earlier mask of the scan to start from; clicks change it only near them.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Segment classes by name, if the weights have classes: names, ids, groups such as lung, or "
            "everything. Clicks with a class's id then correct it: --point 3:z,y,x.",
            show_default=False,
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("gstk-results"),
    name: Annotated[
        str,
        typer.Option(
            help="File name of a result without its suffix; {stem} stands for the name of the case. The challenge "
            "requires '{stem}'."
        ),
    ] = "{stem}_mask",
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of the results: nii.gz, nii, nrrd, mha, npz, or seg.nrrd, a segmentation of 3D Slicer with "
            "names and colours. Default: that of the case, and nii.gz for DICOM.",
            show_default=False,
        ),
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write a picture of three slices through each object.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results of an earlier run.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an interrupted run: keep finished results that were made of the same input, settings and "
            "bundle.",
        ),
    ] = False,
    bundle: Annotated[str, typer.Option(help="A bundle's folder, or the name of a built-in one.")] = "tiny",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: EngineOption = None,
    budget: LimitOption = None,
    calls: CallsOption = None,
    window: Annotated[
        str,
        typer.Option(
            help="Intensity window of volumes other than .npz, for networks whose input is 0 to 255: auto, soft, lung, "
            "brain, bone, percentile, or width,level in HU."
        ),
    ] = "auto",
    assume_window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|W,L|hu",
            help="For networks whose input is HU: the CT window that mapped the image to 0 to 255, to invert it, with "
            "loss; hu if the image is in HU.",
            show_default=False,
        ),
    ] = None,
    spacing_order: Annotated[
        SpacingOrderOption, typer.Option(help="Axis order of the spacing in .npz cases.")
    ] = SpacingOrderOption.zyx,
    series: SeriesOption = None,
    phase: PhaseOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    worker_gpus: WorkerGpusOption = None,
) -> None:
    """Segment the clicked or boxed objects of each case. A case that fails does not stop the others."""
    from contextlib import nullcontext
    from functools import partial

    import gstk
    from gstk.batch.infer import infer
    from gstk.cli.progress import LongWork
    from gstk.cli.prompt_options import read_names, read_places, read_prompts
    from gstk.engines.options import parse_assignments
    from gstk.session.deadline import Budget, process_age_s

    cluster = ray_workers(ray, workers, worker_cpus, worker_gpus)
    if cluster is not None and threads is None and not worker_gpus:
        threads = max(1, int(cluster.cpus))
    prompts = read_prompts(point or [], background or [], box or [])
    placed = read_places(point_mm or [], background_mm or [], lps)
    budget_s = read_limit(budget)
    shared = None if budget_s is None else Budget(budget_s, calls or 1)
    windows = nullcontext() if classes is None else LongWork("classes", unit="windows")
    shows_budget = budget is not None or calls is not None
    with _said_on_interrupt(), _Report(shows_budget, classes is None) as report, windows as progress:
        results = infer(
            partial(
                gstk.open,
                bundle,
                backend,
                threads,
                precision,
                device,
                parse_assignments(engine or []),
                budget_s=budget_s,
                calls=calls or 1,
                clicks_later=classes is not None and not prompts and not placed,
                on_progress=say_probe,
            ),
            cases,
            out_dir,
            name=name,
            format=format,
            prompts=prompts,
            points_mm=placed,
            novel=novel,
            object_names=read_names(called or []),
            start_mask=start,
            overlay=overlay,
            overwrite=overwrite,
            resume=resume,
            intensity_window=window,
            assume_window=assume_window,
            classes=[name.strip() for name in (classes or "").split(",") if name.strip()],
            spacing_order=spacing_order.order,
            series=series,
            phase=phase,
            budget=shared,
            is_firm=budget is not None,
            npz_calls=CHALLENGE_CALLS if budget is None and calls is None else None,
            started_s=process_age_s() + _EXIT_S,
            workers=cluster,
            on_result=report.add,
            on_window=None if progress is None else progress.update,
        )
    failed = sum(result.error is not None for result in results)
    if len(results) > 1:
        before = sum(result.finished_before for result in results)
        earlier = f", {before} of them by an earlier run" if before else ""
        typer.echo(f"{len(results) - failed} of {len(results)} segmented{earlier}")
    if failed:
        raise typer.Exit(1)


@contextmanager
def _said_on_interrupt() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("what is finished stays; the same command with --resume goes on", err=True)
        raise


def say_probe(reason: str) -> None:
    """Prints the reason why the latency is probed."""
    typer.echo(f"{reason}; probing this machine for about 2 s, once", err=True)


class _Report:
    """Prints each case when it is finished, above a progress bar if there are several cases."""

    def __init__(self, shows_budget: bool, shows_cases: bool) -> None:
        """Prepares the display; it shows nothing yet.

        Args:
            shows_budget: whether to show where the time went for every case. False shows it for those alone in which
                a step was skipped to stay in time.
            shows_cases: whether the bar counts cases. False with class prompts: their own bar counts windows, and a
                terminal can show only one bar.
        """
        from rich.console import Console
        from rich.progress import Progress

        self._shows_budget, self._shows_cases = shows_budget, shows_cases
        self._bar = Progress(console=Console(stderr=True, markup=False, emoji=False), transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> "_Report":
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._bar.stop()

    def add(self, result: "InferResult", total: int) -> None:
        """Prints one result and updates the bar."""
        from gstk.cli.streams import printable

        if self._shows_cases and total > 1 and self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("cases", total=total)
        for warning in result.warnings:
            typer.echo(printable(f"{result.source}: warning: {warning}"), err=True)
        if result.error is not None:
            typer.echo(printable(f"{result.source}: {result.error}"), err=True)
        elif result.finished_before:
            typer.echo(printable(f"{result.output} is finished already"))
        else:
            self._show(result)
        if self._task is not None:
            self._bar.advance(self._task)

    def _show(self, result: "InferResult") -> None:
        from rich.table import Table

        from gstk.cli.budget_words import call_line, compromise_lines
        from gstk.cli.streams import printable
        from gstk.cli.tables import print_table

        table = Table(title=printable(result.source.name), title_justify="left")
        one_by_one = any(entry.seconds for entry in result.objects)  # not so for classes, which share their windows
        for heading in ("object", "voxels", "millilitres", *(["seconds"] if one_by_one else [])):
            table.add_column(heading, justify="right")
        for entry in result.objects:
            seconds = [f"{entry.seconds:.2f}"] if one_by_one else []
            called = f"{entry.object_id} {entry.name}".strip()
            table.add_row(called, f"{entry.voxels:,}", f"{entry.volume_ml:.2f}", *seconds)
        print_table(table)
        if not one_by_one:
            typer.echo(f"time       {result.seconds:.1f} s, reading and writing included")
        report, budget = result.report, result.budget
        if (
            budget is not None
            and report is not None
            and report.budget_s is not None
            and (self._shows_budget or report.compromises)
        ):
            if self._shows_cases:
                typer.echo(call_line(budget, len(result.objects), report.budget_s, "start, read and write"))
                typer.echo(f"masks      {report.spent_s:.1f} s, expected {report.expected_s:.1f} s")
            else:
                typer.echo(f"masks      {report.spent_s:.1f} s of {report.budget_s:.1f} s that all classes had")
            for line in compromise_lines(report.compromises):
                typer.echo(line)
            if report.compromises and not self._shows_budget:
                typer.echo("           --budget none takes the time that it needs")
        typer.echo(f"image      {result.intensities}")
        typer.echo(printable(f"mask       {result.output}"))
        if result.overlay:
            typer.echo(printable(f"overlay    {result.overlay}"))

"""`gstk infer`: masks for cases."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gstk.cli.options import SpacingOrderOption

if TYPE_CHECKING:
    from rich.progress import TaskID

    from gstk.inference import InferResult
    from gstk.prompts import ObjectPrompts

__all__ = ["infer_command"]


def infer_command(
    cases: Annotated[
        list[Path],
        typer.Argument(
            help=".npz cases, NIfTI, NRRD or MetaImage files, DICOM folders, or folders of them.", show_default=False
        ),
    ],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("gstk-results"),
    bundle: Annotated[str, typer.Option(help="A bundle's folder, or the name of a built-in one.")] = "tiny",
    backend: Annotated[str, typer.Option(help="auto, or one that gstk engines lists.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, or another that the bundle holds, such as int8.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.", show_default=False)] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(help="A click on the object, [ID:]z,y,x in voxels. May be repeated.", show_default=False),
    ] = None,
    background: Annotated[
        list[str] | None,
        typer.Option(help="A click beside the object, [ID:]z,y,x. May be repeated.", show_default=False),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(help="The object's first and last voxel, [ID:]z0,y0,x0,z1,y1,x1.", show_default=False),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write a picture of three slices.")] = False,
    window: Annotated[
        str,
        typer.Option(
            help="Intensities of volumes that are not .npz: auto, soft, lung, brain, bone, percentile or width,level."
        ),
    ] = "auto",
    spacing_order: Annotated[
        SpacingOrderOption, typer.Option(help="Axis order of the spacing in .npz cases.")
    ] = SpacingOrderOption.zyx,
) -> None:
    """Segment what was clicked or boxed in each case; one case that fails does not stop the others."""
    import gstk
    from gstk.inference import infer

    prompts = _prompts(point or [], background or [], box or [])
    order = spacing_order.value
    with gstk.open(bundle, backend, threads, precision) as session, _Report() as report:
        results = infer(
            session,
            cases,
            out_dir,
            prompts=prompts,
            overlay=overlay,
            window=window,
            spacing_order="xyz" if order == "xyz" else "zyx",
            on_result=report.add,
        )
    failed = sum(result.error is not None for result in results)
    if len(results) > 1:
        typer.echo(f"{len(results) - failed} of {len(results)} segmented")
    if failed:
        raise typer.Exit(1)


class _Report:
    """Prints each case as it is done, above a progress bar where there are several."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._console = Console()
        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> "_Report":
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._bar.stop()

    def add(self, result: "InferResult", total: int) -> None:
        """Shows one result and moves the bar."""
        if total > 1 and self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("cases", total=total)
        for warning in result.warnings:
            typer.echo(f"{result.source}: warning: {warning}", err=True)
        if result.error is not None:
            typer.echo(f"{result.source}: {result.error}", err=True)
        else:
            self._show(result)
        if self._task is not None:
            self._bar.advance(self._task)

    def _show(self, result: "InferResult") -> None:
        from rich.table import Table

        table = Table(title=result.source.name, title_justify="left")
        for heading in ("object", "voxels", "millilitres", "seconds"):
            table.add_column(heading, justify="right")
        for entry in result.objects:
            table.add_row(str(entry.object_id), f"{entry.voxels:,}", f"{entry.volume_ml:.2f}", f"{entry.seconds:.2f}")
        self._console.print(table)
        typer.echo(f"mask     {result.output}")
        if result.overlay:
            typer.echo(f"overlay  {result.overlay}")


def _prompts(points: list[str], background: list[str], boxes: list[str]) -> "dict[int, ObjectPrompts]":
    from dataclasses import replace

    from gstk.errors import PromptError
    from gstk.inference import parse_point_option
    from gstk.prompts import Box, ObjectPrompts, Point

    found: dict[int, ObjectPrompts] = {}
    for texts, foreground in ((points, True), (background, False)):
        for text in texts:
            object_id, (z, y, x) = parse_point_option(text)
            before = found.get(object_id, ObjectPrompts())
            point = Point((round(z), round(y), round(x)), foreground)
            if replace(point, foreground=not foreground) in before.points:
                raise PromptError(f"got {point.zyx} on and beside object {object_id}, expected one of the two")
            found[object_id] = ObjectPrompts((*before.points, point), before.box)
    for text in boxes:
        object_id, corners = parse_point_option(text, numbers=6)
        before = found.get(object_id, ObjectPrompts())
        if before.box is not None:
            raise PromptError(
                f"got two boxes for object {object_id}, expected one; write ID: in front for another object"
            )
        found[object_id] = ObjectPrompts(before.points, Box.from_corners((corners[:3], corners[3:])))
    return found

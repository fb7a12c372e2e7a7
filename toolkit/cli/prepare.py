"""`gstk prepare`: makes .npz cases from clinical and research volumes."""

from pathlib import Path
from typing import Annotated

import typer

from gstk.cli.options import PhaseOption, SeriesOption, SpacingOrderOption
from gstk.cli.progress import LongWork

__all__ = ["prepare_command"]


def prepare_command(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="NIfTI, NRRD, MetaImage or .npz files, DICOM folders, or folders of them.", show_default=False
        ),
    ],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder for the .npz cases.", show_default=False)],
    window: Annotated[
        str,
        typer.Option(
            help="Intensity window: auto, percentile, soft, lung, brain, bone, or width,level in HU (--window=400,-40)."
        ),
    ] = "auto",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Label map of the source; for several sources a folder with a label map of the same name for each."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Input profile of the network that the cases are for: one in HU keeps HU, one with named classes the "
            "label ids, one in RAS turns the axes. Default: 0 to 255.",
            show_default=False,
        ),
    ] = None,
    spacing_order: Annotated[
        SpacingOrderOption, typer.Option(help="Axis order of the spacing in .npz sources.")
    ] = SpacingOrderOption.zyx,
    series: SeriesOption = None,
    phase: PhaseOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace cases that are there.")] = False,
) -> None:
    """Make .npz cases from volumes: intensities become 0 to 255, label maps become classes and boxes."""
    from gstk.cases.prepare import prepare
    from gstk.core.profile import find_profile

    with LongWork("prepare", unit="sources") as progress:
        results = prepare(
            sources,
            out_dir,
            window,
            labels,
            spacing_order.order,
            series=series,
            phase=phase,
            profile=None if profile is None else find_profile(profile),
            overwrite=overwrite,
            on_progress=lambda done, total, source: progress.update(done, total, source.name if source else ""),
        )
    for result in results:
        for warning in result.warnings:
            typer.echo(f"{result.source}: warning: {warning}", err=True)
        if result.error is not None:
            typer.echo(f"{result.source}: {result.error}", err=True)
            continue
        ids = ", ".join(f"{old} -> {new}" for old, new in result.label_ids.items())
        typer.echo(f"{result.output}: {result.intensities}{'; labels ' + ids if ids else ''}")
    failed = sum(result.error is not None for result in results)
    typer.echo(f"{len(results) - failed} of {len(results)} prepared")
    if failed:
        raise typer.Exit(1)

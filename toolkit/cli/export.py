"""`gstk export`: make a bundle of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from gstk.cli.options import needing

__all__ = ["export_command"]


def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="VISTA3D weights: .pt, .pth or .safetensors.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle.", show_default=False)],
    name: Annotated[
        str | None, typer.Option(help="Name of the model; the checkpoint's file name otherwise.", show_default=False)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, such as CC-BY-4.0.", show_default=False)
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Region it was trained on, in voxels; 128,128,128 otherwise."),
    ] = None,
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="Store weights as float16; they must be exact in it.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Make a bundle of a checkpoint: two ONNX graphs that agree with torch, and a manifest."""
    default_roi = None if roi is None else _sides(roi)
    with needing("export"):
        from gstk.export.export import UNKNOWN_LICENCE, export_bundle
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)
    with console.status("starting") as status:
        bundle = export_bundle(
            checkpoint,
            output,
            name=name,
            licence=licence,
            default_roi=default_roi,
            half_weights=half_weights,
            overwrite=overwrite,
            progress=status.update,
        )
    parity = bundle.manifest.parity
    table = Table(title=f"agreement with {parity['reference']}", title_justify="left")
    for column in ("engine", "version", "largest error", "allowed", "equal voxels"):
        table.add_column(column, justify="left" if column in ("engine", "version") else "right")
    for engine, result in parity["engines"].items():
        table.add_row(
            engine,
            result["version"],
            f"{result['max_abs_error']:.1e}",
            f"{parity['tolerance']:.1e}",
            f"{result['mask_agreement']:.4%}",
        )
    console.print(table)
    if bundle.manifest.licence == UNKNOWN_LICENCE:
        typer.echo("warning: the licence of the weights is recorded as unknown; state it with --licence", err=True)
    typer.echo(f"{bundle.path}: {bundle.manifest.name}, {bundle.size_bytes / 1e6:.1f} MB")


def _sides(text: str) -> list[int]:
    try:
        sides = [int(side) for side in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 3:
        raise typer.BadParameter(f"got {text!r}, expected three whole numbers, as in 128,128,128", param_hint="--roi")
    return sides

"""`gstk calibrate`: measures the time and memory that a bundle needs on this host."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gstk.cli.options import BackendOption, DeviceOption, EngineOption, PrecisionOption, ThreadsOption
from gstk.cli.progress import LongWork

if TYPE_CHECKING:
    from gstk.calibration import LatencyModel

__all__ = ["calibrate_command"]


def calibrate_command(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or the name of a built-in one.")] = "tiny",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: EngineOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure for 20 seconds instead of 3 minutes; less exact.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write a PNG that shows measured seconds against the fitted model.", show_default=False),
    ] = None,
) -> None:
    """Measure how long a bundle takes on this host, and how much memory, and keep the result for `--budget`."""
    from gstk.calibration import measure, save_model
    from gstk.calibration.measure import FULL_S, QUICK_S
    from gstk.calibration.plot import plot_fit
    from gstk.core.bundle import Bundle, find_bundle
    from gstk.engines.options import parse_assignments

    opened = Bundle.open(find_bundle(bundle))
    with LongWork("calibrate", total=1.0) as progress:
        model, measurements = measure(
            opened,
            backend=backend,
            precision=precision,
            device=device,
            threads=threads,
            options=parse_assignments(engine or []),
            seconds=QUICK_S if quick else FULL_S,
            on_progress=lambda share, text: progress.update(share, text=text),
        )
    _show(model)
    if plot is not None:
        plot_fit(model, measurements, plot)
        typer.echo(f"plot   {plot}")
    typer.echo(f"model  {save_model(model)}")


def _show(model: "LatencyModel") -> None:
    from rich.table import Table

    from gstk.cli.tables import print_table

    host = model.host
    typer.echo(f"{model.bundle}: {host.backend} {host.version}, {host.precision}, {host.device}, {host.cores} cores")
    typer.echo(f"a process starts in {model.startup_s:.1f} s, {model.load_s:.1f} s of it to open the bundle")
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = ["region", "first encode", "encode", "first click", "click"]
    headings += ["classes"] if model.has_classes else []
    for heading in (*headings, "memory"):
        table.add_column(heading, justify="right")
    extrapolated = False
    sides = [32, 64, 96, 128, 160, 192]
    for side in sides:
        if side**3 > 8 * model.largest_voxels:
            break
        shape = (side,) * 3
        seconds = [
            model.encode_s(shape, first=True),
            model.encode_s(shape),
            model.decode_s(shape, first=True),
            model.decode_s(shape),
            *([model.classes_s(shape)] if model.has_classes else []),
        ]
        peak_bytes = max(model.peak_bytes(shape), model.class_peak_bytes(shape))
        beyond = "*" if side**3 > model.largest_voxels else ""
        extrapolated = extrapolated or bool(beyond)
        table.add_row(f"{side}³{beyond}", *(f"{value:.2f} s" for value in seconds), f"{peak_bytes / 1e9:.1f} GB")
    print_table(table)
    if model.has_classes:
        typer.echo(f"the graph for classes takes {model.class_load_s:.1f} s to load, at the first class prompt")
    if extrapolated:
        typer.echo("* larger than any region that was measured: the fit is extrapolated")
    errors = ", ".join(f"{kind.replace('_', ' ')} {100 * fit.median_error:.0f} %" for kind, fit in model.fits.items())
    typer.echo(f"median error of the fit: {errors}")

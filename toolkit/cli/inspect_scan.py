"""`gstk inspect SCAN`: describes a scan, and writes a picture that shows the voxel coordinates for clicks."""

import warnings
from pathlib import Path

import numpy as np
import typer

__all__ = ["inspect_scan", "is_scan"]


def is_scan(path: Path) -> bool:
    """Whether a path is a scan or a case, and not a bundle."""
    from gstk.cases.volumes import is_volume

    if not path.exists() or (path / "manifest.json").exists():
        return False
    return path.suffix.lower() == ".npz" or is_volume(path)


def inspect_scan(path: Path, sheet: Path | None, overwrite: bool, series: str | None, phase: int | None) -> None:
    """Prints shape, spacing, orientation and intensities, and writes a contact sheet.

    Args:
        path: a scan or .npz case.
        sheet: file of the picture; None writes `<name>_sheet.png` to the working folder.
        overwrite: whether to replace an existing picture.
        series, phase: as in `gstk.cases.volumes.read_volume`.

    Raises:
        CaseError: the scan cannot be read.
        OutputError: the picture already exists, or cannot be written.
    """
    from rich.table import Table

    from gstk.cases.contact_sheet import orientation_words, save_contact_sheet
    from gstk.cases.reading import read_case
    from gstk.cli.tables import print_table
    from gstk.core.files import refuse_existing
    from gstk.core.intensities import choose_limits, window_image

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case = read_case(path, "auto", "zyx", series, phase)
        image, geometry = case.image, case.geometry
        _, words = choose_limits(image, case.modality, "auto")
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    low, high = geometry.voxel_to_mm([[0, 0, 0], [n - 1 for n in geometry.shape]]) * [-1, -1, 1]
    table.add_row("scan", f"{case.name}{'' if case.modality is None else f', {case.modality}'}")
    table.add_row("shape", f"{geometry.shape} voxels (z, y, x), {image.dtype}, {image.nbytes / 1e6:.1f} MB")
    table.add_row("spacing", " × ".join(f"{s:.3g}" for s in geometry.spacing_mm) + " mm (z, y, x)")
    table.add_row("axes", orientation_words(geometry))
    table.add_row("first voxel", "RAS " + ", ".join(f"{v:.1f}" for v in low) + " mm")
    table.add_row("last voxel", "RAS " + ", ".join(f"{v:.1f}" for v in high) + " mm")
    quantiles = np.percentile(image[:: max(1, len(image) // 64)], [1, 50, 99])
    spread = ", ".join(f"{v:.5g}" for v in quantiles)
    table.add_row("intensities", f"{image.min():g} to {image.max():g}; percentiles 1, 50 and 99: {spread}")
    table.add_row("0 to 255", words)
    print_table(table)
    target = Path(f"{case.name}_sheet.png") if sheet is None else sheet
    refuse_existing([target], overwrite, "another --sheet")
    save_contact_sheet(target, window_image(image, case.modality)[0], geometry)
    typer.echo(f"sheet        {target}")

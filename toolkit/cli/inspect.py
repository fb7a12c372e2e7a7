"""`gstk inspect`: what a bundle or a scan is, in one screen."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gstk.cli.options import PhaseOption, SeriesOption

__all__ = ["inspect_command"]


def inspect_command(
    path: Annotated[
        str, typer.Argument(help="A bundle's folder, the name of a built-in one, a scan, a DICOM folder or a case.")
    ] = "tiny",
    sheet: Annotated[
        Path | None,
        typer.Option(help="Where a scan's contact sheet goes; NAME_sheet.png here.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a contact sheet that is there.")] = False,
    series: SeriesOption = None,
    phase: PhaseOption = None,
) -> None:
    """Describe a bundle (model, licence, input, graphs, parity), or a scan, with slices to read clicks off."""
    from gstk.cli.inspect_scan import inspect_scan, is_scan

    if is_scan(Path(path)):
        inspect_scan(Path(path), sheet, overwrite, series, phase)
        return
    from rich.table import Table

    from gstk.cli.export import report_lines
    from gstk.cli.tables import print_table
    from gstk.core.bundle import Bundle, find_bundle

    opened = Bundle.open(find_bundle(path))
    manifest, roi, shape = opened.manifest, opened.manifest.roi, opened.manifest.architecture
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("model", f"{manifest.name}, licence {manifest.licence}, by {manifest.created_by}")
    table.add_row("folder", f"{opened.path}, {opened.size_bytes / 1e6:.1f} MB, hashes agree")
    table.add_row("network", ", ".join(f"{key} {value}" for key, value in shape.items()))
    table.add_row(
        "regions",
        f"sides multiples of {roi.multiple} from {roi.minimum} on, {'×'.join(map(str, roi.default))} by default, "
        f"{roi.max_voxels / 1e6:.1f} M voxels at most",
    )
    for what, words in manifest.profile.lines():
        table.add_row(what, words)
    for kind, graphs in manifest.graphs.items():
        sizes = (f"{p} ({manifest.files[name].size_bytes / 1e6:.2f} MB)" for p, name in graphs.items())
        table.add_row(kind, ", ".join(sizes))
    for precision, found in manifest.parity.get("precisions", {}).items():
        worst = max(result["max_abs_error"] for result in found["engines"].values())
        least = min(result["mask_agreement"] for result in found["engines"].values())
        table.add_row(
            f"{precision} parity",
            f"logits within {worst:.1e}, masks equal on {least:.4%} ({', '.join(found['engines'])}; reference "
            f"{manifest.parity['reference']})",
        )
    for line in report_lines(manifest.reports):
        precision, words = line.split(": ", 1)
        table.add_row(f"{precision} report", words)
    table.add_row("training", _training(manifest.training))
    print_table(table)


def _training(values: Mapping[str, Any]) -> str:
    """Name and numbers of a training; the whole recipe is in the manifest."""
    words = []
    for key, value in values.items():
        if key == "recipe":
            recipe = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
            value = recipe.get("name", "unnamed") if isinstance(recipe, dict) else recipe
        if isinstance(value, str | int | float):
            words.append(f"{key} {value}")
    return ", ".join(words) or "nothing is recorded"

"""`gstk inspect`: describes a bundle or a scan on one screen."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gstk.cli.options import PhaseOption, SeriesOption

if TYPE_CHECKING:
    from gstk.core.profile import InputProfile

__all__ = ["inspect_command"]


def inspect_command(
    path: Annotated[
        str,
        typer.Argument(
            help="A bundle's folder, the name of a built-in one, a scan, a DICOM folder, a case, or a segmentation of "
            "3D Slicer (.seg.nrrd)."
        ),
    ] = "tiny",
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="File for a scan's contact sheet. Default: NAME_sheet.png in this folder.", show_default=False
        ),
    ] = None,
    classes: Annotated[
        bool, typer.Option("--classes", help="List the classes that a bundle's network segments by name.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing contact sheet.")] = False,
    series: SeriesOption = None,
    phase: PhaseOption = None,
) -> None:
    """Describe a bundle (model, licence, input, graphs, parity), or a scan, with slices to read clicks off."""
    from gstk.cases.segmentation import is_segmentation
    from gstk.cases.volumes import VOLUME_SUFFIXES
    from gstk.cli.inspect_scan import inspect_scan, is_scan

    if is_segmentation(Path(path)):
        _list_segments(Path(path))
        return
    if is_scan(Path(path)):
        inspect_scan(Path(path), sheet, overwrite, series, phase)
        return
    from rich.table import Table

    from gstk.cli.export import report_lines
    from gstk.cli.tables import print_table
    from gstk.core.bundle import Bundle, find_bundle
    from gstk.errors import CaseError

    if not Path(path).exists() and (
        path.lower().endswith((*VOLUME_SUFFIXES, ".npz", ".dcm")) or len(Path(path).parts) > 1
    ):
        raise CaseError(f"{path} does not exist; check the path")
    found = find_bundle(path)
    if not (found / "manifest.json").is_file():
        what = "a file" if found.is_file() else "a folder"
        raise CaseError(
            f"got {found} ({what}), expected a scan, a folder with the slices of one DICOM series, a case, or a bundle"
        )
    opened = Bundle.open(found)
    manifest, roi, shape = opened.manifest, opened.manifest.roi, opened.manifest.architecture
    if classes:
        _list_classes(manifest.profile)
        return
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


def _list_classes(profile: "InputProfile") -> None:
    from gstk.errors import ProfileError

    if "classes" not in profile.branches:
        raise ProfileError(f"the profile {profile.name} has no class prompts; its objects are clicked or boxed")
    table = profile.classes
    for class_id, name in sorted(table.names.items()):
        what = ""
        if class_id in table.groups:
            what = f"  stands for {', '.join(table.name_of(k) for k in table.groups[class_id])}"
        elif class_id in table.untrained:
            what = "  not trained"
        typer.echo(f"{class_id:3d}  {name}{what}")
    for name, ids in table.sets.items():
        typer.echo(f"{name}: {len(ids)} classes")


def _list_segments(path: Path) -> None:
    """Prints the labels of a 3D Slicer segmentation with their names and sizes."""
    import numpy as np
    from rich.table import Table

    from gstk.cases.segmentation import read_segmentation
    from gstk.cli.tables import print_table

    labels, geometry, names = read_segmentation(path)
    table = Table(title=path.name, title_justify="left")
    for heading in ("label", "name", "colour", "voxels", "millilitres"):
        table.add_column(heading, justify="left" if heading in ("name", "colour") else "right")
    sizes = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    for label in sorted({*(int(k) for k in sizes if k), *names}):
        size = int(sizes.get(label, 0))
        name, colour = names.get(label, ("", ()))
        table.add_row(
            str(label), name, " ".join(map(str, colour)), f"{size:,}", f"{size * geometry.volume_mm3 / 1000:.2f}"
        )
    print_table(table)


def _training(values: Mapping[str, Any]) -> str:
    """Name and settings of a training run in one line; the manifest holds the full recipe."""
    words = []
    for key, value in values.items():
        if key == "recipe":
            recipe = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
            value = recipe.get("name", "unnamed") if isinstance(recipe, dict) else recipe
        if isinstance(value, str | int | float):
            words.append(f"{key} {value}")
    return ", ".join(words) or "nothing is recorded"

"""`gstk phantom`: generates a case for first trials."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["phantom_command"]


def phantom_command(
    output: Annotated[Path, typer.Argument(help="File of the .npz case.", show_default=False)],
    seed: Annotated[int, typer.Option(min=0, help="Random seed: the same seed gives the same case.")] = 0,
    kind: Annotated[
        str, typer.Option(help="What is in it: organs, blobs, cells, nuclei, hot-spots, nested-tubes or sheets.")
    ] = "organs",
    side: Annotated[int, typer.Option(min=16, help="Number of voxels along each axis.")] = 96,
    objects: Annotated[int, typer.Option(min=1, help="Number of objects to click on, the largest first.")] = 3,
    boxes: Annotated[bool, typer.Option("--boxes", help="Add each object's bounding box to its click.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Generate a case with clicks and true masks, for a first run without data."""
    from gstk.cases.npz import save_case
    from gstk.cases.phantom_case import phantom_case
    from gstk.core.files import make_folder, refuse_existing
    from gstk.errors import CaseError

    if output.suffix.lower() != ".npz":
        raise CaseError(f"got {output}, expected a name that ends in .npz")
    refuse_existing([output], overwrite, "another name")
    case = phantom_case(seed, side, kind, objects, boxes)
    make_folder(output.parent)
    save_case(output, case)
    shape = " x ".join(str(n) for n in case.geometry.shape)
    found = len(case.prompts)
    typer.echo(f"{output}: a generated phantom ({kind}, seed {seed}), {shape} voxels, not a scan of anyone")
    if found < objects:
        typer.echo(f"warning: it holds {found} objects, not {objects}", err=True)

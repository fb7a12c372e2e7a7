"""`gstk coreset`: chooses a share of the cases for training."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["coreset_command"]


def coreset_command(
    folder: Annotated[
        Path, typer.Argument(help="Folder of .npz cases; its subfolders are searched, too.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the list.")] = Path("coreset.txt"),
    fraction: Annotated[float, typer.Option(help="Share of the cases to choose, above 0 and at most 1.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed: the same seed and files give the same list.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a list that is there.")] = False,
) -> None:
    """Choose a random share of the cases, and write it as a list for `gstk train --cases`."""
    from gstk.cli.options import needing

    with needing("train"):
        from gstk.training.coreset import choose_coreset, write_list
    from gstk.core.files import make_folder, refuse_existing

    refuse_existing([output], overwrite, "another --output")
    chosen = choose_coreset(folder, fraction, seed)
    make_folder(output.parent)
    write_list(output, chosen, folder, f"gstk coreset --fraction {fraction} --seed {seed}")
    typer.echo(f"{output}: {len(chosen)} cases")

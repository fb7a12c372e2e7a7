"""`gstk check`: tests whether a bundle matches its manifest and whether every runtime can load it."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["check_command"]


def check_command(
    bundle: Annotated[
        str, typer.Argument(help="A bundle's folder, or the name of a built-in one.", show_default=False)
    ],
    parity: Annotated[
        bool,
        typer.Option("--parity", help="Also run the bundle's test vectors through every engine that is installed."),
    ] = False,
) -> None:
    """Check a bundle's hashes, schema, licence, operators, types and sizes. The exit code is 1 if a check fails."""
    from rich.console import Console
    from rich.text import Text

    from gstk.cli.options import needing
    from gstk.core.bundle import find_bundle

    with needing("check"):
        from gstk.export.check import check_bundle

    console = Console(stderr=True)
    failed = 0
    with console.status("starting") as status:
        for finding in check_bundle(Path(find_bundle(bundle)), parity, status.update):
            failed += not finding.ok
            mark = Text("ok    ", "green") if finding.ok else Text("FAILED", "bold red")
            line = Text.assemble(mark, f"  {finding.what}: ", (finding.detail, "" if finding.ok else "bold"))
            console.print(line, soft_wrap=True)
    typer.echo(f"{bundle}: {f'{failed} checks failed' if failed else 'every check passed'}")
    if failed:
        raise typer.Exit(1)

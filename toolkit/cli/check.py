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
        typer.Option("--parity", help="Also run the bundle's test vectors in every installed engine."),
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Instead measure the loss of Dice of a precision without graphs of its own: bf16. Needs --cases. The "
            "result is kept; --precision auto may then use bf16 where gstk calibrate finds it faster.",
            show_default=False,
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(help="Folder of labelled .npz cases that the weights were not trained on.", show_default=False),
    ] = None,
    assume_window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|W,L|hu",
            help="For networks whose input is HU: the CT window that mapped the cases to 0 to 255.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a bundle's hashes, schema, licence, operators, types and sizes. The exit code is 1 if a check fails."""
    if precision is not None or cases is not None:
        _check_precision(bundle, precision, cases, assume_window)
        return
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


def _check_precision(name: str, precision: str | None, cases: Path | None, assume_window: str | None) -> None:
    from gstk.calibration.quality import MOST_DROP
    from gstk.cli.progress import LongWork
    from gstk.core.bundle import Bundle, find_bundle
    from gstk.errors import CaseError, EngineError
    from gstk.evaluation.precision_check import check_precision

    if precision is None or cases is None:
        raise EngineError("got --precision or --cases alone, expected both: masks are compared on labelled cases")
    if precision != "bf16":
        raise EngineError(
            f"got --precision {precision}, expected bf16; what int8 and fp16 cost is measured by gstk export"
        )
    paths = sorted(cases.glob("*.npz"))
    if not paths:
        raise CaseError(f"got no .npz case in {cases}, expected labelled ones")
    bundle = Bundle.open(find_bundle(name))
    with LongWork("check", unit="cases") as work:
        quality = check_precision(bundle, precision, paths, assume_window=assume_window, on_progress=work.step)
    verdict = "accepted" if quality.is_accepted else "too much for --precision auto"
    typer.echo(
        f"{name}: {precision} costs {quality.drop:.4f} of Dice, {quality.dice:.4f} where fp32 has "
        f"{quality.dice_fp32:.4f}, on {quality.cases} cases; at most {MOST_DROP} is accepted: {verdict}"
    )
    if not quality.is_accepted:
        raise typer.Exit(1)

"""The command line: one file for each command, which does little more than call a public function."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from gstk._version import __version__
from gstk.cli.build import build_command
from gstk.cli.calibrate import calibrate_command
from gstk.cli.check import check_command
from gstk.cli.cmake_dir import cmake_dir_command
from gstk.cli.compare import compare_command
from gstk.cli.coreset import coreset_command
from gstk.cli.engines import engines_command
from gstk.cli.evaluate import evaluate_command
from gstk.cli.export import export_command
from gstk.cli.infer import infer_command
from gstk.cli.inspect import inspect_command
from gstk.cli.phantom import phantom_command
from gstk.cli.plan import plan_command
from gstk.cli.prepare import prepare_command
from gstk.cli.serve import serve_command
from gstk.cli.streams import FAILED_WRITES, give_up_stdout, open_standard_streams
from gstk.cli.train import train_command
from gstk.errors import GstkError

__all__ = ["app", "main"]

app = typer.Typer(
    name="gstk",
    help="Click in a 3D medical image and get a mask: VISTA3D from fine-tuning to deployment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Segment": {
        "infer": infer_command,
        "serve": serve_command,
        "plan": plan_command,
        "prepare": prepare_command,
        "phantom": phantom_command,
    },
    "Evaluate": {
        "evaluate": evaluate_command,
        "compare": compare_command,
    },
    "Train and export": {
        "train": train_command,
        "coreset": coreset_command,
        "export": export_command,
    },
    "Bundles and engines": {
        "inspect": inspect_command,
        "check": check_command,
        "engines": engines_command,
        "calibrate": calibrate_command,
        "build": build_command,
        "cmake-dir": cmake_dir_command,
    },
}
for _panel, _commands in _PANELS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gstk {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Entry point. A gstk error is printed in one line, with exit code 1; an interrupt has exit code 130."""
    open_standard_streams()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    warnings.showwarning = lambda message, *_: typer.echo(f"warning: {message}", err=True)
    from gstk.engines.failures import memory_errors

    try:
        with memory_errors("do that"):
            app()
    except GstkError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is not None or error.errno not in FAILED_WRITES:
            raise
        give_up_stdout()  # or Python would try once more to write what is left, and complain
        typer.echo(f"error: cannot print to stdout: {error.strerror}; files are as they were said to be", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)

"""`gstk engines`: what can run a bundle here."""

import typer

__all__ = ["engines_command"]


def engines_command() -> None:
    """List the backends: version, devices and precisions of those that are here, and what the others need."""
    from rich.console import Console
    from rich.table import Table

    from gstk.engines import probe

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("engine", "version", "devices", "precisions", ""):
        table.add_column(heading, overflow="fold")
    found = probe()
    for entry in found:
        table.add_row(
            entry.name,
            entry.version or "-",
            ", ".join(entry.devices) or "-",
            ", ".join(entry.precisions) or "-",
            entry.note,
        )
    Console().print(table)
    usable = [entry.name for entry in found if entry.devices]
    typer.echo(f"auto takes {usable[0]}" if usable else 'none can be used; pip install "gstk[cpu]"')
    if not usable:
        raise typer.Exit(1)

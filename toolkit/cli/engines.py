"""`gstk engines`: lists the backends that can run a bundle on this machine."""

from typing import Annotated

import typer

__all__ = ["engines_command"]


def engines_command(
    options: Annotated[bool, typer.Option("--options", help="List the settings of each backend instead.")] = False,
) -> None:
    """List the backends: versions, devices and precisions, and what is missing for the others.

    Then the processor's instructions for INT8 (VNNI, AMX) and bfloat16 (AVX512_BF16, AMX).
    """
    from rich.table import Table

    from gstk.cli.tables import print_table
    from gstk.engines import describe_options, preferred, probe

    table = Table(box=None, pad_edge=False, header_style="bold")
    if options:
        for heading in ("engine", "setting", "default", "values", ""):
            table.add_column(heading, overflow="fold")
        for row in describe_options():
            table.add_row(*row)
        print_table(table)
        return
    for heading in ("engine", "version", "devices", "precisions", ""):
        table.add_column(heading, overflow="fold")
    found = probe()
    for entry in found:
        table.add_row(
            entry.name,
            entry.version or "-",
            ", ".join(map(str, entry.devices)) or "-",
            ", ".join(entry.precisions) or "-",
            entry.note,
        )
    print_table(table)
    typer.echo(_describe_processor())
    if not any(entry.devices for entry in found):
        typer.echo('none can be used; pip install "gstk[cpu]"')
        raise typer.Exit(1)
    name, device, why = preferred(found)
    typer.echo(f"auto takes {name} on {device}: {why}")


def _describe_processor() -> str:
    from gstk.engines.processor import this_processor

    processor = this_processor()
    if processor.saturates_int8:
        int8 = "without VNNI: INT8 is kept exact, and gains less"
    else:
        int8 = "VNNI" if processor.has_vnni else "no x86 processor"
    bf16 = "AVX512_BF16" if "avx512_bf16" in processor.instructions else "no AVX512_BF16"
    return f"processor: {processor.name}, {int8}, {bf16}, {'AMX' if processor.has_amx else 'no AMX'}"

"""The table style of all commands."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_table"]


def print_table(table: "Table", stderr: bool = False) -> None:
    """Prints a table without cutting it: cells wrap on a narrow terminal; a file or pipe gets the full width.

    Args:
        table: the table; its cells are plain text, not markup.
        stderr: whether to print to stderr instead of stdout.
    """
    from rich.console import Console

    for column in table.columns:
        column.overflow = "fold"
    console = Console(stderr=stderr, markup=False, emoji=False)
    if not console.is_terminal:
        wide = Console(stderr=stderr, markup=False, emoji=False, width=10_000)
        console = Console(
            stderr=stderr, markup=False, emoji=False, width=max(console.width, wide.measure(table).maximum)
        )
    console.print(table)

"""`gstk compare`: tests whether one evaluation is better than another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gstk.evaluation.compare import Comparison

__all__ = ["compare_command"]


def compare_command(
    first: Annotated[
        Path, typer.Argument(help="Evaluation A: the folder of `gstk evaluate --out`, or an official CSV.")
    ],
    second: Annotated[Path, typer.Argument(help="Evaluation B, compared with A: likewise.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the comparison as JSON.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the bootstrap.")] = 0,
    timed: Annotated[
        bool,
        typer.Option(
            "--timed/--untimed",
            help="Score a case 0 that took over 90 s for each class, as the challenge does, or not.",
        ),
    ] = True,
) -> None:
    """Compare two evaluations case by case, with 95 % intervals and Wilcoxon's signed-rank test."""
    import json

    from gstk.core.files import atomic_path
    from gstk.evaluation.compare import compare

    found = compare(first, second, seed, timed)
    _show(found)
    if out is not None:
        with atomic_path(out) as partial:
            partial.write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")


def _show(found: "Comparison") -> None:
    from rich.table import Table

    from gstk.cli.tables import print_table
    from gstk.evaluation.summary import RANKED

    typer.echo(f"{len(found.cases)} cases, A: {found.method_a}, B: {found.method_b}")
    table = Table("metric")
    for heading in ("A", "B", "B - A", "95 % interval", "p", "up", "down"):
        table.add_column(heading, justify="right", no_wrap=True)
    for d in found.metrics:
        values = (f"{value:.3f}" for value in (d.mean_a, d.mean_b))
        spread = (f"{d.difference:+.3f}", f"{d.low:+.3f} {d.high:+.3f}", f"{d.p_value:.2g}")
        table.add_row(d.metric, *values, *spread, str(d.better), str(d.worse))
    print_table(table)
    table = Table("modality", "method", *RANKED, "cases")
    for mean_a, mean_b in zip(found.means_a, found.means_b, strict=True):
        for method, m in ((found.method_a, mean_a), (found.method_b, mean_b)):
            table.add_row(m.modality, method, *(f"{m.means[name]:.4f}" for name in RANKED), str(m.cases))
        table.add_section()
    print_table(table)
    if found.time_ratio is not None:
        ratio, low, high = found.time_ratio
        typer.echo(f"time: {found.method_b} takes {ratio:.3g} times as long per case (95 %: {low:.3g} to {high:.3g})")
    for method, names in ((found.method_a, found.only_a), (found.method_b, found.only_b)):
        if names:
            typer.echo(f"warning: {len(names)} cases are only in {method}: {', '.join(names[:5])}", err=True)

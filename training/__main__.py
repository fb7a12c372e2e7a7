"""`python -m gstk.training --recipe tiny --out DIR`: trains on generated volumes and writes DIR/last.pt."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gstk.errors import GstkError
from gstk.training.recipe import load_recipe


def main() -> int:
    """Runs one recipe with a progress bar; an interrupt keeps the last checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m gstk.training", description=__doc__)
    parser.add_argument("--recipe", default="tiny", help="a recipe that gstk ships, or a .toml file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--init", type=Path, help="checkpoint to start from")
    arguments = parser.parse_args()
    try:
        recipe = load_recipe(arguments.recipe)
        from gstk.training.loop import train_on_phantoms

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
        with Progress(TextColumn(recipe.name), *columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=recipe.loop.steps, state="")
            smooth: dict[str, float] = {}

            def show(step: int, values: dict[str, float]) -> None:
                for key, value in values.items():
                    smooth[key] = 0.98 * smooth.get(key, value) + 0.02 * value
                state = f"loss {smooth['loss']:.3f}  dice {smooth['dice']:.3f}  {smooth['seconds']:.2f} s/step"
                bar.update(task, completed=step + 1, state=state)

            print(train_on_phantoms(recipe, arguments.out, show, init=arguments.init))
    except GstkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {arguments.out / 'last.pt'} holds the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

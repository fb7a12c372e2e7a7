"""`gstk plan`: shows the windows, time and memory of a case without running the network."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gstk.cli.options import (
    CHALLENGE_CALLS,
    CHALLENGE_S,
    BackendOption,
    BoxOption,
    CallsOption,
    DeviceOption,
    EngineOption,
    LimitOption,
    LpsOption,
    PointMmOption,
    PointOption,
    PrecisionOption,
    SpacingOrderOption,
    ThreadsOption,
    read_limit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gstk.calibration.model import LatencyModel
    from gstk.core.geometry import Geometry
    from gstk.session.deadline import Budget
    from gstk.session.planner import Plan
    from gstk.session.timed_classes import ClassForecast

__all__ = ["plan_command"]


def plan_command(
    case: Annotated[
        Path,
        typer.Argument(help="Case (.npz), NIfTI, NRRD or MetaImage file, or DICOM folder.", show_default=False),
    ],
    budget: LimitOption = None,
    calls: CallsOption = None,
    click_within: Annotated[
        float | None,
        typer.Option(
            help="Plan clicks of a session instead of a call: target time of a click in seconds, which also chooses "
            "the precision (gstk.open(click_within_s=...)).",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[str, typer.Option(help="A bundle's folder, or the name of a built-in one.")] = "tiny",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: EngineOption = None,
    point: PointOption = None,
    point_mm: PointMmOption = None,
    lps: LpsOption = False,
    box: BoxOption = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Plan class prompts, if the weights have classes: names, ids, groups or everything.",
            show_default=False,
        ),
    ] = None,
    spacing_order: Annotated[
        SpacingOrderOption, typer.Option(help="Axis order of the spacing in .npz cases.")
    ] = SpacingOrderOption.zyx,
) -> None:
    """Show the windows, time and memory that `gstk infer` would choose for a case, without running the network."""
    import gstk
    from gstk.batch.placed_points import add_placed_points
    from gstk.cases.reading import read_case
    from gstk.cli.infer import say_probe
    from gstk.cli.prompt_options import read_places, read_prompts
    from gstk.engines.options import parse_assignments
    from gstk.session.deadline import Budget
    from gstk.session.planner import can_start

    found = read_case(case, "auto", spacing_order.order)
    prompts = {**found.prompts, **read_prompts(point or [], [], box or [])}
    prompts = add_placed_points(prompts, read_places(point_mm or [], [], lps), found)
    prompts = {k: own for k, own in prompts.items() if can_start(own)}
    names = [name.strip() for name in (classes or "").split(",") if name.strip()]
    if names and (point or point_mm or box or click_within is not None):
        raise gstk.GstkError("got --classes and clicks, expected one of the two")
    if not prompts and not names:
        raise gstk.GstkError(f"{case} has no click on an object and no box; give --point, --point-mm or --box")
    options = parse_assignments(engine or [])
    budget_s = None if click_within is not None else read_limit(budget)
    if click_within is not None and (budget is not None or calls is not None):
        raise gstk.GstkError("got --click-within and --budget or --calls, expected one of the two")
    if calls is None:
        own = budget is None and case.suffix.lower() == ".npz" and not (point or point_mm or box or names)
        calls = CHALLENGE_CALLS if own else 1
    # The plan shows times even if there is no budget.
    shown = Budget(CHALLENGE_S if budget_s is None else budget_s, calls)
    with gstk.open(
        bundle,
        backend,
        threads,
        precision,
        device,
        options,
        budget_s=shown.seconds,
        calls=shown.calls,
        click_within_s=click_within,
        on_progress=say_probe,
    ) as session:
        session.set_image(found.volume)
        model = session.model
        assert model is not None  # a session with a budget has one
        if names:
            count = len(session.profile.classes.expand(names))
            most_s = math.inf if budget_s is None else shown.left_s(count, model.startup_s)
            _show_classes(session.plan_classes(names, most_s), count, most_s, model.has_classes)
            typer.echo(_closing_line(shown, count, None if budget_s is None else most_s, model.startup_s))
            return
        within_s = None if budget_s is None else shown.left_s(len(prompts), model.startup_s)
        if click_within is not None:
            _show_target([session.plan({k: own}) for k, own in prompts.items()], click_within, model)
            return
        _show(session.plan(prompts, within_s), found.geometry)
        typer.echo(_closing_line(shown, len(prompts), within_s, model.startup_s))


def _closing_line(shown: "Budget", objects: int, within_s: float | None, startup_s: float) -> str:
    from gstk.cli.budget_words import call_line

    if within_s is None:
        return f"a process starts in {startup_s:.1f} s; give --budget S to plan for a time"
    return call_line(shown, objects, within_s, "start")


def _show_classes(forecast: "ClassForecast", classes: int, within_s: float, is_measured: bool) -> None:
    from rich.table import Table

    from gstk.cli.budget_words import compromise_lines
    from gstk.cli.tables import print_table

    plan = forecast.plan
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("classes", "windows", "window", "voxel mm", "overlap", "window s", "memory"):
        table.add_column(heading, justify="right")
    table.add_row(
        str(classes),
        str(plan.windows),
        "×".join(map(str, forecast.shape)),
        " ".join(f"{mm:.2f}" for mm in forecast.voxel_mm),
        f"{plan.overlap:.1%}",
        f"{forecast.window_s:.2f} s",
        f"{forecast.peak_bytes / 1e9:.1f} GB",
    )
    print_table(table)
    typer.echo(
        f"masks      expected {forecast.expected_s:.1f} s: {forecast.load_s:.1f} s to load the graph for classes, "
        f"{plan.windows * forecast.window_s:.1f} s in windows; a class after these takes no window where memory holds "
        "the features"
    )
    if not is_measured:
        typer.echo("note       windows of classes were not measured here and count as encodes; run gstk calibrate")
    if forecast.expected_s > within_s:
        typer.echo(
            f"too late   even the fewest windows take {forecast.expected_s:.1f} s of {within_s:.1f} s; the label map "
            "comes after them"
        )
    for line in compromise_lines(forecast.compromises):
        typer.echo(line)


def _show(plan: "Plan", geometry: "Geometry") -> None:
    from rich.table import Table

    from gstk.cli.budget_words import compromise_lines
    from gstk.cli.tables import print_table
    from gstk.session.planner import format_ids

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("objects", "window", "voxel mm", "encode", "clicks", "95th percentile", "memory"):
        table.add_column(heading, justify="right")
    for planned in plan.windows:
        step = zip(planned.window.step, geometry.spacing_mm, strict=True)
        table.add_row(
            format_ids(planned.objects),
            "×".join(map(str, planned.window.shape)),
            " ".join(f"{t * s:.2f}" for t, s in step),
            f"{planned.cost.encode_s:.2f} s",
            f"{planned.cost.decode_s:.2f} s",
            f"{planned.cost.p95_s:.2f} s",
            f"{planned.cost.peak_bytes / 1e9:.1f} GB",
        )
    print_table(table)
    first_s = plan.expected_s - plan.second_window_s
    typer.echo(
        f"masks      expected {plan.expected_s:.1f} s: {first_s:.1f} s in these windows, "
        f"{plan.second_window_s:.1f} s for a second window of each object"
    )
    if plan.budget_s is not None:
        typer.echo(
            f"safety     first masks of all objects take {plan.p95_s:.1f} s at the 95th percentile; they should take "
            f"at most half of the time for the masks, {plan.budget_s / 2:.3g} s"
        )
    for line in compromise_lines(plan.compromises):
        typer.echo(line)


def _show_target(plans: "Sequence[Plan]", target_s: float, model: "LatencyModel") -> None:
    """Prints what clicks on each object are expected to take, beside the target."""
    from rich.table import Table

    from gstk.cli.budget_words import compromise_lines
    from gstk.cli.tables import print_table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("object", "window", "first click", "95th percentile", "further clicks"):
        table.add_column(heading, justify="right")
    late = False
    for planned in (planned for plan in plans for planned in plan.windows):
        shape = planned.window.shape
        first_s = model.encode_s(shape) + model.decode_s(shape)
        p95_s = model.encode_s(shape, cautious=True) + model.decode_s(shape, cautious=True)
        late = late or p95_s > target_s
        cells = [f"{first_s:.2f} s", f"{p95_s:.2f} s", f"{model.decode_s(shape):.2f} s"]
        table.add_row(str(planned.objects[0]), "×".join(map(str, shape)), *cells)
    print_table(table)
    typer.echo(
        f"target     {target_s:g} s for each click with {model.host.backend} in {model.host.precision}; half of it is "
        "for a second window, where the mask asks for one"
    )
    for line in compromise_lines(tuple(dict.fromkeys(line for plan in plans for line in plan.compromises))):
        typer.echo(line)
    if late:
        typer.echo("late       even the smallest windows may take longer; the network's answer is waited for")

"""`gstk evaluate`: runs the official protocol on a folder of cases."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gstk.cli.options import (
    BackendOption,
    BudgetOption,
    DeviceOption,
    EngineOption,
    PrecisionOption,
    RayOption,
    SpacingOrderOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkerGpusOption,
    WorkersOption,
    ray_workers,
)
from gstk.cli.pipelines import Pipeline, PipelineName
from gstk.cli.progress import LongWork

if TYPE_CHECKING:
    from gstk.evaluation.case_scores import CaseScores
    from gstk.evaluation.runner import Evaluation

__all__ = ["evaluate_command"]


def evaluate_command(
    cases: Annotated[
        Path, typer.Argument(help="Folder of .npz cases with true masks, or one case.", show_default=False)
    ],
    out_dir: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the results. An evaluation that was interrupted in it continues."),
    ],
    gts: Annotated[
        Path | None, typer.Option(help="Folder of the true masks, if they are not in the cases.", show_default=False)
    ] = None,
    pipeline: Annotated[
        PipelineName,
        typer.Option(
            help="gstk; reference: MONAI's point_based_window_inferer; monai-bundle: NVIDIA's transforms and inferer "
            "for the weights' profile; classical: no network; command."
        ),
    ] = PipelineName.gstk,
    bundle: Annotated[str, typer.Option(help="A bundle's folder, or the name of a built-in one.")] = "tiny",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: EngineOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the pipelines reference and monai-bundle, if not the bundle's.", show_default=False
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Input profile of the pipeline monai-bundle's weights, if not the bundle's.",
            show_default=False,
        ),
    ] = None,
    assume_window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|W,L|hu",
            help="For networks whose input is HU: the CT window that mapped the cases to 0 to 255, to invert it, with "
            "loss.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Segment by class, with gstk or monai-bundle: the class of each label, from 1 on. Clicks then correct "
            "it.",
            show_default=False,
        ),
    ] = None,
    budget: BudgetOption = None,
    command: Annotated[
        str | None,
        typer.Option(help="Score any program: a command line with {inputs} and {outputs} in it.", show_default=False),
    ] = None,
    cold: Annotated[
        bool,
        typer.Option("--cold", help="Start a process for each call and count its start, as the official script does."),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Random seed that decides between voxels that are equally good for a click. The official one is 42.",
        ),
    ] = 42,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Number of cases to take, from the first on. Default: all.", show_default=False),
    ] = None,
    spacing_order: Annotated[
        SpacingOrderOption, typer.Option(help="Axis order of the spacing in the cases.")
    ] = SpacingOrderOption.zyx,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html and plots.")] = True,
    ray: RayOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    worker_gpus: WorkerGpusOption = None,
) -> None:
    """Score a pipeline by the rules of the CVPR 2025 challenge: a box and five clicks; DSC, NSD and time."""
    from gstk.cli.options import needing
    from gstk.evaluation.runner import evaluate

    with needing("evaluate"):
        import skimage  # noqa: F401 - a missing package must fail before hours of work, not after

        if report:
            import matplotlib  # noqa: F401
    cluster = ray_workers(ray, workers, worker_cpus, worker_gpus)
    if (
        cluster is not None
        and threads is None
        and not worker_gpus
        and pipeline in (PipelineName.gstk, PipelineName.reference, PipelineName.monai_bundle)
    ):
        threads = max(1, int(cluster.cpus)) if command is None else None
    chosen = Pipeline(
        "command" if command is not None and pipeline is PipelineName.gstk else pipeline.value,
        bundle,
        backend,
        precision,
        threads,
        str(checkpoint) if checkpoint is not None else None,
        command,
        device,
        tuple(engine or ()),
        budget,
        profile,
        assume_window,
        tuple(name.strip() for name in (classes or "").split(",") if name.strip()),
    )

    def add(scores: "CaseScores", number: int, total: int) -> None:
        progress.update(number, total, f"{scores.case} DSC {scores.dsc[-1]:.3f}" if scores.dsc else scores.case)
        for failure in scores.failures:
            progress.say(f"{scores.case}: {failure}")

    with LongWork("evaluate", unit="cases") as progress:
        found = evaluate(
            cases,
            out_dir,
            chosen.opener(cold),
            method=chosen.method + (" cold" if cold else ""),
            settings={**chosen.settings(), "cold": cold},
            gts=gts,
            seed=seed,
            spacing_order=spacing_order.order,
            limit=limit,
            workers=cluster,
            on_result=add,
        )
    _show(found)
    if report:
        from gstk.evaluation.report import write_report

        typer.echo(f"report   {write_report(found)}")
    if found.failed:
        raise typer.Exit(1)


def _show(found: "Evaluation") -> None:
    from rich.table import Table

    from gstk.cli.tables import print_table
    from gstk.evaluation.summary import RANKED

    table = Table("modality", *RANKED, "cases", "s/case", title=found.method, title_justify="left")
    for m in found.means:
        table.add_row(m.modality, *(f"{m.means[name]:.4f}" for name in RANKED), str(m.cases), f"{m.seconds:.2f}")
    print_table(table)
    late = [one.case for one in found.scored if not one.in_time]
    if late:
        names = ", ".join(late[:5])
        typer.echo(f"warning: {len(late)} cases took over 90 s for each class and score 0: {names}", err=True)
    if found.failed:
        typer.echo(f"warning: {len(found.failed)} of {len(found.scores)} cases failed; run again to retry", err=True)
    typer.echo(f"metrics  {found.folder / 'metrics.csv'}")

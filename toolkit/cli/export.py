"""`gstk export`: makes a bundle from a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gstk.cli.options import SpacingOrderOption, needing
from gstk.cli.progress import LongWork
from gstk.core.bundle import MANIFEST_NAME, Bundle, builtin_names, find_bundle

__all__ = ["export_command", "report_lines"]


def export_command(
    context: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="VISTA3D weights: .pt, .pth or .safetensors. With --triton also a bundle that is there already.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the bundle.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model. Default: the checkpoint's file name.", show_default=False)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, such as CC-BY-4.0.", show_default=False)
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="What the network's input is: challenge, nv-segment-ct, nv-segment-ctmr, tiny, or a file of your own. "
            "Weights of full size need it.",
            show_default=False,
        ),
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Region it was trained on, in voxels and in the network's axes; the profile's patch otherwise.",
            show_default=False,
        ),
    ] = None,
    half_weights: Annotated[
        bool,
        typer.Option(
            "--half-weights",
            help="Store weights as float16 where that loses nothing; refused for weights that float16 does not hold.",
        ),
    ] = False,
    external_weights: Annotated[
        bool,
        typer.Option(
            "--external-weights", help="Write weights into files of their own, as is done beyond 1.8 GB anyway."
        ),
    ] = False,
    fp16: Annotated[
        bool,
        typer.Option("--fp16", help="Add FP16 graphs: they compute in float16, but norms and attention in float32."),
    ] = False,
    fp16_io: Annotated[
        str, typer.Option(metavar="fp16|fp32", help="Type of the FP16 graphs' image, embedding and logits.")
    ] = "fp16",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Add an INT8 encoder; refused where it loses more than 0.005 Dice. Needs --calibration-cases.",
        ),
    ] = False,
    refine: Annotated[
        bool,
        typer.Option("--refine", help="Turn image refinement and reprompting on in the bundle, for a weak network."),
    ] = False,
    calibration_cases: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of labelled .npz cases: they give INT8 its scales and score it, and they show the range of "
            "values in the FP16 graphs.",
            show_default=False,
        ),
    ] = None,
    assume_window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|W,L|hu",
            help="For profiles in HU: the CT window that mapped the calibration cases to 0 to 255, to invert it, with "
            "loss.",
            show_default=False,
        ),
    ] = None,
    clicks: Annotated[int, typer.Option(min=1, help="Number of clicks for each class of a calibration case.")] = 5,
    spacing_order: Annotated[
        SpacingOrderOption, typer.Option(help="Axis order of the calibration cases' spacing.")
    ] = SpacingOrderOption.zyx,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="REPOSITORY",
            help="Also write the graphs as models of NVIDIA's Triton Inference Server into this model repository.",
            show_default=False,
        ),
    ] = None,
    triton_platform: Annotated[
        str, typer.Option(metavar="onnxruntime|tensorrt", help="Which of Triton's backends runs them.")
    ] = "onnxruntime",
    triton_precision: Annotated[
        str | None,
        typer.Option(metavar="fp32|fp16", help="Of Triton's models. Default: fp16 where the bundle has it."),
    ] = None,
    plans: Annotated[
        Path | None,
        typer.Option(help="Folder of TensorRT's plans for Triton. Default: where `gstk build` puts them."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle, and Triton's models of its name.")
    ] = False,
) -> None:
    """Export a checkpoint to a bundle: ONNX graphs that were compared with torch, and a manifest."""
    if is_bundle(checkpoint):
        _require_triton_alone(context, checkpoint)
        with needing("export"):
            _write_triton(find_bundle(checkpoint), triton, triton_platform, triton_precision, plans, overwrite)
        return
    if output is None:
        raise typer.BadParameter("needs a folder for the bundle", param_hint="--output")
    if triton is None:
        _require_not_given(context, "triton_platform", "triton_precision", "plans")
    default_roi = None if roi is None else _sides(roi)
    if int8 and calibration_cases is None:
        raise typer.BadParameter("needs --calibration-cases DIR, labelled cases", param_hint="--int8")
    from gstk.core.profile import find_profile

    chosen = None if profile is None else find_profile(profile)
    with needing("export"):
        from gstk.export.export import UNKNOWN_LICENCE, Options, expected_steps, export_bundle
    from rich.table import Table

    from gstk.cases.volumes import find_cases
    from gstk.cli.tables import print_table
    from gstk.evaluation.click_trial import ClickTrial

    options = Options(half_weights, external_weights, fp16, fp16_io, int8, refine)
    files = [] if calibration_cases is None else find_cases(calibration_cases)
    files = [file for file in files if file.suffix == ".npz"]
    with LongWork("export", expected_steps(options, len(files)), "steps") as progress:
        quality_gate = None
        if calibration_cases is not None:
            quality_gate = ClickTrial(files, clicks, spacing_order.value, progress.step, assume_window)
        bundle = export_bundle(
            checkpoint,
            output,
            name=name,
            licence=licence,
            profile=chosen,
            default_roi=default_roi,
            options=options,
            quality_gate=quality_gate,
            overwrite=overwrite,
            on_progress=progress.step,
        )
    parity = bundle.manifest.parity
    table = Table(title=f"agreement with {parity['reference']}", title_justify="left")
    for column in ("precision", "engine", "version", "largest error", "allowed", "equal voxels"):
        table.add_column(column, justify="right" if column in ("largest error", "allowed", "equal voxels") else "left")
    for precision, found in parity["precisions"].items():
        for engine, result in found["engines"].items():
            table.add_row(
                precision,
                engine,
                result["version"],
                f"{result['max_abs_error']:.1e}",
                f"{found['tolerance']:.1e}",
                f"{result['mask_agreement']:.4%}",
            )
    print_table(table, stderr=True)
    for line in report_lines(bundle.manifest.reports):
        typer.echo(line, err=True)
    if bundle.manifest.licence == UNKNOWN_LICENCE:
        typer.echo("warning: the licence of the weights is recorded as unknown; state it with --licence", err=True)
    typer.echo(f"{bundle.path}: {bundle.manifest.name}, {bundle.size_bytes / 1e6:.1f} MB")
    if triton is not None:
        _write_triton(bundle.path, triton, triton_platform, triton_precision, plans, overwrite)


def is_bundle(source: Path) -> bool:
    """Whether a path is the folder of a bundle, or the name of a built-in bundle."""
    return (source / MANIFEST_NAME).is_file() or (not source.exists() and str(source) in builtin_names())


def _require_triton_alone(context: typer.Context, bundle: Path) -> None:
    """Rejects options other than those of the Triton models: a bundle is already exported, so they have no effect."""
    given = [name for name in context.params if _is_given(context, name)]
    if "triton" not in given:
        raise typer.BadParameter(
            f"got the bundle {bundle}, expected weights; a bundle goes with --triton REPOSITORY",
            param_hint="CHECKPOINT",
        )
    other = set(given) - {"checkpoint", "triton", "triton_platform", "triton_precision", "plans", "overwrite"}
    if other:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(other))
        raise typer.BadParameter(f"applies to weights, and {bundle} is a bundle; drop it", param_hint=options)


def _require_not_given(context: typer.Context, *names: str) -> None:
    for name in names:
        if _is_given(context, name):
            raise typer.BadParameter("needs --triton REPOSITORY", param_hint=f"--{name.replace('_', '-')}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _write_triton(
    bundle: Path, repository: Path | None, platform: str, precision: str | None, plans: Path | None, overwrite: bool
) -> None:
    from gstk.export.triton import TritonOptions, write_triton_repository

    assert repository is not None
    options = TritonOptions(platform, precision, plans)
    for model in write_triton_repository(Bundle.open(bundle), repository, options, overwrite):
        typer.echo(str(model))


def report_lines(reports: Mapping[str, Any]) -> list[str]:
    """The reports on the FP16 and INT8 graphs in a manifest, one line for each graph."""
    lines = []
    if "fp16" in reports:
        report = reports["fp16"]
        layer, largest = max(report["largest_magnitude_by_layer"].items(), key=lambda item: item[1])
        lines.append(
            f"fp16: values up to {largest:.4g} ({layer}) on {report['measured_on']}, of 65504 that float16 holds"
        )
    if "int8" in reports:
        report = reports["int8"]
        lines.append(
            f"int8: {report['dice_drop']:+.4f} of Dice lost (at most {report['dice_drop_allowed']}) on "
            f"{len(report['dice_int8'])} cases; {len(report['restored'])} activations left in floating point"
        )
    return lines


def _sides(text: str) -> list[int]:
    try:
        sides = [int(side) for side in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 3:
        raise typer.BadParameter(f"got {text!r}, expected three whole numbers, as in 128,128,128", param_hint="--roi")
    return sides

"""Options that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from gstk.errors import BackendMissing, EvaluationError, GstkError

if TYPE_CHECKING:
    from gstk.batch.ray_pool import Workers
    from gstk.cases.npz import SpacingOrder

__all__ = [
    "CHALLENGE_CALLS",
    "CHALLENGE_S",
    "BackendOption",
    "BoxOption",
    "BudgetOption",
    "CallsOption",
    "DeviceOption",
    "EngineOption",
    "LimitOption",
    "LpsOption",
    "PhaseOption",
    "PointMmOption",
    "PointOption",
    "PrecisionOption",
    "RayOption",
    "SeriesOption",
    "SpacingOrderOption",
    "ThreadsOption",
    "WorkerCpusOption",
    "WorkerGpusOption",
    "WorkersOption",
    "needing",
    "ray_workers",
    "read_limit",
]

CHALLENGE_S = 90.0
"""Seconds that the challenge gives for each object, in all calls together."""
CHALLENGE_CALLS = 6
"""Most calls that the challenge makes on a case: the box, then five clicks."""

BackendOption = Annotated[
    str, typer.Option(help="Backend that runs the network: auto, or one that `gstk engines` lists.")
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="Precision of the network: fp32, fp16 or int8, where the bundle has it, or bf16 (OpenVINO, where the "
        "processor has AVX512_BF16 or AMX). auto: fp16 on a GPU; on a processor int8 or bf16 where its loss of "
        "Dice was measured and calibrations say that it is faster, else fp32."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Device that runs the network: auto, cpu, cuda, cuda:N, gpu or gpu:N.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Number of processor threads. Default: the backend decides.", show_default=False),
]
EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Setting of the backend; `gstk engines --options` lists them. May be repeated.",
        show_default=False,
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        help="Seconds for each object in all calls together, process start included. The challenge gives 90.",
        show_default=False,
    ),
]
LimitOption = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS|none",
        help="Seconds for each object in all calls together, process start included. none: no limit. Default: 90, as "
        "in the challenge.",
        show_default=False,
    ),
]
CallsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of calls that share the budget; this is one of them. Default: 1; without --budget 6 for an "
        ".npz case with its own prompts, as in the challenge.",
        show_default=False,
    ),
]
PointOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[ID:]z,y,x",
        help="Click on an object: voxel indices from 0. ID tells several objects apart. May be repeated.",
        show_default=False,
    ),
]
PointMmOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[ID:]x,y,z",
        help="Click on an object, in mm: RAS, as 3D Slicer shows it. May be repeated.",
        show_default=False,
    ),
]
LpsOption = Annotated[bool, typer.Option("--lps", help="Clicks in mm are LPS, as in ITK and DICOM.")]
BoxOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[ID:]z0,y0,x0,z1,y1,x1",
        help="Box around an object: its first and last voxel, indices from 0. May be repeated with other IDs.",
        show_default=False,
    ),
]
SeriesOption = Annotated[
    str | None,
    typer.Option(
        help="Series of a DICOM folder: its number, description or UID. Default: the largest.", show_default=False
    ),
]
PhaseOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Image of a DICOM series that holds several (phases, echoes), counted from 1. Default: the largest.",
        show_default=False,
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Share the cases on a Ray cluster: its address, auto, or local for this machine.",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Number of workers on the cluster. Default: as many as fit.", show_default=False),
]
WorkerCpusOption = Annotated[
    float | None, typer.Option(help="Processor cores, and threads, of each worker. Default: 1.", show_default=False)
]
WorkerGpusOption = Annotated[
    float | None, typer.Option(help="GPUs of each worker; a fraction shares one. Default: 0.", show_default=False)
]


def ray_workers(address: str | None, count: int | None, cpus: float | None, gpus: float | None) -> "Workers | None":
    """The workers that the options describe; None without --ray.

    Raises:
        EvaluationError: options of workers are given without --ray, or with values that are not valid.
    """
    if address is None:
        if count is not None or cpus is not None or gpus is not None:
            raise EvaluationError("got --workers, --worker-cpus or --worker-gpus without --ray; add --ray local")
        return None
    from gstk.batch.ray_pool import Workers, keep_to_ourselves

    if address == "local":
        keep_to_ourselves()
    return Workers(address, count, 1.0 if cpus is None else cpus, gpus or 0.0)


def read_limit(text: str | None) -> float | None:
    """The seconds that `--budget` gives: the challenge's where it is left out (None), and None for `none`.

    Raises:
        GstkError: the text is neither.
    """
    if text is None:
        return CHALLENGE_S
    if text.strip().lower() == "none":
        return None
    try:
        seconds = float(text)
    except ValueError:
        raise GstkError(f"got --budget {text}, expected seconds for each object, or none") from None
    if not seconds > 0:
        raise GstkError(f"got --budget {text}, expected above 0 s, or none for no limit")
    return seconds


class SpacingOrderOption(StrEnum):
    """Axis order of `spacing` in .npz cases."""

    zyx = "zyx"
    xyz = "xyz"

    @property
    def order(self) -> "SpacingOrder":
        """The value in the form that gstk's functions take."""
        return "xyz" if self is SpacingOrderOption.xyz else "zyx"


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Context manager: if an import inside it fails, the error names the extra of gstk that installs the package.

    Raises:
        BackendMissing: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendMissing(f'this needs {error.name}, which is not installed; pip install "gstk[{extra}]"') from None

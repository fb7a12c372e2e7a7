"""`gstk serve`: serves interactive segmentation by clicks over HTTP."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from gstk.cli.options import (
    BackendOption,
    DeviceOption,
    EngineOption,
    PrecisionOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkerGpusOption,
    WorkersOption,
    needing,
    ray_workers,
)
from gstk.errors import BackendMissing, GstkError

__all__ = ["serve_command"]

_KEY_VARIABLE = "NN_INTERACTIVE_API_KEY"
"""Where nnInteractive's own server and clients look for the key."""


def serve_command(
    volume: Annotated[
        Path | None,
        typer.Argument(help="Scan or .npz case for the page to open.", show_default=False),
    ] = None,
    bundle: Annotated[str, typer.Option(help="A bundle's folder, or the name of a built-in one.")] = "tiny",
    host: Annotated[str, typer.Option(help="Address to listen at; other than 127.0.0.1 it needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 1527,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Instead of serving, print what a viewer finds at this address.", show_default=False
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help=f"Key that clients must show; better set in {_KEY_VARIABLE}. Generated if one is needed.",
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Further host name that requests may use. May be repeated.", show_default=False),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of this server, the prefix of its lease tokens, for a proxy in front of several.")
    ] = "",
    itksnap: Annotated[
        bool,
        typer.Option("--itksnap", help="Also serve ITK-SNAP, whose protocol has no key and changes sessions by GETs."),
    ] = False,
    max_sessions: Annotated[int, typer.Option(min=1, help="Largest number of clients at a time.")] = 8,
    idle_seconds: Annotated[float, typer.Option(min=1, help="Seconds after which an unused session ends.")] = 3600.0,
    cache_gb: Annotated[
        float, typer.Option(min=0, help="Memory for the embeddings of all sessions together, GB.")
    ] = 2.0,
    max_upload_gb: Annotated[float, typer.Option(help="Size limit of a volume, GB.")] = 4.0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Serve from several processes on a Ray cluster: its address, auto, or local for this machine.",
            show_default=False,
        ),
    ] = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    worker_gpus: WorkerGpusOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: EngineOption = None,
) -> None:
    """Start a server to click in the browser, and in 3D Slicer, napari and MITK by their nnInteractive clients."""
    key = api_key or os.environ.get(_KEY_VARIABLE) or None
    if check is not None:
        from gstk.server.check import check_server

        report = check_server(check, key)
        typer.echo(f"works    nnInteractive {report.version}, {', '.join(report.interactions)}")
        typer.echo(f"licence  {report.licence}")
        typer.echo(f"sessions {report.max_sessions} at most")
        return
    with needing("serve"):
        if find_spec("blosc2") is None:  # the import is slow, so it waits for the first upload
            raise ModuleNotFoundError("no blosc2", name="blosc2")
        from gstk.server.run import serve
        from gstk.server.service import Settings
    from gstk.engines.options import parse_assignments
    from gstk.server.leases import Clocks

    cluster = ray_workers(ray, workers, worker_cpus, worker_gpus)
    if cluster is not None and itksnap:
        raise GstkError(
            "got --itksnap with --ray, expected one of them: ITK-SNAP's requests cannot be routed to a replica"
        )
    settings = Settings(
        max_sessions=max_sessions,
        clocks=Clocks(idle_s=idle_seconds),
        key=key,
        hosts=tuple(allow_host or ()),
        name=name,
        upload_limit_bytes=int(max_upload_gb * 2**30),
        cache_bytes=int(cache_gb * 2**30),
        itksnap=itksnap,
    )
    engine_options = {
        "backend": backend,
        "precision": precision,
        "device": device,
        "threads": threads,
        "options": parse_assignments(engine or []),
    }
    if cluster is None:
        serve(volume, bundle, host, port, settings, open_browser, typer.echo, **engine_options)
        return
    if find_spec("ray") is None or find_spec("fastapi") is None:
        raise BackendMissing(
            'gstk serve --ray needs Ray Serve, which is not installed; pip install "gstk[serve,ray-serve]"'
        )
    from gstk.server.ray_serve import serve_on_ray

    if threads is None and not cluster.gpus:
        engine_options["threads"] = max(1, round(cluster.cpus))
    serve_on_ray(volume, bundle, host, port, settings, cluster, open_browser, typer.echo, **engine_options)

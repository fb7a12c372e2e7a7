"""Running the server: from a bundle and an address to a process that ends cleanly."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from gstk.cases.npz import Case
from gstk.core.bundle import find_bundle
from gstk.core.files import StrPath
from gstk.server.addresses import announce, listen, names_of, reachable
from gstk.server.app import build_app
from gstk.server.service import Service, Settings

__all__ = ["read_volume", "serve"]

_END_S = 5
"""Seconds that clients are given to take the answers of calls that were ended."""


def serve(
    volume: StrPath | None = None,
    bundle: StrPath = "tiny",
    host: str = "127.0.0.1",
    port: int = 1527,
    settings: Settings | None = None,
    open_browser: bool = False,
    on_progress: Callable[[str], None] = lambda line: None,
    **engine: Any,
) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        volume: a scan or .npz case that the page opens by itself.
        bundle: a bundle's folder, or the name of a built-in one.
        host: address to listen at. Another than this machine's own needs a key; one is made where there is none.
        port: 0 takes any that is free.
        settings: see `Settings`.
        open_browser: whether to open the page.
        on_progress: called with what is to be shown, a line each.
        engine: `backend`, `precision`, `device`, `threads`, `options`, `refine`, as in `gstk.open`.

    Raises:
        GstkError: the address is taken or cannot be listened at.
        BundleError, BackendMissing, CaseError: see `gstk.open` and `gstk.cases.volumes.read_any`.
    """
    settings = reachable(settings or Settings(), host, names := names_of(host))
    listening = listen(host, port)
    with listening:
        first = None if volume is None else read_volume(volume, on_progress)
        on_progress(f"loading  {find_bundle(bundle).name}")
        service = Service.open(bundle, settings, first, **engine)
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            build_app(service),
            log_level="warning",
            lifespan="on",
            timeout_graceful_shutdown=_END_S,
            timeout_keep_alive=75,
            server_header=False,
        )
        _Server(config, service, lambda: announce(names, port, settings, open_browser, on_progress)).run([listening])
        on_progress("stopped")


def read_volume(volume: StrPath, on_progress: Callable[[str], None]) -> Case:
    """A volume that pages open by themselves; a line says what it is."""
    from gstk.cases.volumes import read_any

    case = read_any(volume)
    on_progress(f"volume   {case.name}, {' x '.join(map(str, case.geometry.shape))} voxels (z, y, x)")
    return case


class _Server(uvicorn.Server):
    """Ends the calls under way when it is asked to stop, and leaves the process alive afterwards."""

    def __init__(self, config: uvicorn.Config, service: Service, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._on_started = service, on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()
            self._warming_up = asyncio.create_task(self._service.warm_up())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._service.stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again at the end: a server that was asked to stop has done well."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

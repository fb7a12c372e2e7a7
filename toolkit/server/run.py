"""Running the server: from a bundle and an address to a process that ends cleanly."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn

from gstk.cases.npz import Case
from gstk.core.bundle import Bundle, find_bundle
from gstk.core.files import StrPath
from gstk.errors import GstkError
from gstk.server.app import build_app
from gstk.server.guard import LOOPBACK_NAMES
from gstk.server.service import Service, Settings
from gstk.session import factory

__all__ = ["serve"]

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
    settings = settings or Settings()
    is_local = host in LOOPBACK_NAMES
    if not is_local:
        reached = (f"[{name}]" if ":" in name else name for name in _names(host))
        settings = replace(settings, key=settings.key or secrets.token_urlsafe(24), hosts=(*settings.hosts, *reached))
    listening = _listen(host, port)
    with listening:
        first = None if volume is None else _read(volume, on_progress)
        path = find_bundle(bundle)
        on_progress(f"loading  {path.name}")
        licence = Bundle.open(path).manifest.licence
        service = Service(factory.open(path, **engine), replace(settings, licence=licence), first)
        port = listening.getsockname()[1]
        addresses = [f"http://{f'[{name}]' if ':' in name else name}:{port}" for name in _names(host)]
        pages = [f"{address}/#token={settings.page_token}" for address in addresses]

        def started() -> None:
            for page in pages:
                on_progress(f"page     {page}")
            for address in addresses:
                on_progress(f"viewers  {address}" + (f" with the key {settings.key}" if settings.key else ""))
            if open_browser:
                webbrowser.open(pages[0])

        config = uvicorn.Config(
            build_app(service),
            log_level="warning",
            lifespan="on",
            timeout_graceful_shutdown=_END_S,
            timeout_keep_alive=75,
            server_header=False,
        )
        _Server(config, service, started).run([listening])
        on_progress("stopped")


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


def _names(host: str) -> list[str]:
    """Addresses under which a server that listens at `host` is reached: all of this machine's for 0.0.0.0 and ::."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    import psutil

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    names = [
        address.address
        for interface in psutil.net_if_addrs().values()
        for address in interface
        # A link-local address needs the name of an interface behind it, which a browser does not take.
        if address.family == family and not address.address.startswith(("fe80:", "169.254."))
    ]
    return sorted(names, key=lambda name: name not in ("127.0.0.1", "::1")) or [host]


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        raise GstkError(f"cannot listen at {host}, port {port}: {error}; give another --port or --host") from None
    return listening


def _read(volume: StrPath, on_progress: Callable[[str], None]) -> Case:
    from gstk.cases.volumes import read_any

    case = read_any(volume)
    on_progress(f"volume   {case.name}, {' x '.join(map(str, case.geometry.shape))} voxels (z, y, x)")
    return case

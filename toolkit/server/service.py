"""What all protocols of the server share: one engine, one compute thread, the leases, and how errors are answered."""

from __future__ import annotations

import asyncio
import json
import secrets
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gstk.cases.npz import Case
from gstk.core.bundle import Bundle, find_bundle
from gstk.core.files import StrPath
from gstk.errors import GstkError, Interrupted
from gstk.server.admission import Admission
from gstk.server.compute import ComputeThread, Stopping
from gstk.server.guard import TooLarge
from gstk.server.leases import AtCapacity, Clocks, Lease, LeaseLost, Leases
from gstk.server.workspace import CALL_S, Workspace
from gstk.session import factory
from gstk.session.embedding_cache import DEFAULT_LIMIT_BYTES
from gstk.session.session import Session

__all__ = ["BadRequest", "Service", "Settings", "answer_error", "read_body", "read_json"]

_LISTEN_S = 0.25
_Result = TypeVar("_Result")


class BadRequest(GstkError):
    """A request that is not what the protocol says.

    Attributes:
        status: of the answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Settings:
    """How a server serves.

    Attributes:
        max_sessions: most clients at a time.
        clocks: when their leases end.
        key: what clients must show; None where those on this machine need none.
        page_token: what pages in the browser show.
        hosts: names that the Host header may hold, besides those of this machine.
        name: in front of lease tokens, where several servers stand behind one proxy.
        upload_limit_bytes: of one volume, as it is sent and as it lies in memory.
        call_s: seconds for a call.
        cache_bytes: memory for embeddings, of all sessions together.
        licence: of the network, shown to users.
        itksnap: whether ITK-SNAP is served, too; see `gstk.server.itksnap`.
    """

    max_sessions: int = 8
    clocks: Clocks = Clocks()
    key: str | None = None
    page_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    hosts: tuple[str, ...] = ()
    name: str = ""
    upload_limit_bytes: int = 4 * 2**30
    call_s: float = CALL_S
    cache_bytes: int = DEFAULT_LIMIT_BYTES
    licence: str = "unknown"
    itksnap: bool = False


class Service:
    """One engine for all; see the module. For the event loop's thread alone.

    Attributes:
        settings: how it serves.
        compute: the thread that runs the engine.
        leases: who uses it.
        admission: what volumes there is memory for.
        first: a volume that pages open by themselves; None where there is none.
    """

    def __init__(self, engine_session: Session, settings: Settings, first: Case | None = None) -> None:
        """Begins without leases.

        Args:
            engine_session: whose engine all sessions use; it is closed with the service.
        """
        self.settings, self.first = settings, first
        self.compute, self._warming = ComputeThread(), ComputeThread()
        self._engine_session = engine_session
        engine_session.embeddings.limit_bytes = settings.cache_bytes
        self.admission = Admission(engine_session.embeddings.free)
        self.leases = Leases(
            lambda: Workspace(engine_session.sibling(), settings.call_s),
            settings.max_sessions,
            settings.clocks,
            settings.name,
        )

    @classmethod
    def open(cls, bundle: StrPath, settings: Settings, first: Case | None = None, **engine: Any) -> Self:
        """A service with a bundle's engine.

        Args:
            bundle: a bundle's folder, or the name of a built-in one.
            settings: its licence is that of the bundle.
            engine: `backend`, `precision`, `device`, `threads`, `options`, `refine`, as in `gstk.open`.

        Raises:
            BundleError, BackendMissing: see `gstk.open`.
        """
        path = find_bundle(bundle)
        licence = Bundle.open(path).manifest.licence
        return cls(factory.open(path, **engine), replace(settings, licence=licence), first)

    async def warm_up(self) -> None:
        """Segments something small, so that the first user does not wait for what is loaded at the first click.

        That takes a thread of its own, since a scan that is opened meanwhile needs no engine to be shown.
        """
        volume = np.full((32, 32, 32), -1000, np.int16)  # as CT, which every profile takes
        volume[8:24, 8:24, 8:24] = 40

        def click() -> None:
            with warnings.catch_warnings(), self._engine_session.sibling() as session:
                warnings.simplefilter("ignore")
                session.set_image(volume)
                session.add_point((16, 16, 16))

        with suppress(GstkError):  # what is wrong with the bundle, the first user is told
            await self._warming.run(self, "start", click, self._engine_session.cancel)

    async def claim(self, is_page: bool = False, token: str | None = None) -> Lease:
        """A new lease of this process.

        Args:
            token: of the lease; made where there is none.

        Raises:
            AtCapacity: all are taken.
        """
        lease, ended = self.leases.claim(is_page, token)
        for other in ended:
            await self.end(other)
        return lease

    async def claim_token(self, is_page: bool = False) -> str:
        """The token of a new lease, which need not be this process's where several stand behind a router.

        Raises:
            AtCapacity: all are taken.
        """
        return (await self.claim(is_page)).token

    def lease(self, request: Request) -> Lease:
        """The lease that a request shows; raises `LeaseLost`."""
        return self.leases.find(request.headers.get("x-lease-token"))

    async def act(
        self, request: Request, lease: Lease, name: str, call: Callable[[], _Result], watch: bool = True
    ) -> _Result:
        """Runs a call of a lease on the compute thread; a client that goes away ends it.

        Args:
            watch: whether to; only where the request's body was read.
        """

        async def gone() -> None:
            while not await request.is_disconnected():
                await asyncio.sleep(_LISTEN_S)

        with self.leases.acting(lease):
            cancel = lease.workspace.session.cancel
            return await self.compute.run(lease, name, call, cancel, gone if watch else None)

    async def end(self, lease: Lease) -> None:
        """Ends what a lease computes, and frees what it holds."""
        if lease.extra is not None:
            lease.extra.clear()
        await self.compute.cancel(lease)
        with suppress(Interrupted):  # the server is stopping, and closes the engine itself
            await self.compute.run(lease, "end of a session", lease.workspace.close, lambda: None)

    async def sweep_forever(self) -> None:
        """Ends leases whose clocks have run out."""
        while True:
            await asyncio.sleep(self.settings.clocks.sweep_s)
            for lease in self.leases.sweep():
                await self.end(lease)

    async def stop(self) -> None:
        """Ends all calls; those that come later are refused."""
        await self.compute.close()
        await self._warming.close()

    async def close(self) -> None:
        """Ends all calls, and closes the engine."""
        await self.stop()
        for lease in self.leases:
            self.leases.release(lease.token)
            if lease.extra is not None:
                lease.extra.clear()
            lease.workspace.close()
        self._engine_session.close()


async def read_body(request: Request) -> bytearray:
    """The whole body, in memory of its stated length; longer ones were refused before."""
    stated = request.headers.get("content-length")
    body = bytearray(int(stated or 0))
    at = 0
    async for part in request.stream():
        if at + len(part) > len(body):
            body.extend(bytes(at + len(part) - len(body)))
        body[at : at + len(part)] = part
        at += len(part)
    if at < len(body):
        raise BadRequest(f"got a body of {at} bytes, expected the {len(body)} that Content-Length said")
    return body


async def read_json(request: Request) -> dict[str, Any]:
    """A body that is one JSON object; an empty one counts as `{}`.

    Raises:
        BadRequest: it is something else.
    """
    body = await read_body(request)
    return parse_object(bytes(body) or b"{}", "a body")


def parse_object(text: bytes | str, what: str) -> dict[str, Any]:
    """One JSON object; raises `BadRequest` for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest(f"got {what} that is no JSON, expected an object") from None
    if not isinstance(found, dict):
        raise BadRequest(f"got {what} that is a {type(found).__name__}, expected a JSON object")
    return found


async def answer_error(request: Request, error: Exception) -> Response:
    """The answer to what was raised: JSON with one entry, `detail`."""
    if isinstance(error, LeaseLost):
        return JSONResponse({"detail": str(error)}, 410)
    if isinstance(error, AtCapacity):
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "10"})
    if isinstance(error, BadRequest):
        return JSONResponse({"detail": str(error)}, error.status)
    if isinstance(error, Interrupted):
        return JSONResponse({"detail": str(error)}, 503 if isinstance(error, Stopping) else 409)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)
    if isinstance(error, TooLarge):
        return JSONResponse({"detail": str(error)}, 413)
    return JSONResponse({"detail": str(error)}, 400)

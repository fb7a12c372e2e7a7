"""The server's application, and running it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gstk.errors import GstkError
from gstk.server import itksnap, legacy_slicer, nninteractive, page_api
from gstk.server.guard import App, Guard
from gstk.server.service import Service, answer_error

__all__ = ["build_app"]


def build_app(service: Service, only_leases: bool = False) -> App:
    """The ASGI application of a service; it closes the service when it ends.

    Args:
        only_leases: leaves out the protocols whose requests show no lease token, by which a router could pin them.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(service.sweep_forever())
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
            await service.close()

    settings = service.settings
    legacy = None if only_leases else legacy_slicer.LegacyProtocol(service)
    app = Starlette(
        routes=[
            *nninteractive.routes(service, legacy.prefers if legacy else None),
            *(legacy_slicer.routes(legacy) if legacy else ()),
            *page_api.routes(service),
            *(itksnap.routes(service) if settings.itksnap else ()),
        ],
        lifespan=lifespan,
        exception_handlers={
            GstkError: answer_error,
            ClientDisconnect: answer_error,
            HTTPException: _answer_http,
            Exception: _answer_unexpected,
        },
    )
    return Guard(app, settings.page_token, settings.key, settings.hosts, settings.upload_limit_bytes)


async def _answer_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = "there is nothing at this path; is the address that of a gstk server?" if status == 404 else str(error)
    return JSONResponse({"detail": detail}, status)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    """Of a fault of ours: the client learns no more than its kind, the log has the rest."""
    return JSONResponse({"detail": f"the server failed: {type(error).__name__}; its log says more"}, 500)

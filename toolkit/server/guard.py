"""Refuses requests before they are handled: foreign hosts and pages, missing keys, bodies that are too large.

A page of another origin may send requests to a server on this machine, and with a name that it makes point here (DNS
rebinding) it may read the answers. Viewers send neither Origin, Cookie nor Sec-Fetch headers; whatever does is a
browser and has to show the page's token.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from gstk.errors import GstkError

__all__ = ["META_LIMIT_BYTES", "Guard", "TooLarge", "refusal"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
META_LIMIT_BYTES = 8 * 2**10
JSON_LIMIT_BYTES = 64 * 2**10
BULKY = (
    "/set_image",
    "/add_scribble_interaction",
    "/add_lasso_interaction",
    "/add_initial_seg_interaction",
    "/api/upload",
    "/upload_image",
    "/upload_segment",
)
"""Paths whose bodies may be large; those of all others are JSON."""
BULKY_BEGINNINGS = ("/upload_raw/", "/process_scribble_interaction/", "/process_lasso_interaction/")
"""Those of ITK-SNAP, with a session behind and perhaps `/v2` in front."""
_OPEN = ("/healthz",)
_PAGE = ("/", "/favicon.ico")
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class TooLarge(GstkError):
    """A body exceeds its size limit."""


async def refusal(send: Send, status: int, detail: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Sends a refusal as nnInteractive's servers do: JSON with one entry, `detail`."""
    from json import dumps

    body = dumps({"detail": detail}).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


class Guard:
    """ASGI middleware; see the module."""

    def __init__(self, app: App, page_token: str, key: str | None, hosts: Iterable[str], limit_bytes: int) -> None:
        """Guards an application.

        Args:
            page_token: what pages in the browser show.
            key: what all clients show; None where those on this machine need none.
            hosts: names that the Host header may hold, besides those of this machine; ports are not looked at.
            limit_bytes: of a body that holds a volume or mask.
        """
        self._app, self._limit_bytes = app, limit_bytes
        self._page_token, self._key = page_token.encode(), None if key is None else key.encode()
        self._hosts = {name.lower() for name in (*LOOPBACK_NAMES, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        limit = self._limit_bytes if _is_bulky(scope["path"]) else JSON_LIMIT_BYTES
        refused = self._refused(scope, headers, limit)
        if refused is not None:
            status, detail = refused
            await refusal(protected, status, detail, [(b"www-authenticate", b"Bearer")] if status == 401 else [])
            return
        await self._app(scope, _counted(receive, limit), protected)

    def _refused(self, scope: Scope, headers: dict[str, str], limit: int) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            return 421, "this server does not answer to that Host; start it with --allow-host to add a name"
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return 403, "requests from pages of another origin are refused"
        path, method = scope["path"], scope["method"]
        opens = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site in ("cross-site", "same-site") and not opens:
            return 403, "requests from pages of another site are refused"
        if not self._may(path, method, headers):
            return 401, "the key is missing or wrong; a browser needs the address that gstk serve printed"
        stated = headers.get("content-length", "0")
        if not stated.isdecimal():
            return 400, "got a Content-Length that is no number"
        if int(stated) > limit:
            return 413, f"got a body of {stated} bytes, expected at most {limit}"
        if len(headers.get("x-meta", "")) > META_LIMIT_BYTES:
            return 400, f"got X-Meta of more than {META_LIMIT_BYTES} bytes"
        return None

    def _may(self, path: str, method: str, headers: dict[str, str]) -> bool:
        if path in _OPEN or (method in ("GET", "HEAD") and (path in _PAGE or path.startswith("/page/"))):
            return True
        is_browser = (
            "origin" in headers or "cookie" in headers or any(name.startswith("sec-fetch-") for name in headers)
        )
        if self._key is None and not is_browser and not path.startswith("/api/"):
            return True
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        accepted = [self._page_token] if self._key is None else [self._page_token, self._key]
        # Every secret is compared, so that the time says nothing of which one was nearly right.
        return any([hmac.compare_digest(shown.encode(), secret) for secret in accepted]) and scheme == "Bearer"


def _is_bulky(path: str) -> bool:
    return path in BULKY or path.removeprefix("/v2").startswith(BULKY_BEGINNINGS)


def _name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def _counted(receive: Receive, limit: int) -> Receive:
    """Reads a body up to a limit, whatever its Content-Length says."""
    got = 0

    async def counted() -> Message:
        nonlocal got
        message = await receive()
        if message["type"] == "http.request":
            got += len(message.get("body", b""))
            if got > limit:
                raise TooLarge(f"got a body of more than {limit} bytes; give the server a larger --max-upload-gb")
        return message

    return counted

"""Checks a server as a client would: claim, capabilities, release."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gstk.errors import GstkError

__all__ = ["ServerReport", "check_server"]


@dataclass(frozen=True)
class ServerReport:
    """A server that answers as nnInteractive's clients expect.

    Attributes:
        version: of the protocol that it speaks.
        interactions: what may be drawn.
        licence: of its network.
        max_sessions: most clients at a time.
    """

    version: str
    interactions: tuple[str, ...]
    licence: str
    max_sessions: int


def check_server(url: str, key: str | None = None, timeout_s: float = 10.0) -> ServerReport:
    """Claims a session, asks what the server can do, and releases the session.

    Args:
        url: as a viewer takes it, such as http://127.0.0.1:1527.
        key: what the server asks for, if it does.
        timeout_s: for each of the three.

    Raises:
        GstkError: the server is not there, is no such server, refuses the key, or is full; the message says which.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise GstkError(f"got the address {url!r:.80}, expected one such as http://127.0.0.1:1527")
    base = url.partition("#")[0].rstrip("/")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    claim = _ask(f"{base}/claim", headers, timeout_s, b"")
    token = claim.get("lease_token")
    if not isinstance(token, str):
        raise GstkError(f"{base} answers, but gives no lease_token to /claim; it is no nnInteractive server")
    headers["X-Lease-Token"] = token
    try:
        found = _ask(f"{base}/capabilities", headers, timeout_s)
    finally:
        _ask(f"{base}/release", headers, timeout_s, b"")
    kinds = found.get("supported_interactions")
    if not isinstance(kinds, dict):
        raise GstkError(f"{base} answers, but /capabilities lacks supported_interactions; clients cannot use it")
    return ServerReport(
        str(found.get("inference_session_version", "unknown")),
        tuple(kind for kind, can in kinds.items() if can),
        str(found.get("license", "unknown")),
        int(claim.get("max_sessions", 0)),
    )


def _ask(url: str, headers: dict[str, str], timeout_s: float, body: bytes | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            found = json.loads(answer.read(2**20))
    except urllib.error.HTTPError as error:
        raise GstkError(_refused(url, error)) from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise GstkError(
            f"cannot reach {url}: {reason}; is gstk serve running there, is the port right, does a firewall block it?"
        ) from None
    except ValueError:
        raise GstkError(f"{url} answers something else than JSON; a proxy or another server is there") from None
    if not isinstance(found, dict):
        raise GstkError(f"{url} answers JSON that is no object; it is no nnInteractive server")
    return found


def _refused(url: str, error: urllib.error.HTTPError) -> str:
    try:
        detail = str(json.loads(error.read(2**16))["detail"])
    except (ValueError, KeyError, TypeError):
        detail = error.reason
    remedies = {
        401: "give the key that the server printed with --api-key",
        403: "the request came through something that looks like a browser",
        404: "it is no nnInteractive server, or the path in the address is wrong",
        421: "start the server with --allow-host for this name",
        503: "wait until a session ends, or start the server with more --max-sessions",
    }
    remedy = remedies.get(error.code, "see the server's log")
    return f"{url} answers {error.code}: {detail}; {remedy}"

"""Where a server listens, how it is reached there, and what is printed of it."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import replace

from gstk.errors import GstkError
from gstk.server.guard import LOOPBACK_NAMES
from gstk.server.service import Settings

__all__ = ["announce", "listen", "names_of", "reachable", "url_of"]


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Raises:
        GstkError: the address is taken, or is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        raise GstkError(f"cannot listen at {host}, port {port}: {error}; give another --port or --host") from None
    return listening


def names_of(host: str) -> list[str]:
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


def reachable(settings: Settings, host: str, names: Sequence[str]) -> Settings:
    """The settings of a server that answers to these names; one that others can reach gets a key where it has none."""
    if host in LOOPBACK_NAMES:
        return settings
    return replace(
        settings, key=settings.key or secrets.token_urlsafe(24), hosts=(*settings.hosts, *map(_bracketed, names))
    )


def announce(
    names: Sequence[str], port: int, settings: Settings, open_browser: bool, on_progress: Callable[[str], None]
) -> None:
    """Prints where the page and the viewers find the server, and opens the page if it is to."""
    addresses = [url_of(name, port) for name in names]
    pages = [f"{address}/#token={settings.page_token}" for address in addresses]
    for page in pages:
        on_progress(f"page     {page}")
    for address in addresses:
        on_progress(f"viewers  {address}" + (f" with the key {settings.key}" if settings.key else ""))
    if open_browser:
        webbrowser.open(pages[0])


def url_of(name: str, port: int) -> str:
    """The address of a server that is reached by this name."""
    return f"http://{_bracketed(name)}:{port}"


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name

"""A server in this process for tests: on an engine whose masks are known, or on the built-in bundle."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from flood import POLICY, FloodEngine

from gstk.cases.npz import Case
from gstk.server.app import build_app
from gstk.server.service import Service, Settings
from gstk.session.session import Session

TOKEN = "page-token-of-the-tests"


@dataclass(frozen=True)
class Served:
    """A server that runs, and how it is reached."""

    service: Service
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON and headers of an answer; every header of the request is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": f"127.0.0.1:{self.port}", **(headers or {})}.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            found = json.loads(data) if answer.getheader("content-type") == "application/json" else {}
            return answer.status, found, {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()


@contextmanager
def serving(settings: Settings | None = None, engine: Any = None, first: Case | None = None) -> Iterator[Served]:
    """A server on a free port of this machine, in a thread."""
    session = engine if isinstance(engine, Session) else Session(engine or FloodEngine(), POLICY)
    services: list[Service] = []
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))

    class Server(uvicorn.Server):
        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            services.append(Service(session, settings or Settings(page_token=TOKEN), first))
            self.config.app = build_app(services[0])
            await super().serve(sockets)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await services[0].stop()
            await super().shutdown(sockets)

    # What the extra `serve` installs; faster parsers and loops that other packages bring are not to replace it here.
    config = uvicorn.Config(
        lambda: None, log_level="warning", lifespan="on", timeout_graceful_shutdown=2, http="h11", loop="asyncio"
    )
    server = Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Served(services[0], listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
    assert not thread.is_alive()

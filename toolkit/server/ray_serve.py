"""The server on a Ray cluster: several replicas behind Ray Serve's proxies.

A session lives in one process, so a client's requests must reach the replica that has it. Ray's consistent-hash router
sends what carries the same lease token to the same replica. A token is therefore made first, and claimed by the replica
that it leads to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gstk.batch.ray_pool import Workers, connect, room_for, why
from gstk.core.bundle import find_bundle
from gstk.core.files import StrPath
from gstk.errors import GstkError
from gstk.server.addresses import announce, listen, names_of, reachable, url_of
from gstk.server.app import build_app
from gstk.server.guard import App
from gstk.server.leases import AtCapacity
from gstk.server.run import read_volume
from gstk.server.service import Service, Settings

__all__ = ["serve_on_ray"]

APPLICATION = "gstk"
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
ROUTED_BY = {"RAY_SERVE_SESSION_ID_HEADER_KEY": "x-lease-token"}
"""The environment of Ray Serve's proxies: the header that requests are routed by."""
_ENVIRONMENT = {
    **ROUTED_BY,
    # On a busy machine a proxy takes longer than Ray gives it, and would be ended.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
_LOCAL_ENVIRONMENT = {"RAY_worker_niceness": "0"}  # somebody waits for each click
MOST_TOKENS = 64
"""So many tokens are tried before all replicas are held to be full, if they have not all said so before."""
TRIALS = 8
"""Sessions that are claimed at the start, to see whether requests are routed as they must be."""
_PENDING_CALLS = 1000
"""Requests that a replica takes at a time; clients wait there in order, as without Ray, and none is sent elsewhere."""


def serve_on_ray(
    volume: StrPath | None,
    bundle: StrPath,
    host: str,
    port: int,
    settings: Settings,
    workers: Workers,
    open_browser: bool = False,
    on_progress: Callable[[str], None] = lambda line: None,
    **engine: Any,
) -> None:
    """Serves until SIGINT or SIGTERM, by replicas on a cluster; each machine of it listens.

    Args:
        volume, bundle, host, port, open_browser, on_progress, engine: as in `gstk.server.run.serve`; all machines must
            find both files under the same path.
        settings: of each replica.
        workers: the cluster, and number and resources of the replicas.

    Raises:
        GstkError: the address is taken, or the cluster does not route requests by their lease tokens.
        EvaluationError: the cluster cannot be reached, or has too little room.
        BundleError, CaseError: see `gstk.open` and `gstk.cases.volumes.read_any`.
    """
    for name, value in (_ENVIRONMENT | _LOCAL_ENVIRONMENT).items():
        os.environ.setdefault(name, value)  # before Ray Serve is imported; a cluster that is started here inherits it
    if volume is not None:
        volume = Path(volume).resolve()
        read_volume(volume, on_progress)
    path = find_bundle(bundle)
    on_progress(f"loading  {path.name}")
    if Path(bundle).exists():
        bundle = path.resolve()
    with listen(host, port) as free:
        port = free.getsockname()[1]
    connect(workers, _ENVIRONMENT)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, RequestRouterConfig

    try:
        names = names_of(host) if workers.address == "local" else _machines(host)
        settings = reachable(settings, host, names)
        count = room_for(workers)
        deployment = serve.deployment(
            serve.ingress()(_Replica),
            name="Replica",
            num_replicas=count,
            max_ongoing_requests=_PENDING_CALLS,
            ray_actor_options={"num_cpus": workers.cpus, "num_gpus": workers.gpus},
            # Otherwise names of files that were dropped would stand in Ray's log.
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
            request_router_config=RequestRouterConfig(
                request_router_class=ROUTER, request_router_kwargs={"num_fallback_replicas": 0}
            ),
        )
        stopping = threading.Event()
        serve.start(http_options=HTTPOptions(host=host, port=port), logging_config={"log_level": "WARNING"})
        try:
            serve.run(deployment.bind(volume, bundle, settings, engine, count), name=APPLICATION, route_prefix="/")
            _check_routing(url_of(names[0], port), settings)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stopping.set())
            on_progress(f"replicas {count}")
            announce(names, port, settings, open_browser, on_progress)
            stopping.wait()
        finally:
            serve.delete(APPLICATION)
            if not serve.status().applications:  # those of others go on
                serve.shutdown()
    except (RuntimeError, ray.exceptions.RayError) as error:
        raise GstkError(f"Ray Serve could not start the server: {why(error)}") from None
    finally:
        ray.shutdown()
    on_progress("stopped")


class _Replica:
    """One process of the server, with an engine and sessions of its own."""

    def __init__(
        self, volume: StrPath | None, bundle: StrPath, settings: Settings, engine: dict[str, Any], count: int
    ) -> None:
        first = None if volume is None else read_volume(volume, lambda line: None)
        self._service = _RoutedService.open(bundle, settings, first, **engine)
        self._service.replicas = count
        self._warming_up = asyncio.create_task(self._service.warm_up())

    def __serve_build_asgi_app__(self) -> App:
        return build_app(self._service, only_leases=True)

    async def claim(self, token: str, is_page: bool) -> str:
        """Begins a session with this token; where there is no room for one, the name of this replica, else ""."""
        try:
            await self._service.claim(is_page, token)
        except AtCapacity:
            return str(_context().replica_id)
        return ""


class _RoutedService(Service):
    """A service whose clients are shared with other replicas.

    Attributes:
        replicas: how many there are, with this one.
    """

    replicas = 1

    async def claim_token(self, is_page: bool = False) -> str:
        """The token of a new lease of the replica that it leads to."""
        from ray import serve

        context, full = _context(), set[str]()
        replicas = serve.get_deployment_handle(context.deployment, context.app_name)
        for _ in range(MOST_TOKENS):
            token = self.leases.new_token()
            refused_by = await replicas.options(session_id=token).claim.remote(token, is_page)
            if not refused_by:
                return token
            full.add(refused_by)
            if len(full) == self.replicas:
                break
        raise AtCapacity(
            f"the server is at capacity: {self.leases.limit} sessions a replica; wait for one to end, or start it with "
            "more (--max-sessions, --workers)"
        )


def _context() -> Any:
    from ray import serve

    return serve.get_replica_context()


def _machines(host: str) -> list[str]:
    """Addresses under which the cluster's proxies are reached."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    import ray

    return [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]


def _check_routing(url: str, settings: Settings) -> None:
    """Claims sessions, asks for each, and releases it: one that is not found was looked for in another replica."""
    tokens: list[str] = []
    key = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
    try:
        for _ in range(min(TRIALS, settings.max_sessions)):
            tokens.append(_ask(url, "/claim", key, b"")["lease_token"])
        for token in tokens:
            _ask(url, "/lease_status", {**key, "X-Lease-Token": token})
    except urllib.error.HTTPError as error:
        if error.code != 410:
            raise GstkError(f"{url} answers {error.code}, expected a server of gstk") from None
        variable, header = next(iter(ROUTED_BY.items()))
        raise GstkError(
            "the cluster's Ray Serve does not send requests of one session to one replica; stop it (serve shutdown), "
            f"and start the cluster with {variable}={header} in the environment"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise GstkError(
            f"cannot reach the server at {url}: {error}; where Ray Serve runs on the cluster already, it listens at "
            "the address that it was started with: stop it (serve shutdown), or give that --host and --port"
        ) from None
    finally:
        for token in tokens:
            try:
                _ask(url, "/release", {**key, "X-Lease-Token": token}, b"")
            except (OSError, ValueError):
                break


def _ask(url: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url + path, body, headers), timeout=30) as answer:
        return json.loads(answer.read())

"""Leases of clients: each has a workspace of its own, and two clocks end it.

As in nnInteractive's server, a lease ends when nothing was done with it for long (idle), or when its client gave no
sign of life (liveness). While a request is in flight, neither clock runs: some clients send no heartbeat meanwhile.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gstk.errors import GstkError
from gstk.server.workspace import Workspace

__all__ = ["AtCapacity", "Clocks", "Lease", "LeaseLost", "Leases"]


class AtCapacity(GstkError):
    """All leases are taken."""


class LeaseLost(GstkError):
    """A lease is not known, or is over."""


@dataclass(frozen=True)
class Clocks:
    """When leases end.

    Attributes:
        idle_s: after the last action.
        liveness_s: after the last sign of life. A page in the browser keeps its lease for longer, until another client
            needs it, so that opening the page again finds it.
        sweep_s: how often is looked.
    """

    idle_s: float = 3600.0
    liveness_s: float = 60.0
    sweep_s: float = 15.0


@dataclass(eq=False)
class Lease:
    """A client's claim.

    Attributes:
        token: what the client shows.
        workspace: its session.
        is_page: whether it is a page in the browser.
        acted_s, seen_s: when something was done with it, and when there was a sign of life, by the monotonic clock.
        in_flight: requests that are being answered.
        extra: state of a protocol, whose `clear` is called when the lease ends; None where it keeps none.
    """

    token: str
    workspace: Workspace
    is_page: bool
    acted_s: float
    seen_s: float
    in_flight: int = 0
    extra: Any = None


class Leases:
    """All leases of a server. For the event loop's thread alone."""

    def __init__(
        self,
        make: Callable[[], Workspace],
        limit: int,
        clocks: Clocks,
        name: str = "",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins without any.

        Args:
            make: a workspace for a new lease.
            limit: most leases at a time.
            name: of the server, in front of its tokens: a proxy before several servers finds the right one by it.
            now: seconds, of a clock that never goes back.
        """
        self._make, self._now = make, now
        self._prefix = f"{name}-" if name else ""
        self._leases: dict[str, Lease] = {}
        self.limit, self.clocks = limit, clocks

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    def new_token(self) -> str:
        """What a client may show; nobody can guess it."""
        return self._prefix + secrets.token_hex(16)

    def claim(self, is_page: bool = False, token: str | None = None) -> tuple[Lease, list[Lease]]:
        """A new lease, of `token` where it is given, and those that ended for it.

        Raises:
            AtCapacity: all are taken.
        """
        ended = []
        if len(self._leases) >= self.limit:
            ended = sorted(filter(self._is_forsaken, self._leases.values()), key=lambda lease: lease.seen_s)[:1]
            if not ended:
                raise AtCapacity(
                    f"the server is at capacity: {self.limit} sessions; wait for one to end, or start it with more "
                    "(--max-sessions)"
                )
            del self._leases[ended[0].token]
        now = self._now()
        lease = Lease(token or self.new_token(), self._make(), is_page, now, now)
        self._leases[lease.token] = lease
        return lease, ended

    def find(self, token: str | None) -> Lease:
        """The lease of a token.

        Raises:
            LeaseLost: there is none.
        """
        found = None
        for known, lease in self._leases.items():
            if token is not None and hmac.compare_digest(known.encode(), token.encode()):
                found = lease
        if found is None:
            raise LeaseLost("the lease has expired or is not known; connect again")
        return found

    def seen(self, lease: Lease) -> None:
        """Notes a sign of life."""
        lease.seen_s = self._now()

    @contextmanager
    def acting(self, lease: Lease) -> Iterator[None]:
        """Notes an action from its begin to its end."""
        lease.acted_s = lease.seen_s = self._now()
        lease.in_flight += 1
        try:
            yield
        finally:
            lease.in_flight -= 1
            lease.acted_s = lease.seen_s = self._now()

    def remaining_s(self, lease: Lease) -> float:
        """Seconds until it is idle for too long."""
        return max(0.0, self.clocks.idle_s - (self._now() - lease.acted_s))

    def release(self, token: str | None) -> Lease | None:
        """Ends a lease, and returns it; None where there is none."""
        try:
            return self._leases.pop(self.find(token).token)
        except LeaseLost:
            return None

    def sweep(self) -> list[Lease]:
        """Ends those whose clocks have run out, and returns them."""
        ended = [
            lease
            for lease in self._leases.values()
            if not lease.in_flight
            and (self.remaining_s(lease) <= 0 or (self._is_forsaken(lease) and not lease.is_page))
        ]
        for lease in ended:
            del self._leases[lease.token]
        return ended

    def _is_forsaken(self, lease: Lease) -> bool:
        limit_s = self.clocks.liveness_s
        return not lease.in_flight and limit_s > 0 and self._now() - lease.seen_s > limit_s

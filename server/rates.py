"""Most events a second of one client, by its address: one that floods is refused, the others are not slowed by it.

It decides by a single number per client, the moment until which what it sent is paid for (the virtual time of the
generic cell rate algorithm). A batch is taken whole or refused whole, so one may overdraw; the next one waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import unquote

from bandit.errors import Overloaded

BURST_S = 1.0
MOST_CLIENTS = 4096


class Rates:
    """Safe for several threads. ``per_s``: events; 0 lets everything pass."""

    def __init__(self, per_s: float, monotonic_s: Callable[[], float]) -> None:
        self.per_s = per_s
        self._now_s = monotonic_s
        self._paid_until: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, client: str, events: int) -> None:
        """Count the events, or raise Overloaded with the time to wait, and count none of them."""
        if not self.per_s:
            return
        now = self._now_s()
        with self._lock:
            paid = max(self._paid_until.get(client, now), now)
            wait_s = paid - now - BURST_S
            if wait_s > 0:
                raise Overloaded(
                    f"{client} sent more than {self.per_s:g} events a second, which is the most that this server takes "
                    f"of one client; go on in {wait_s:.1f} s, or let its operator raise rewards_per_s",
                    reason="TOO_MANY_EVENTS",
                    retry_delay_s=f"{wait_s:.3f}",
                )
            if client not in self._paid_until and len(self._paid_until) >= MOST_CLIENTS:
                self._forget(now)
            self._paid_until[client] = paid + events / self.per_s

    def _forget(self, now: float) -> None:
        """Those that owe nothing go; if all owe something, the one that owes least."""
        kept = {client: until for client, until in self._paid_until.items() if until > now}
        if len(kept) >= MOST_CLIENTS:
            del kept[min(kept, key=kept.__getitem__)]
        self._paid_until = kept


def client_of(peer: str) -> str:
    """Address without port of what gRPC calls a peer: ``ipv4:10.0.0.7:4711`` is ``10.0.0.7``, ``unix:`` is ``unix``."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind or "unknown"

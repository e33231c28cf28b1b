"""Leases: which experiments this learner writes and judges, and until when it may believe so."""

from __future__ import annotations

from bandit.errors import StoreUnavailable
from server.clock import Clock
from server.store.base import ControlStore, Fence


class Leases:
    """Acquires, renews and drops leases. A lease is believed for two thirds of its time after each renewal began."""

    def __init__(self, store: ControlStore, clock: Clock, owner: str, ttl_ms: int) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._ttl_ms = ttl_ms
        self._held: dict[str, tuple[Fence, float]] = {}

    def held(self) -> list[str]:
        """Names held now, sorted."""
        now = self._clock.monotonic_s()
        return sorted(name for name, (_, until) in self._held.items() if now < until)

    def fence(self, name: str) -> Fence | None:
        """The fence of a lease that is held now, else None."""
        held = self._held.get(name)
        return held[0] if held and self._clock.monotonic_s() < held[1] else None

    def renew(self, names: list[str]) -> tuple[set[str], set[str]]:
        """Acquire or renew a lease on each name, give up all others. Returns (gained, lost) names.

        Raises StoreUnavailable; what is held then runs out by itself.
        """
        before = set(self._held)
        for name in names:
            began = self._clock.monotonic_s()
            fence = self._store.acquire(name, self._owner, self._ttl_ms)
            known = self._held.get(name)
            if fence is None:
                self._held.pop(name, None)
            else:
                if known is not None and known[0] != fence:
                    before.discard(name)  # it was lost in between: whoever held it may have written
                self._held[name] = (fence, began + self._ttl_ms / 1500)
        for name in set(self._held) - set(names):
            del self._held[name]
        now = set(self._held)
        return now - before, before - now

    def drop(self, name: str) -> None:
        """Forget a lease that turned out to be lost, or whose writer failed; it may be acquired again."""
        self._held.pop(name, None)

    def release_all(self) -> None:
        """Give all leases up, so that another learner need not wait for them to run out."""
        for name, (fence, _) in self._held.items():
            try:
                self._store.release(name, fence)
            except StoreUnavailable:
                break
        self._held.clear()

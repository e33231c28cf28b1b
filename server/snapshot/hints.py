"""Names of experiments that the store says have changed: quick, and never relied upon."""

from __future__ import annotations

from collections.abc import Callable

from bandit.errors import StoreUnavailable
from server.clock import Clock
from server.pauses import Pauses
from server.store.base import ControlStore, Subscription

AT_ONCE = 256


class Hints:
    """Listens, and subscribes anew when the line broke. For one thread."""

    def __init__(self, store: ControlStore, clock: Clock, uniform: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._pauses = Pauses(uniform)
        self._subscription: Subscription | None = None
        self._again_s = float("-inf")

    @property
    def listening(self) -> bool:
        """Is there a line?"""
        return self._subscription is not None

    def names(self, timeout_s: float) -> set[str] | None:
        """Names that came within the time, most often none; None at once when there is no line, and none to be had."""
        if self._subscription is None and not self._subscribe():
            return None
        subscription = self._subscription
        assert subscription is not None
        names: set[str] = set()
        try:
            name = subscription.next(timeout_s)
            while name is not None:
                names.add(name)
                name = subscription.next(0.0) if len(names) < AT_ONCE else None
        except StoreUnavailable:
            self.close()
        return names

    def close(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _subscribe(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s < self._again_s:
            return False
        try:
            self._subscription = self._store.subscribe()
        except StoreUnavailable:
            self._again_s = now_s + self._pauses.next()
            return False
        self._pauses.reset()
        return True

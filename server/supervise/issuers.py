"""Issuer numbers in hand, so that a serving process can start again while the store is away; none is given twice."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable

import structlog

from bandit.errors import BanditError

log = structlog.get_logger(__name__)

BATCH = 1024
LOW = 64
BACKOFF_S = 0.1
BACKOFF_CAP_S = 5.0
_uniform = random.SystemRandom().random


class IssuerPool:
    """Keeps numbers, and fetches more in a thread of its own when few are left.

    ``reserve(count)`` gives the first of so many consecutive numbers or raises BanditError; ``wake`` is called
    from the thread when there are new ones.
    """

    def __init__(
        self,
        reserve: Callable[[int], int],
        wake: Callable[[], None],
        *,
        batch: int = BATCH,
        low: int = LOW,
        uniform: Callable[[], float] = _uniform,
    ) -> None:
        self._reserve = reserve
        self._wake = wake
        self._batch = batch
        self._low = low
        self._uniform = uniform
        self._numbers: deque[int] = deque()
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="issuers", daemon=True)

    def start(self) -> None:
        """Fetch the first numbers as soon as the store answers."""
        self._wanted.set()
        self._thread.start()

    def take(self) -> int | None:
        """A number that nobody had, or None when there is none now."""
        number = self._numbers.popleft() if self._numbers else None
        if len(self._numbers) < self._low:
            self._wanted.set()
        return number

    def stop(self) -> None:
        """Fetch no more."""
        self._stop.set()
        self._wanted.set()

    def _run(self) -> None:
        while self._wanted.wait() and not self._stop.is_set():
            self._wanted.clear()
            if len(self._numbers) >= self._low:
                continue  # it was asked more than once
            first = self._fetch()
            if first is None:
                return
            self._numbers.extend(range(first, first + self._batch))
            self._wake()

    def _fetch(self) -> int | None:
        failures = 0
        while not self._stop.is_set():
            try:
                first = self._reserve(self._batch)
            except BanditError as error:
                if failures == 0:
                    log.warning("store_lost", reason=str(error), issuers_left=len(self._numbers))
                self._stop.wait(
                    self._uniform() * min(BACKOFF_CAP_S, BACKOFF_S * float(2 ** min(failures, 10)))
                )
                failures += 1
                continue
            log.debug("issuers_reserved", first=first, count=self._batch)
            return first
        return None

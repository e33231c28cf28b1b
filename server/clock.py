"""The time, as an argument: whoever needs a clock is given one; nothing in the service reads time behind its back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from bandit.errors import StoreUnavailable

ASK_EVERY_S = 1.0
PROMPT_S, OLD_S = 0.1, 10.0
FIRST_S = 0.5


class Clock(Protocol):
    """Two readings of time and a pause. Safe for several threads."""

    def now_ms(self) -> int:
        """Unix time, ms. May jump; for what is stored or shown."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary moment. Never goes back; for ages, deadlines and pauses."""

    def sleep(self, seconds: float) -> None:
        """Pause the calling thread for so many seconds (>= 0)."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """See Clock."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """See Clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See Clock."""
        time.sleep(seconds)


class StoreClock:
    """The store's time, so that servers whose clocks disagree judge one reward alike. Safe for several threads.

    ``ask`` is the store's clock, Unix ms. Between answers the machine's monotonic time is added to the last good one;
    before the first, and in a process that never reached the store, it is the machine's clock.
    """

    def __init__(self, ask: Callable[[], int], machine: Clock) -> None:
        self._ask = ask
        self._machine = machine
        self._offset: tuple[float, float] | None = (
            None  # store's ms less monotonic ms, and when it was heard, s
        )
        self._asked_s = float("-inf")
        self._asking = threading.Lock()

    def begin(self) -> None:
        """Ask before anything is judged by it; a store that is away keeps nobody waiting longer than ``FIRST_S``."""

        def ask() -> None:
            with suppress(StoreUnavailable):
                self.follow()

        first = threading.Thread(target=ask, name="store-clock", daemon=True)
        first.start()
        first.join(FIRST_S)

    def follow(self) -> None:
        """Ask, at most once in ``ASK_EVERY_S``. Raises StoreUnavailable; the clock then goes on as it was."""
        with self._asking:
            began_s = self._machine.monotonic_s()
            if began_s - self._asked_s < ASK_EVERY_S:
                return
            store_ms = self._ask()
            self._asked_s = now_s = self._machine.monotonic_s()
            # Half of what the answer took may be wrong: a slow one is taken when there is none or an old one only.
            known = self._offset
            if known is None or now_s - began_s <= PROMPT_S or began_s - known[1] > OLD_S:
                self._offset = store_ms - 500.0 * (began_s + now_s), now_s

    def now_ms(self) -> int:
        """See Clock."""
        known = self._offset
        if known is None:
            return self._machine.now_ms()
        return round(known[0] + 1000.0 * self._machine.monotonic_s())

    def monotonic_s(self) -> float:
        """See Clock."""
        return self._machine.monotonic_s()

    def sleep(self, seconds: float) -> None:
        """See Clock."""
        self._machine.sleep(seconds)

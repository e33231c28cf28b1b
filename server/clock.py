"""The time, as an argument: whoever needs a clock is given one; nothing in the service reads time behind its back."""

from __future__ import annotations

import time
from typing import Protocol


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

"""Stand-ins for what a test must hold in its hand; each keeps the promise of the Protocol it stands for."""

from __future__ import annotations

import threading


class FakeClock:
    """A ``server.clock.Clock`` that moves only when told; ``sleep`` moves it and returns at once.

    ``sleeps`` lists the pauses asked for, s.
    """

    def __init__(self, now_ms: int = 1_800_000_000_000, monotonic_s: float = 1000.0) -> None:
        self.sleeps: list[float] = []
        self._start_ms = now_ms
        self._start_s = monotonic_s
        self._passed_s = 0.0
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        return self._start_ms + round(self._passed_s * 1000)

    def monotonic_s(self) -> float:
        return self._start_s + self._passed_s

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.sleeps.append(seconds)
            self._passed_s += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody having slept."""
        with self._lock:
            self._passed_s += seconds

"""A real learner beside the test, in a thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from server.clock import SystemClock
from server.runtime import LearnerLoop, LoopSettings
from server.store.base import Store


class Silent:
    """Telemetry that counts nothing."""

    def folded(self, entries: int, rewards: int, exposures: int, seconds: float) -> None:
        """See Telemetry."""

    def committed(self, action: str) -> None:
        """See Telemetry."""

    def evaluated(self, experiment: str, behind: int, outcomes: dict[str, int]) -> None:
        """See Telemetry."""

    def forgotten(self, experiment: str) -> None:
        """See Telemetry."""

    def leases(self, held: int) -> None:
        """See Telemetry."""

    def set_back(self, action: str) -> None:
        """See Telemetry."""


@contextmanager
def learner(store: Store, owner: str = "learner") -> Iterator[LearnerLoop]:
    """Learns until the test leaves it. A short lease, so that a new one takes over soon."""
    settings = LoopSettings(
        owner, lease_ttl_s=2.0, tick_s=0.05, block_s=0.01, housekeeping_s=0.1, retry_s=0.1
    )
    loop = LearnerLoop(store, SystemClock(), settings, Silent())
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,), name=owner, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        stop.set()
        thread.join(20)

"""What the services count of their own work; ``server.telemetry`` has the names of the metrics."""

from __future__ import annotations

from typing import Protocol


class ServiceTelemetry(Protocol):
    """Called on the hot path by many threads: it must only add."""

    def decided(self, reason: str, mode: str, count: int = 1) -> None:
        """So many decisions were answered."""

    def rewarded(self, outcome: str, reason: str = "", count: int = 1) -> None:
        """So many rewards ended so."""

    def appended(self, seconds: float) -> None:
        """One append to the log took so long."""


class Uncounted:
    """Counts nothing."""

    def decided(self, reason: str, mode: str, count: int = 1) -> None:
        """Nothing."""

    def rewarded(self, outcome: str, reason: str = "", count: int = 1) -> None:
        """Nothing."""

    def appended(self, seconds: float) -> None:
        """Nothing."""

"""What is counted of sources of rewards, as ``server.ingest.watch`` tells it, once a portion of events."""

from __future__ import annotations

import threading
from collections import Counter

from prometheus_client import CollectorRegistry

from server.telemetry import catalogue, shared


class IngestTelemetry:
    """For the threads of all sources. Names of sources are of the configuration, so they are few."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._events = shared.counter(catalogue.SOURCE_EVENTS, registry)
        self._up = shared.gauge(catalogue.SOURCE_UP, registry)
        self._lag = shared.gauge(catalogue.SOURCE_LAG, registry)
        self._skipped = shared.counter(catalogue.SOURCE_SKIPPED, registry)
        self._lost = shared.counter(catalogue.SOURCE_LOST, registry)
        self._newest = shared.gauge(catalogue.SOURCE_NEWEST, registry)
        self._alarm = shared.gauge(catalogue.SOURCE_ALARM, registry)
        self._reasons = shared.Bounded()
        self._sources = shared.Bounded()
        self._told: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def arrived(self, source: str, fate: str, reason: str, count: int) -> None:
        """So many events were sorted this way."""
        with self._lock:
            labels = (self._sources(source), fate, self._reasons(reason) if reason else "")
        self._events.labels(*labels).inc(count)

    def stands(self, source: str, *, up: bool, lag: int, skipped: int, lost: int, newest_ms: int) -> None:
        """How the source is; ``skipped`` and ``lost`` since this process began."""
        with self._lock:
            source = self._sources(source)
            more = [self._more(source, "skipped", skipped), self._more(source, "lost", lost)]
        self._up.labels(source).set(up)
        self._lag.labels(source).set(lag)
        self._skipped.labels(source).inc(more[0])
        self._lost.labels(source).inc(more[1])
        if newest_ms:
            self._newest.labels(source).set(newest_ms / 1000)

    def alarmed(self, source: str, alarm: str, *, on: bool) -> None:
        """An alarm is on or off."""
        with self._lock:
            source = self._sources(source)
        self._alarm.labels(source, alarm).set(on)

    def _more(self, source: str, what: str, total: int) -> int:
        before = self._told[source, what]
        self._told[source, what] = max(total, before)
        return max(total - before, 0)

"""What a serving process counts: cheap adds while it answers, written to the shared files once a second."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from server.telemetry import catalogue, shared
from server.telemetry.hot import HotCounter, HotHistogram

log = structlog.get_logger(__name__)

FLUSH_S = 1.0


@dataclass(frozen=True, slots=True)
class ServingLevels:
    """How a serving process stands. The first four are totals since it started, in decisions.

    ``snapshot_read_ms``: None before anything was read; ``saved_ms``: None before it was written to disk.
    """

    journaled: int = 0
    not_journaled: int = 0
    shipped: int = 0
    dropped: int = 0
    backlog: int = 0
    snapshot_version: int = 0
    snapshot_read_ms: int | None = None
    store_up: bool = False
    set_back: bool = False
    lease_expired: bool = False
    stopped: int = 0
    saved_ms: int | None = None
    save_failures: int = 0
    put_back: int = 0
    features_missing: int = 0


class ServingTelemetry:
    """Any thread may count; ``flush`` writes. ``levels`` is asked at each flush, and must not wait for anything."""

    def __init__(
        self, levels: Callable[[], ServingLevels], registry: CollectorRegistry | None = None
    ) -> None:
        self._levels = levels
        self._registry = registry = registry or CollectorRegistry()
        self._rpcs: HotHistogram[tuple[str, str]] = HotHistogram(catalogue.RPC_SECONDS.bounds)
        self._decisions: HotCounter[tuple[str, str]] = HotCounter()
        self._rewards: HotCounter[tuple[str, str]] = HotCounter()
        self._appends: HotHistogram[None] = HotHistogram(catalogue.APPEND_SECONDS.bounds)
        self._rpcs_total = shared.counter(catalogue.RPCS, registry)
        self._rpc_seconds = shared.histogram(catalogue.RPC_SECONDS, registry)
        self._decisions_total = shared.counter(catalogue.DECISIONS, registry)
        self._rewards_total = shared.counter(catalogue.REWARDS, registry)
        self._append_seconds = shared.histogram(catalogue.APPEND_SECONDS, registry)
        self._totals = {
            name: shared.counter(family, registry)
            for name, family in (
                ("journaled", catalogue.JOURNALED),
                ("not_journaled", catalogue.NOT_JOURNALED),
                ("shipped", catalogue.SHIPPED),
                ("dropped", catalogue.DROPPED),
                ("save_failures", catalogue.SAVE_FAILURES),
                ("put_back", catalogue.PUT_BACK),
                ("features_missing", catalogue.FEATURES_MISSING),
            )
        }
        self._written = ServingLevels()
        self._backlog = shared.gauge(catalogue.BACKLOG, registry)
        self._store_up = shared.gauge(catalogue.STORE_UP, registry)
        self._standing = {
            name: shared.gauge(family, registry)
            for name, family in (
                ("set_back", catalogue.SET_BACK),
                ("lease_expired", catalogue.LEASE_EXPIRED),
                ("stopped", catalogue.STOPPED_ARMS),
            )
        }
        self._saved: Gauge | None = None
        self._snapshot: tuple[Gauge, Gauge] | None = None
        self._bounded = shared.Bounded()
        self._flushing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """One RPC ended."""
        self._rpcs.observe((method, code), seconds)

    def decided(self, reason: str, mode: str, count: int = 1) -> None:
        """So many decisions were answered."""
        self._decisions.add((reason, mode), count)

    def rewarded(self, outcome: str, reason: str = "", count: int = 1) -> None:
        """So many rewards ended so."""
        self._rewards.add((outcome, reason), count)

    def appended(self, seconds: float) -> None:
        """One append to the log took so long."""
        self._appends.observe(None, seconds)

    def start(self) -> None:
        """Flush once a second from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Flush what is left, and no more after that."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Write what was counted since the last time."""
        with self._flushing:
            word = self._bounded
            for (method, code), spread in self._rpcs.drain().items():
                self._rpcs_total.labels(word(method), word(code)).inc(sum(spread.buckets))
                shared.observe_many(self._rpc_seconds.labels(word(method)), spread.buckets, spread.sum_s)
            for hot, total in (
                (self._decisions, self._decisions_total),
                (self._rewards, self._rewards_total),
            ):
                _flush(hot, total, word)
            for spread in self._appends.drain().values():
                shared.observe_many(self._append_seconds, spread.buckets, spread.sum_s)
            self._flush_levels(self._levels())

    def _flush_levels(self, now: ServingLevels) -> None:
        for name, total in self._totals.items():
            total.inc(max(0, getattr(now, name) - getattr(self._written, name)))
        self._written = now
        self._backlog.set(now.backlog)
        self._store_up.set(now.store_up)
        for name, gauge in self._standing.items():
            gauge.set(getattr(now, name))
        if now.saved_ms is not None:
            # Only by the process that writes.
            self._saved = self._saved or shared.gauge(catalogue.SNAPSHOT_SAVED, self._registry)
            self._saved.set(now.saved_ms / 1000)
        if now.snapshot_read_ms is None:
            return
        if self._snapshot is None:
            # Not before: until then the smallest of all servers' would be this one's 0.
            self._snapshot = (
                shared.gauge(catalogue.SNAPSHOT_READ, self._registry),
                shared.gauge(catalogue.SNAPSHOT_VERSION, self._registry),
            )
        self._snapshot[0].set(now.snapshot_read_ms / 1000)
        self._snapshot[1].set(now.snapshot_version)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_S):
            try:
                self.flush()
            except Exception:
                log.exception("telemetry_failed")


def _flush(hot: HotCounter[tuple[str, str]], total: Counter, word: shared.Bounded) -> None:
    for labels, count in hot.drain().items():
        total.labels(*map(word, labels)).inc(count)

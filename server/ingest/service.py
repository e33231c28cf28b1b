"""All sources of one process: a thread each; when one of them breaks, the process is to end and be started anew."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from server.clock import Clock
from server.ingest.base import Chosen, Kind
from server.ingest.pipeline import Pipeline
from server.ingest.watch import SourceTelemetry, Watch
from server.snapshot import SnapshotKeeper
from server.store.base import Store

log = structlog.get_logger(__name__)


class Ingest:
    """Pipelines of the configured sources. Start once; ``broken`` is set when one of them ended by itself."""

    def __init__(
        self,
        chosen: Sequence[Chosen],
        kinds: Mapping[str, Kind],
        store: Store,
        keeper: SnapshotKeeper,
        clock: Clock,
        telemetry: SourceTelemetry,
        owner: str,
    ) -> None:
        self.broken = threading.Event()
        self._stop = threading.Event()
        self._clock = clock
        self._threads = []
        self._turned_s: dict[str, float] = {}
        for each in chosen:
            self._turned(each.name)
            source = kinds[each.kind].make(each, clock.now_ms)
            watch = Watch(each.name, each.kind, owner, clock.now_ms(), each.alarms, telemetry)
            turned = partial(self._turned, each.name)
            pipeline = Pipeline(each, source, store, keeper, clock, watch, turned=turned)
            self._threads.append(
                threading.Thread(target=self._run, args=(pipeline,), name=f"source-{each.name}", daemon=True)
            )

    def start(self) -> None:
        """Begin to read."""
        for name in self._turned_s:
            self._turned(name)
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Deliver what was polled and let go. True when all ended in time."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def still_s(self) -> float:
        """For how long the one that stands still longest has not turned."""
        now_s = self._clock.monotonic_s()
        return now_s - min(self._turned_s.values(), default=now_s)

    def _turned(self, name: str) -> None:
        self._turned_s[name] = self._clock.monotonic_s()

    def _run(self, pipeline: Pipeline) -> None:
        try:
            pipeline.run(self._stop)
        except Exception:
            log.exception("source_broke", source=pipeline.name)
            self.broken.set()

"""Puts together the parts of a serving worker, and those of a learner: the one file that constructs.

Each part is imported by the process that needs it: a serving worker loads no numba, a learner no gRPC server.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog

from bandit.errors import BanditError
from server.clock import Clock, StoreClock, SystemClock
from server.config import Config
from server.pauses import Pauses
from server.store.base import Durability, Stored
from server.store.redis import RedisStore

if TYPE_CHECKING:
    from server.journal.journal import Journal
    from server.journal.shipper import Shipper
    from server.rpc.decisions import Decisions
    from server.snapshot import Shelf, Snapshot, SnapshotKeeper
    from server.stops import StopFile
    from server.telemetry.serving import ServingLevels

log = structlog.get_logger(__name__)

INGEST_STOP_S = 8.0
INGEST_STILL_S = 2.0


def run_serving(
    config: Config, issuer: int, ready: Callable[[], None], beat: Callable[[], None] = lambda: None
) -> int:
    """Serve until SIGTERM or SIGINT; then drain. Returns the exit status. ``beat``: see ``supervise.lifeline.pulse``.

    ``issuer`` 0: the store is asked for a number, until it gives one; before that nothing can be decided.
    """
    from server.checks import machine as machine_findings
    from server.rates import Rates
    from server.rpc.decisions import Decisions
    from server.rpc.experiments import Experiments
    from server.rpc.ingestion import Ingestion
    from server.rpc.local import Local
    from server.rpc.reconcile import Reconciler
    from server.rpc.rewards import Rewards
    from server.rpc.server import Limits, build_server
    from server.rpc.tally import Tally
    from server.snapshot import Shelf, SnapshotKeeper, matters
    from server.stops import StopFile
    from server.telemetry.serving import ServingTelemetry

    stop = _stopped_by_signals()
    # Ages of what is on disk are told by the machine's clock, which a start without the store has too.
    machine = SystemClock()
    store = RedisStore(config.store)
    clock = StoreClock(store.now_ms, machine)
    clock.begin()
    stops = StopFile(config.data_dir)
    shelf = Shelf(config.data_dir / "snapshot", machine)

    def kept(snapshot: Snapshot, changed: bool) -> None:
        shelf.keep(snapshot, changed)
        clock.follow()

    keeper = SnapshotKeeper(
        store,
        machine,
        poll_s=config.poll_s,
        lease_s=config.exposure_lease_s,
        halts=stops,
        kept=kept,
        beat=beat,
    )
    if (snapshot := shelf.load()) is not None:
        keeper.restore(snapshot)
    exposures = _Exposures(config, store, keeper, clock)
    telemetry = ServingTelemetry(
        _levels(
            clock,
            keeper,
            exposures,
            shelf,
            stops,
            lambda: rewards.doubt.counts.put_back,
            lambda: decisions.features_missing,
        )
    )
    decisions = Decisions(keeper, clock, None, telemetry)
    tally = Tally(store)
    durability = Durability[config.reward_durability.upper()]
    rates = Rates(config.rewards_per_s, machine.monotonic_s)
    rewards = Rewards(keeper, store, clock, telemetry, tally, durability, rates)
    local = Local(
        keeper, stops, clock, lambda: shelf.saved_ms, lambda: [*machine_findings(config), *store.findings()]
    )
    experiments = Experiments(store, clock, standing=local.standing)
    rpc, server = build_server(
        decisions,
        rewards,
        experiments,
        local=local,
        ingestion=Ingestion(store, keeper, clock),
        limits=Limits(decide_threads=config.threads, streams=config.streams),
        telemetry=telemetry,
        reflection=config.reflection,
        before_stop=experiments.watcher.stop,
    )
    if server.add_insecure_port(config.listen) == 0:
        log.error("port_refused", listen=config.listen)
        return 1
    reconciler = Reconciler(store, stops, clock, lambda stop: matters(stop, keeper.snapshot))
    parts: tuple[_Started, ...] = (keeper, shelf, telemetry, reconciler, tally, rewards.doubt, rpc)
    for part in parts:
        part.start()
    log.info("serving_started", listen=config.listen, issuer=issuer, restored=snapshot is not None)
    if issuer or snapshot is None:
        exposures.begin(issuer, stop, decisions)
    else:  # from the state on disk it decides at once, uncounted until the store gives a number
        threading.Thread(target=exposures.begin_later, args=(stop, decisions), daemon=True).start()
    while not stop.is_set() and not keeper.ready.wait(0.1):
        pass
    if not stop.is_set():
        rpc.serving()
        ready()
    stop.wait()
    log.info("serving_draining")
    rpc.stop(config.drain_s)
    shipped = exposures.end(min(config.drain_s, 5.0))
    tally.stop()
    rewards.doubt.stop()
    reconciler.stop()
    keeper.stop()
    shelf.stop()
    telemetry.stop()
    store.close()
    log.info("serving_stopped", journal_shipped=shipped)
    return 0


class _Started(Protocol):
    """A part with threads of its own."""

    def start(self) -> None:
        """Begin."""


class _Exposures:
    """The journal of a serving process and what ships it, from the moment that it has its number."""

    def __init__(self, config: Config, store: RedisStore, keeper: SnapshotKeeper, clock: Clock) -> None:
        self._config = config
        self._store = store
        self._keeper = keeper
        self._clock = clock
        self.journal: Journal | None = None
        self.shipper: Shipper | None = None

    def begin(self, issuer: int, stop: threading.Event, decisions: Decisions) -> None:
        """Count the decisions from now on; not at all when asked to stop before the store gave a number."""
        from server.journal.journal import Journal
        from server.journal.shipper import Shipper

        pauses = Pauses(cap_s=1.0)
        while not issuer:
            try:
                issuer = self._store.reserve_issuers(1)
            except BanditError as error:
                if not pauses.failures:
                    log.warning("serving_waits", reason=str(error), wanted="an issuer number of the store")
                if stop.wait(pauses.next()):
                    return
        root = self._config.data_dir / "journal"
        self.journal = Journal(root, issuer, max_bytes=self._config.journal_bytes)
        self.shipper = Shipper(self.journal, self._store, self._keeper, self._clock)
        self.shipper.start()
        decisions.journal = self.journal

    def begin_later(self, stop: threading.Event, decisions: Decisions) -> None:
        """The same in a thread of its own, without a number so far; a failure ends the process."""
        try:
            self.begin(0, stop, decisions)
        except Exception:
            log.exception("exposures_not_counted")
            stop.set()

    def end(self, timeout_s: float) -> bool:
        """Ship what can be shipped in time; the rest stays on disk. True when all is in the log."""
        if self.journal is None or self.shipper is None:
            return True
        shipped = self.shipper.stop(timeout_s)
        self.journal.close()
        return shipped


def _levels(
    clock: Clock,
    keeper: SnapshotKeeper,
    exposures: _Exposures,
    shelf: Shelf,
    stops: StopFile,
    put_back: Callable[[], int],
    features_missing: Callable[[], int],
) -> Callable[[], ServingLevels]:
    from server.snapshot import FRESH_S
    from server.telemetry.serving import ServingLevels

    def levels() -> ServingLevels:
        snapshot, journal, shipper = keeper.snapshot, exposures.journal, exposures.shipper
        counts = shipper.counts if shipper else None
        recorded = journal.recorded if journal else 0
        shipped, dropped = (counts.shipped, counts.dropped) if counts else (0, 0)
        now_s = clock.monotonic_s()
        return ServingLevels(
            journaled=recorded,
            not_journaled=journal.not_journaled if journal else 0,
            shipped=shipped,
            dropped=dropped,
            backlog=max(recorded - shipped - dropped, 0),
            snapshot_version=keeper.version,
            snapshot_read_ms=snapshot.read_ms if snapshot else None,
            store_up=snapshot is not None and not snapshot.restored and now_s - snapshot.read_s <= FRESH_S,
            set_back=snapshot is not None and bool(snapshot.set_back),
            lease_expired=snapshot is not None and snapshot.lapsed(now_s),
            stopped=len(stops.ordered.stops),
            put_back=put_back(),
            features_missing=features_missing(),
            saved_ms=shelf.saved_ms,
            save_failures=shelf.failures,
        )

    return levels


def run_ingest(config: Config, ready: Callable[[], None], beat: Callable[[], None] = lambda: None) -> int:
    """Read the configured sources until SIGTERM or SIGINT. Returns the exit status, 1 when a source's thread broke.

    ``beat``: see ``supervise.lifeline.pulse``; it stops when one source stands still.
    """
    from server.ingest import SOURCES, settings
    from server.ingest.service import Ingest
    from server.snapshot import SnapshotKeeper
    from server.telemetry.ingesting import IngestTelemetry

    stop = _stopped_by_signals()
    store = RedisStore(config.store)
    clock = StoreClock(store.now_ms, SystemClock())
    clock.begin()
    keeper = SnapshotKeeper(
        store, clock, poll_s=config.poll_s, kept=lambda _snapshot, _changed: clock.follow()
    )
    owner = f"{socket.gethostname()}/{os.getpid()}"
    chosen = settings.read(config.sources, SOURCES)
    ingest = Ingest(chosen, SOURCES, store, keeper, clock, IngestTelemetry(), owner)
    keeper.start()
    ingest.start()
    ready()
    log.info("ingest_started", sources=[each.name for each in chosen])
    while not stop.wait(0.1) and not ingest.broken.is_set():
        if ingest.still_s < INGEST_STILL_S:
            beat()
    ended = ingest.stop(INGEST_STOP_S)
    keeper.stop()
    store.close()
    log.info("ingest_stopped", all_ended=ended)
    return 1 if ingest.broken.is_set() else 0


def run_learner(config: Config, ready: Callable[[], None], beat: Callable[[], None] = lambda: None) -> int:
    """Learn until SIGTERM or SIGINT; then give the leases up. Returns the exit status.

    Until the kernels are compiled nobody learns: servers go on with the shares they have, and say so (frozen).
    """
    from bandit.kernels.jit import warm_often, warm_seldom
    from server.runtime import LearnerLoop, LoopSettings
    from server.snapshot import Shelf
    from server.stops import StopFile
    from server.telemetry.learning import LearnerTelemetry

    stop = _stopped_by_signals()
    machine = SystemClock()
    store = RedisStore(config.store)
    clock = StoreClock(store.now_ms, machine)
    began = clock.monotonic_s()
    warm_often()
    log.info("kernels_ready", seconds=round(clock.monotonic_s() - began, 1))
    owner = f"{socket.gethostname()}/{os.getpid()}"
    settings = LoopSettings(owner, lease_ttl_s=config.lease_ttl_s, tick_s=config.tick_s)
    stops = StopFile(config.data_dir)

    def accepted() -> int:
        stops.refresh()
        return stops.ordered.accepted_ms

    loop = LearnerLoop(
        store,
        clock,
        settings,
        LearnerTelemetry(machine.now_ms),
        accepted,
        kept_by(Shelf(config.data_dir / "snapshot", machine), accepted()),
        clock.follow,
    )
    threading.Thread(target=warm_seldom, name="warmer", daemon=True).start()
    ready()
    loop.run(stop, beat)
    store.close()
    log.info("learner_stopped")
    return 0


def kept_by(shelf: Shelf, accepted_ms: int) -> list[Stored]:
    """What this machine served last; nothing when the store was accepted as it is since."""
    snapshot = shelf.load()
    if snapshot is None or snapshot.accepted_ms < accepted_ms:
        return []
    return [
        Stored(each.experiment, each.allocation, each.generation, each.audit_sequence, each.audit_hash)
        for each in snapshot.entries.values()
    ]


def _stopped_by_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop

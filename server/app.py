"""Puts together the parts of a serving worker, and those of a learner: the one file that constructs.

Each part is imported by the process that needs it: a serving worker loads no numba, a learner no gRPC server.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

import structlog

from server.clock import SystemClock
from server.config import Config
from server.store.redis import RedisStore

log = structlog.get_logger(__name__)


def run_serving(config: Config, issuer: int, ready: Callable[[], None]) -> int:
    """Serve until SIGTERM or SIGINT; then drain. Returns the exit status."""
    from server.journal.journal import Journal
    from server.journal.shipper import Shipper
    from server.rpc.decisions import Decisions
    from server.rpc.experiments import Experiments
    from server.rpc.rewards import Rewards
    from server.rpc.server import Limits, build_server
    from server.snapshot import FRESH_S, SnapshotKeeper
    from server.telemetry.serving import ServingLevels, ServingTelemetry

    stop = _stopped_by_signals()
    clock = SystemClock()
    store = RedisStore(config.store)
    keeper = SnapshotKeeper(store, clock, poll_s=config.poll_s)
    journal = Journal(config.data_dir / "journal", issuer, max_bytes=config.journal_bytes)
    shipper = Shipper(journal, store, keeper, clock)

    def levels() -> ServingLevels:
        snapshot = keeper.snapshot
        return ServingLevels(
            journaled=journal.recorded,
            not_journaled=journal.not_journaled,
            shipped=shipper.counts.shipped,
            dropped=shipper.counts.dropped,
            backlog=max(journal.recorded - shipper.counts.shipped - shipper.counts.dropped, 0),
            snapshot_version=keeper.version,
            snapshot_read_ms=snapshot.read_ms if snapshot else None,
            store_up=snapshot is not None and clock.monotonic_s() - snapshot.read_s <= FRESH_S,
        )

    telemetry = ServingTelemetry(levels)
    decisions = Decisions(keeper, clock, journal, telemetry)
    rewards = Rewards(keeper, store, clock, telemetry)
    experiments = Experiments(store, clock)
    rpc, server = build_server(
        decisions,
        rewards,
        experiments,
        limits=Limits(decide_threads=config.threads, streams=config.streams),
        telemetry=telemetry,
        reflection=config.reflection,
        before_stop=experiments.watcher.stop,
    )
    if server.add_insecure_port(config.listen) == 0:
        log.error("port_refused", listen=config.listen)
        return 1
    keeper.start()
    shipper.start()
    telemetry.start()
    rpc.start()
    log.info("serving_started", listen=config.listen, issuer=issuer)
    while not stop.is_set() and not keeper.ready.wait(0.1):
        pass
    if not stop.is_set():
        rpc.serving()
        ready()
    stop.wait()
    log.info("serving_draining")
    rpc.stop(config.drain_s)
    shipped = shipper.stop(min(config.drain_s, 5.0))
    keeper.stop()
    telemetry.stop()
    journal.close()
    store.close()
    log.info("serving_stopped", journal_shipped=shipped)
    return 0


def run_learner(config: Config, ready: Callable[[], None]) -> int:
    """Learn until SIGTERM or SIGINT; then give the leases up. Returns the exit status.

    Until the kernels are compiled nobody learns: servers go on with the shares they have, and say so (frozen).
    """
    from bandit.kernels.jit import warm_often, warm_seldom
    from server.runtime import LearnerLoop, LoopSettings
    from server.telemetry.learning import LearnerTelemetry

    stop = _stopped_by_signals()
    clock = SystemClock()
    store = RedisStore(config.store)
    began = clock.monotonic_s()
    warm_often()
    log.info("kernels_ready", seconds=round(clock.monotonic_s() - began, 1))
    owner = f"{socket.gethostname()}/{os.getpid()}"
    settings = LoopSettings(owner, lease_ttl_s=config.lease_ttl_s, tick_s=config.tick_s)
    loop = LearnerLoop(store, clock, settings, LearnerTelemetry(clock.now_ms))
    threading.Thread(target=warm_seldom, name="warmer", daemon=True).start()
    ready()
    loop.run(stop)
    store.close()
    log.info("learner_stopped")
    return 0


def _stopped_by_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop

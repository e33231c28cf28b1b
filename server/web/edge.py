"""The HTTP edge as a process: probes, pages and their server. It decides nothing and learns nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from bandit.errors import NotAllowed, StoreUnavailable
from server.clock import StoreClock, SystemClock
from server.config import Config, host_port
from server.intake.door import Door
from server.rates import Rates
from server.snapshot import SnapshotKeeper
from server.store.base import Durability
from server.store.redis import RedisStore
from server.telemetry import catalogue, shared
from server.telemetry.build import version
from server.telemetry.scrape import Scrape
from server.web import probes
from server.web.events import Events
from server.web.pages import application
from server.web.probes import Probe, State

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 64
HTTP = "http"
"""Name under which rewards over HTTP are counted."""
STOP_S = 1
# What this machine's role cannot do without. Servers go on without a store and a learner.
REQUIRED = {
    "all": {"store", "serving", "learner"},
    "web": {"store", "serving", "learner"},
    "serve": {"serving"},
    "learn": {"store", "learner"},
    "ingest": {"store", "ingest"},
}


def run(config: Config, ready: Callable[[], None]) -> int:
    """Serve until SIGTERM. ``ready`` is called when the port answers. Raises NotAllowed when it is taken."""
    machine = SystemClock()
    store = RedisStore(config.store)
    clock = StoreClock(store.now_ms, machine)
    clock.begin()
    store_up = shared.gauge(catalogue.STORE_UP, CollectorRegistry())

    def told(state: State) -> None:
        store_up.set(state is State.UP)
        with suppress(StoreUnavailable):
            clock.follow()

    required = REQUIRED[config.role]
    watched = [
        Probe(
            "store",
            probes.store(store, clock),
            clock,
            required="store" in required,
            told=told,
        ),
        Probe("learner", probes.learner(store), clock, required="learner" in required),
    ]
    if config.sources and config.role in ("all", "ingest"):
        names = [str(table.get("name")) for table in config.sources]
        watched.append(
            Probe("ingest", probes.ingest(store, names, clock), clock, required="ingest" in required)
        )
    if config.role not in ("learn", "ingest"):
        watched.append(Probe("serving", probes.serving(config.listen), clock, required="serving" in required))
    scrape = Scrape(shared.folder_of(config.data_dir), machine.now_ms, version())
    keeper = SnapshotKeeper(store, clock, poll_s=config.poll_s)
    wanted = Durability[config.reward_durability.upper()]
    door = Door(store, keeper, clock, HTTP, wanted) if config.http_events else None
    pages = application(
        lambda: [probe.row() for probe in watched],
        scrape.render,
        Events(door.take, Rates(config.rewards_per_s, machine.monotonic_s)) if door else None,
    )
    with _listening(config.http_listen) as listener:
        if door is not None:
            keeper.start()
        for probe in watched:
            probe.start()
        server = _Server(
            uvicorn.Config(
                pages,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                limit_concurrency=MOST_AT_ONCE,
                timeout_graceful_shutdown=STOP_S,
                timeout_keep_alive=5,
                h11_max_incomplete_event_size=16 << 10,
            ),
            ready,
        )
        server.run([listener])
    for probe in watched:
        probe.stop()
    if door is not None:
        keeper.stop()
    store.close()
    return 0


def _listening(address: str) -> socket.socket:
    host, port = host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise NotAllowed(
            f"http_listen: nobody can listen on {address} now ({error.strerror}); give another address"
        ) from None


class _Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As the base, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

"""banditd from beginning to end: checks, the store, the parts, the demo, an orderly end; it serves nothing itself."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from bandit.errors import NotAllowed
from server.clock import Clock, SystemClock
from server.config import EMBEDDED, OFF, Config, Loaded, mask
from server.store.findings import Finding
from server.supervise.child import Child, own_command
from server.supervise.embedded import EmbeddedStore
from server.supervise.folder import OwnedFolder
from server.supervise.issuers import IssuerPool
from server.supervise.keeper import Keeper, Part
from server.supervise.lifeline import Orders
from server.supervise.ports import Reservation, is_free, reserve
from server.supervise.signals import Forced, Interrupted, Signals
from server.telemetry import catalogue, logs, shared

log = structlog.get_logger(__name__)

SUPERVISOR = "supervisor"
STOPPED, FAILED, FORCED = 0, 1, 130
STORE_FOLDER = "store"
DEMO_TARGET = "BANDITD_DEMO_TARGET"
# What is ended first, and how long it may take before it is killed; a server has config.drain_s for its calls.
DEMO, SERVE, INGEST, LEARN, WEB, STORE = range(6)
DEMO_STOP_S, DRAIN_SLACK_S, INGEST_STOP_S, LEARN_STOP_S, WEB_STOP_S, STORE_STOP_S = (
    45.0,
    6.0,
    10.0,
    5.0,
    2.0,
    12.0,
)
_PORT_WITHIN_S = 1.0
_THREADS_OF_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo beside the service, in a folder of its own; ``arguments`` are for `server.demo`."""

    arguments: Sequence[str] = ()


def run(
    loaded: Loaded,
    demo: Demo | None = None,
    command: Callable[[str], Sequence[str]] | None = None,
    look: Callable[[Config], Sequence[Finding]] = lambda _config: (),
) -> int:
    """Run until asked to end, or until the demo ends. Returns the exit code.

    Raises NotAllowed or InvalidArgument, before anything was started, when it cannot be. ``command`` gives the
    command line of a kind of child, if it is not to be our own. What ``look`` finds is logged. From the main thread
    only.
    """
    began_s = time.monotonic()
    with ExitStack() as stack:
        config = _demo_config(loaded, stack) if demo else loaded.config
        logs.configure(config.log_level, config.log_format, SUPERVISOR)
        _check_store(config)
        stack.callback(OwnedFolder(config.data_dir).close)
        config = _take_ports(config, loaded, stack, movable=demo is not None)
        for row in look(config):
            level = log.info if row.ok else log.warning
            level("machine_checked", check=row.check, seen=row.seen, wanted=row.wanted, ok=row.ok)
        metrics = shared.folder_of(config.data_dir)
        shared.clean(metrics)
        shared.join(metrics, SUPERVISOR)
        signals = stack.enter_context(Signals())
        service = _Service(config, signals, SystemClock(), command or own_command, demo, began_s)
        stack.callback(service.close)
        return service.run()


class _Service:
    """The parts of one run, and the loop around them."""

    def __init__(
        self,
        config: Config,
        signals: Signals,
        clock: Clock,
        command: Callable[[str], Sequence[str]],
        demo: Demo | None,
        began_s: float,
    ) -> None:
        from prometheus_client import CollectorRegistry

        self._config = config
        self._signals = signals
        self._command = command
        self._demo = demo
        self._began_s = began_s
        self._restarts = shared.counter(catalogue.RESTARTS, CollectorRegistry())
        self._embedded: EmbeddedStore | None = None
        if config.store == EMBEDDED:
            self._embedded = EmbeddedStore(config.data_dir / STORE_FOLDER, signals)
        self._issuers = IssuerPool(self._reserve, signals.wake, folder=config.data_dir)
        self._issuers_asked = False
        self._keeper = Keeper(list(self._parts()), clock, on_ready=self._ready, on_end=self._ended)

    def run(self) -> int:
        """Drive the keeper until everything has ended."""
        try:
            while not self._keeper.stopped:
                self._turn()
        except Forced:
            log.warning("service_forced", reason="a second Ctrl-C")
            self._keeper.kill()
            return FORCED
        if self._keeper.fault:
            raise NotAllowed(self._keeper.fault, reason="PART_FAILED")
        log.info("service_stopped")
        return STOPPED if self._keeper.last_code is None else self._keeper.last_code

    def close(self) -> None:
        """See that nothing is left, whatever happened."""
        self._issuers.stop()
        self._keeper.kill()
        if self._embedded is not None:
            self._embedded.stop()

    def _turn(self) -> None:
        try:
            pause_s = self._keeper.step()
        except Interrupted:
            pause_s = 0.0
        if self._signals.asked is not None and not self._keeper.stopping:
            log.info("service_stopping", signal=self._signals.asked.name)
            self._keeper.stop()
        elif not self._keeper.stopped:
            self._signals.wait(self._keeper.ready_fds(), pause_s)

    def _parts(self) -> Iterator[Part]:
        config = self._config
        if self._embedded is not None:
            yield Part("store", self._embedded.launch, STORE, STORE_STOP_S)
        if config.role in ("all", "serve"):
            for number in range(config.workers):
                name = f"serve-{number}"
                yield Part(
                    name, self._server(name), SERVE, config.drain_s + DRAIN_SLACK_S, hang_s=config.hang_s
                )
        if config.role in ("all", "ingest") and config.sources:
            yield Part(
                "ingest", lambda: self._child("ingest", "ingest"), INGEST, INGEST_STOP_S, hang_s=config.hang_s
            )
        if config.role in ("all", "learn"):
            yield Part(
                "learn", lambda: self._child("learn", "learn"), LEARN, LEARN_STOP_S, hang_s=config.hang_s
            )
        if config.http_listen != OFF:
            yield Part("web", lambda: self._child("web", "web"), WEB, WEB_STOP_S)
        if self._demo is not None:
            # It shows what it waits for, so it starts with the others.
            yield Part("demo", self._demo_child, DEMO, DEMO_STOP_S, last=True)

    def _server(self, name: str) -> Callable[[], Child | None]:
        def launch() -> Child | None:
            if not self._issuers_asked:
                self._issuers_asked = True
                self._issuers.start()
            issuer = self._issuers.take()
            if issuer is None and not self._issuers.away:
                return None
            # Without a number it serves what is on disk uncounted, or says that it does not serve, and asks the store.
            return self._child("serve", name, issuer or 0)

        return launch

    def _child(self, kind: str, name: str, issuer: int = 0) -> Child:
        config = replace(self._config, store=self._url())
        orders = Orders(name, os.getpid(), config.to_json(), issuer)
        return Child(self._command(kind), orders, _environment())

    def _demo_child(self) -> Child:
        assert self._demo is not None
        command = [*self._command("demo"), *self._demo.arguments]
        environment = {**_environment(), DEMO_TARGET: self._config.listen}
        return Child(command, Orders("demo", os.getpid()), environment, attached=True)

    def _url(self) -> str:
        return self._config.store if self._embedded is None else self._embedded.url

    def _reserve(self, count: int) -> int:
        from server.store.redis import RedisStore

        store = RedisStore(self._url())
        try:
            return store.reserve_issuers(count)
        finally:
            store.close()

    def _ready(self) -> None:
        config = self._config
        log.info(
            "service_ready",
            role=config.role,
            **({"grpc": config.listen} if config.role in ("all", "serve") else {}),
            **({"http": f"http://{config.http_listen}"} if config.http_listen != OFF else {}),
            store=EMBEDDED if self._embedded is not None else mask(config.store),
            data_dir=str(config.data_dir),
            after_s=round(time.monotonic() - self._began_s, 3),
        )

    def _ended(self, name: str, unasked: bool) -> None:
        shared.forget(shared.folder_of(self._config.data_dir), name)
        if unasked and name != "demo":
            self._restarts.labels(name.partition("-")[0]).inc()


def _environment() -> Mapping[str, str]:
    """What children inherit: no settings (they come as orders, and may hold secrets), one thread for linear algebra."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BANDITD_")}
    kept.pop(shared.VARIABLE, None)
    for name in _THREADS_OF_BLAS:
        kept.setdefault(name, "1")
    return kept


def _check_store(config: Config) -> None:
    """Raises InvalidArgument for a URL that the store's client does not understand."""
    if config.store != EMBEDDED:
        from server.store.redis import RedisStore

        RedisStore(config.store).close()


def _demo_config(loaded: Loaded, stack: ExitStack) -> Config:
    for name in ("data_dir", "store", "role"):
        if loaded.origins[name].given:
            raise NotAllowed(
                f"{name} ({loaded.origins[name].place}): the demo runs all parts on a store and a folder of its own; "
                "leave it out"
            )
    folder = Path(tempfile.mkdtemp(prefix="banditd-demo-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    # What the demo draws on the terminal is not to be mixed with lines of the log: it says itself what it waits for.
    level = loaded.config.log_level if loaded.origins["log_level"].given else "error"
    return replace(loaded.config, data_dir=folder, log_level=level)


def _take_ports(config: Config, loaded: Loaded, stack: ExitStack, *, movable: bool) -> Config:
    """The Config with ports that are ours; a ``movable`` one that nobody asked for gives way when it is taken."""
    wanted = {"listen": config.role in ("all", "serve"), "http_listen": config.http_listen != OFF}
    got = {"listen": config.listen, "http_listen": config.http_listen}
    for name in (name for name, needed in wanted.items() if needed):
        address = asked = got[name]
        if movable and not loaded.origins[name].given and not is_free(address):
            asked = f"{address.rpartition(':')[0]}:0"
        got[name] = stack.enter_context(_reserved(asked, name, keep=name == "listen")).address
        if asked != address:
            log.warning("port_moved", setting=name, wanted=address, got=got[name], reason="it is taken")
    return replace(config, listen=got["listen"], http_listen=got["http_listen"])


@contextmanager
def _reserved(address: str, setting: str, *, keep: bool) -> Iterator[Reservation]:
    # The processes of a banditd that was just killed let go of their ports in a moment.
    deadline_s = time.monotonic() + _PORT_WITHIN_S
    while True:
        try:
            taken = reserve(address, setting, keep=keep)
            break
        except NotAllowed:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
    with taken:
        yield taken

"""Whether each part does its work, looked at again and again; what was not seen lately is unknown, never up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import structlog

from bandit.errors import BanditError, StoreUnavailable
from server.clock import Clock
from server.config import host_port

log = structlog.get_logger(__name__)

EVERY_S = 1.0
STALE_S = 5.0
QUIET_S = 15.0
TIMEOUT_S = 1.0


class State(StrEnum):
    """How a part is."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Row:
    """One part. ``age_s``: time since it was seen so, None when it never was looked at."""

    part: str
    state: State
    detail: str
    age_s: float | None
    required: bool


Look = Callable[[], tuple[State, str]]


class Pinged(Protocol):
    """What is asked of the store."""

    def version(self) -> int:
        """See ControlStore."""

    def learner_alive(self) -> bool:
        """See ControlStore."""


class Asked(Protocol):
    """What is asked of the store about sources."""

    def sources(self) -> dict[str, bytes]:
        """See FeedStore."""


class Probe:
    """Looks at one part in a thread of its own, so that one that hangs holds up no other.

    ``required``: readiness of the whole depends on it.
    """

    def __init__(
        self,
        part: str,
        look: Look,
        clock: Clock,
        *,
        required: bool,
        told: Callable[[State], None] = lambda _: None,
        every_s: float = EVERY_S,
    ) -> None:
        self.part = part
        self.required = required
        self._look = look
        self._clock = clock
        self._told = told
        self._every_s = every_s
        self._seen: tuple[State, str, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"probe-{part}", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> None:
        """Look once."""
        try:
            state, detail = self._look()
        except BanditError as error:
            state, detail = State.DOWN, str(error)
        except Exception as error:
            log.exception("probe_failed", name=self.part)
            state, detail = State.UNKNOWN, f"the look itself failed: {type(error).__name__}"
        before = self._seen
        self._seen = (state, detail, self._clock.monotonic_s())
        self._told(state)
        if before is not None and before[0] is not state:
            log.info("part_changed", name=self.part, before=before[0].value, after=state.value, reason=detail)

    def row(self) -> Row:
        """How it is, as far as is known."""
        seen = self._seen
        if seen is None:
            return Row(self.part, State.UNKNOWN, "not looked at yet", None, self.required)
        state, detail, at_s = seen
        age_s = self._clock.monotonic_s() - at_s
        if age_s > STALE_S:
            return Row(
                self.part, State.UNKNOWN, f"the last look was: {state.value}, {detail}", age_s, self.required
            )
        return Row(self.part, state, detail, age_s, self.required)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._every_s)


def store(pinged: Pinged, clock: Clock) -> Look:
    """Does the store answer?"""

    def look() -> tuple[State, str]:
        began_s = clock.monotonic_s()
        pinged.version()
        return State.UP, f"answers in {1000 * (clock.monotonic_s() - began_s):.1f} ms"

    return look


def learner(pinged: Pinged) -> Look:
    """Has a learner told the store lately that it is alive?"""

    def look() -> tuple[State, str]:
        try:
            alive = pinged.learner_alive()
        except StoreUnavailable:
            return State.UNKNOWN, "the store, which knows, does not answer"
        if alive:
            return State.UP, "it said so within its time"
        return State.DOWN, "no learner has said lately that it is alive; shares stay as they are"

    return look


def ingest(asked: Asked, names: Sequence[str], clock: Clock) -> Look:
    """Has every configured source told the store lately how it is? One whose thread hangs or died has not."""

    def look() -> tuple[State, str]:
        try:
            said = asked.sources()
        except StoreUnavailable:
            return State.UNKNOWN, "the store, which knows, does not answer"
        now_ms = clock.now_ms()
        quiet = [name for name in names if now_ms - _told_ms(said.get(name)) > QUIET_S * 1000]
        if quiet:
            return State.DOWN, f"not heard of for more than {QUIET_S:g} s: {', '.join(quiet)}"
        return State.UP, f"{len(names)} sources are read"

    return look


def _told_ms(status: bytes | None) -> int:
    try:
        return int(json.loads(status or b"{}").get("time_ms", 0))
    except (ValueError, TypeError, AttributeError):
        return 0


def serving(listen: str) -> Look:
    """What a server at HOST:PORT says of its health, over a new connection each time: another worker may take it."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    target = reachable(listen)

    def look() -> tuple[State, str]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(target, options) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                return State.DOWN, f"no answer at {target} ({error.code().name})"
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return State.UP, f"{target} is serving"
        return State.DOWN, f"{target} is not serving yet: nothing was read from the store, or it is ending"

    return look


def reachable(listen: str) -> str:
    """An address to connect to for one that is listened on."""
    host, port = host_port(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing listens by this
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

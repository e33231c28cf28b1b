"""Rewards from a Redis or Valkey stream, read by a consumer group: one event an entry.

The body is the field ``event``; other fields are headers, so a CloudEvent may be sent in binary mode (``ce_id``, ...).
Entries that another consumer read and never acknowledged are claimed after a while. What the stream dropped while it
was pending (MAXLEN) is counted as lost, once, and let go. The stream may be on the store's server or on any other.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from bandit.errors import StoreUnavailable
from server.config.values import seconds, whole
from server.config.values import store as store_url
from server.ingest.base import (
    Chosen,
    Position,
    Recall,
    Received,
    RewardSource,
    SourceState,
    SourceUnavailable,
)
from server.ingest.settings import setting, text
from server.store.streams import NEW, OLDEST, Entry, Group

log = structlog.get_logger(__name__)

EVENT_FIELD = b"event"
# An entry's id is milliseconds and a sequence: together one offset that grows while a ms has fewer than 2^20 entries.
_SEQUENCE_BITS = 20
PARTITION = "stream"
# How much further back than the store stands: entries were not appended in the order of their ids.
BACK_MS = 60_000
_LAG_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of kind ``redis_stream``. ``consumer`` must be of one process; it finds its pending entries by it."""

    url: str = setting(store_url, "URL of the Redis or Valkey server, as store has it")
    stream: str = setting(text(), "key of the stream")
    group: str = setting(
        text(), "consumer group; made at the stream's beginning when there is none", default="banditd"
    )
    consumer: str = setting(text(), "name in the group", default_factory=socket.gethostname)
    claim_s: float = setting(
        seconds(0.1, 86_400), "how long an entry may be with a consumer that is silent", default=30.0
    )
    portion: int = setting(whole(1, 1000), "most entries that are read at once", default=500)

    def __post_init__(self) -> None:
        if "://" not in self.url:
            raise ValueError(
                f"url {self.url!r} is none; write redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH"
            )


class RedisStream:
    """A RewardSource of one stream."""

    ordered = False

    def __init__(self, settings: Settings, group: Group, monotonic_s: Callable[[], float]) -> None:
        self._settings = settings
        self._group = group
        self._monotonic_s = monotonic_s
        self._epoch = hashlib.sha256(f"{settings.stream}\0{settings.group}".encode()).hexdigest()[:12]
        self._pending: str | None = OLDEST
        """Where to go on reading what is pending with us; None when there is nothing."""
        self._cursor = OLDEST
        self._claim_due_s = float("-inf")
        self._in_hand: list[str] = []
        self._lag: tuple[float, dict[str, int]] = (float("-inf"), {})
        self._lost = self._claimed = 0
        self._connected = False
        self._detail = "not opened yet"

    def open(self, recall: Recall) -> None:
        """See RewardSource: the group knows where it is, and what is pending comes again.

        What it has let go of without a slot having moved past it was lost by the store: then it is read again.
        """
        offsets = [position.offset for position in recall(PARTITION) if position.epoch == self._epoch]
        with self._spoken():
            self._group.join()
            if offsets and self._group.let_go_after(_id(max(offsets))):
                self._go_back(max(offsets))
        self._pending = OLDEST

    def poll(self, limit: int, timeout_s: float) -> Sequence[Received]:
        """See RewardSource: first what was pending with us, then with others, then what is new."""
        count = min(limit, self._settings.portion)
        with self._spoken():
            self._look_at_lag()
            entries = self._own_pending(count) or self._claim(count)
            if not entries:
                entries = self._group.read(NEW, count, timeout_s)
        return self._brought(entries)

    def done(self, batch: Sequence[Received]) -> None:
        """See RewardSource."""
        self._in_hand = []
        try:
            with self._spoken():
                self._group.acknowledge([str(received.handle) for received in batch])
        except SourceUnavailable:
            self._pending = OLDEST  # whether it knows is not known: they come once more
            raise

    def rest(self) -> None:
        """See RewardSource: what we hold is not to be claimed by others."""
        try:
            with self._spoken():
                self._group.hold(self._in_hand)
        except SourceUnavailable:
            return  # then others bring them too, and their repeats are dropped

    def rewind(self, to: Mapping[str, Sequence[Position]]) -> None:
        """See RewardSource."""
        if PARTITION not in to:
            return
        offsets = [position.offset for position in to[PARTITION] if position.epoch == self._epoch]
        with self._spoken():
            self._go_back(min(offsets, default=0))
        self._pending = OLDEST

    def state(self) -> SourceState:
        """See RewardSource."""
        return SourceState(self._connected, self._detail, self._lag[1], self._lost, self._claimed)

    def close(self) -> None:
        """See RewardSource."""
        self._group.close()

    def _go_back(self, offset: int) -> None:
        self._group.go_back(f"{max((offset >> _SEQUENCE_BITS) - BACK_MS, 0)}-0")
        log.warning("stream_read_again", stream=self._settings.stream, after=_id(offset), slack_ms=BACK_MS)

    def _own_pending(self, count: int) -> list[Entry]:
        while self._pending is not None:
            entries = self._group.read(self._pending, count)
            self._pending = entries[-1].id if entries else None
            if alive := self._alive(entries):
                self._claimed += len(alive)
                return alive
        return []

    def _claim(self, count: int) -> list[Entry]:
        """What others left; one walk over the pending ones, then a pause."""
        while self._monotonic_s() >= self._claim_due_s:
            self._cursor, entries = self._group.claim(self._settings.claim_s, self._cursor, count)
            if self._cursor == "0-0":
                self._cursor = OLDEST
                self._claim_due_s = self._monotonic_s() + self._settings.claim_s / 3
            if any(not entry.id for entry in entries):
                self._pending = OLDEST
            if alive := self._alive([entry for entry in entries if entry.id]):
                self._claimed += len(alive)
                return alive
        return []

    def _alive(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that the stream still has; the others count as lost and are let go, so nobody claims them for ever."""
        dropped = [entry.id for entry in entries if entry.fields is None]
        if dropped:
            self._group.acknowledge(dropped)
            self._lost += len(dropped)
        return [entry for entry in entries if entry.fields is not None]

    def _brought(self, entries: Sequence[Entry]) -> list[Received]:
        self._in_hand = [entry.id for entry in entries]
        found: list[Received] = []
        for entry in entries:
            fields = entry.fields or {}
            headers = {
                name.decode("utf-8", "replace").lower(): value.decode("utf-8", "replace")
                for name, value in fields.items()
                if name != EVENT_FIELD
            }
            ms, _, sequence = entry.id.partition("-")
            offset = (int(ms) << _SEQUENCE_BITS) + min(int(sequence), (1 << _SEQUENCE_BITS) - 1)
            position = Position(PARTITION, self._epoch, offset)
            found.append(Received(fields.get(EVENT_FIELD, b""), position, headers, int(ms), entry.id))
        return found

    def _look_at_lag(self) -> None:
        now_s = self._monotonic_s()
        if now_s - self._lag[0] >= _LAG_EVERY_S:
            lag = self._group.lag()
            self._lag = (now_s, {} if lag is None else {PARTITION: lag})

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable as error:
            self._connected, self._detail = False, str(error)
            if "NOGROUP" in str(error) + error.metadata.get("server_says", ""):
                with suppress(StoreUnavailable):
                    self._group.join()  # the stream was deleted, or its server lost it
            raise SourceUnavailable(f"{self._settings.stream}: {error}") from error
        self._connected, self._detail = True, f"{self._settings.stream} at {self._group.address}"


def _id(offset: int) -> str:
    return f"{offset >> _SEQUENCE_BITS}-{offset & ((1 << _SEQUENCE_BITS) - 1)}"


def make(chosen: Chosen, now_ms: Callable[[], int]) -> RewardSource:
    """See ``base.Make``. Raises InvalidArgument for a URL that is none."""
    assert isinstance(chosen.settings, Settings)
    settings = chosen.settings
    group = Group(settings.url, settings.stream, settings.group, f"{settings.consumer}/{chosen.name}")
    return RedisStream(settings, group, time.monotonic)

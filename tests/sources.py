"""Grounds on which the contract suite tries each kind of source: a place to send events to, and sources that read it.

A new kind gives one ground here (``GROUNDS``); the suite does the rest.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import redis

from server.ingest.base import Chosen, RewardSource
from server.ingest.jsonl import Settings as JsonLinesSettings
from server.ingest.jsonl import make as make_json_lines
from server.ingest.redis_stream import RedisStream
from server.ingest.redis_stream import Settings as StreamSettings
from server.store.embedded import Embedded
from server.store.streams import Group
from tests.kafka_ground import kafka_ground
from tests.nats_ground import nats_ground

Headers = Mapping[str, str]


class Ground(Protocol):
    """One real place of events (a broker, a server, a folder), empty at first."""

    def send(self, bodies: Sequence[bytes], headers: Headers | None = None) -> None:
        """Put events there, in this order, and return when they are durable there."""

    def source(self) -> RewardSource:
        """A new source on it, not opened yet; under the same name each time, as after a restart of the process."""

    def crash(self, source: RewardSource) -> None:
        """As if the process of this source was killed: nothing is acknowledged, nothing is said goodbye."""


class Folder:
    """A file that is appended to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "rewards.jsonl"
        self._opened: list[RewardSource] = []

    def send(self, bodies: Sequence[bytes], headers: Headers | None = None) -> None:
        """See Ground. Headers have no place in a line."""
        assert not headers
        with self.path.open("ab") as file:
            file.write(b"".join(body.replace(b"\n", b" ") + b"\n" for body in bodies))

    def source(self) -> RewardSource:
        """See Ground."""
        settings = JsonLinesSettings(f"{self.path}*", look_s=0.01)
        source = make_json_lines(Chosen("src", "jsonl", settings), lambda: 0)
        self._opened.append(source)
        return source

    def crash(self, source: RewardSource) -> None:
        """See Ground: a file needs no goodbye."""
        source.close()


class Stream:
    """A stream of a real Valkey."""

    def __init__(self, embedded: Embedded) -> None:
        self.url = embedded.url
        self.client = redis.Redis.from_url(embedded.url, protocol=2)
        self.passed_s = 0.0

    def send(self, bodies: Sequence[bytes], headers: Headers | None = None) -> None:
        """See Ground."""
        pipeline = self.client.pipeline(transaction=False)
        for body in bodies:
            pipeline.xadd("rewards", dict([("event", body), *(headers or {}).items()]))
        pipeline.execute()

    def source(self) -> RewardSource:
        """See Ground."""
        settings = StreamSettings(self.url, "rewards", consumer="one", claim_s=0.1)
        group = Group(self.url, "rewards", "banditd", "one")
        return RedisStream(settings, group, lambda: time.monotonic() + self.passed_s)

    def crash(self, source: RewardSource) -> None:
        """See Ground: the connections close, the pending entries stay."""
        source.close()


@contextlib.contextmanager
def folder_ground(folder: Path) -> Iterator[Ground]:
    """JSON lines."""
    yield Folder(folder / "lines")


@contextlib.contextmanager
def stream_ground(folder: Path) -> Iterator[Ground]:
    """A Redis stream."""
    with Embedded(folder / "stream") as embedded:
        ground = Stream(embedded)
        yield ground
        ground.client.close()


Grounds = Callable[[Path], AbstractContextManager[Ground]]
GROUNDS: dict[str, Grounds] = {
    "jsonl": folder_ground,
    "kafka": kafka_ground,
    "nats": nats_ground,
    "redis_stream": stream_ground,
}

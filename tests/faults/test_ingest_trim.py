"""A stream that drops entries while they are pending, on a real Valkey and a real Redis."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import redis

from server.ingest.redis_stream import RedisStream, Settings
from server.store.embedded import Embedded
from server.store.memory import MemoryStore
from server.store.streams import Group
from tests.conftest import SERVERS, server_program
from tests.ingesting import World, adds_up, drain


def source(url: str, consumer: str, now_s: list[float]) -> RedisStream:
    settings = Settings(url, "rewards", consumer=consumer, claim_s=0.1)
    return RedisStream(settings, Group(url, "rewards", "banditd", consumer), lambda: now_s[0])


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("same", [True, False], ids=["same consumer", "another consumer"])
def test_entries_that_are_dropped_while_pending_are_counted_as_lost_once(
    tmp_path: Path, full: bool, server: str, same: bool
) -> None:
    count, trimmed = (10_000, 100) if full else (1_000, 10)
    with Embedded(tmp_path / "kept", binary=server_program(server)) as valkey:
        world, now_s = World(MemoryStore()), [0.0]
        with closing(redis.Redis.from_url(valkey.url, protocol=2)) as client:
            for body in world.good(count):
                client.xadd("rewards", {"event": body})
            first = source(valkey.url, "one", now_s)
            first.open(lambda _: [])
            assert len(first.poll(trimmed, 0.0)) == trimmed  # read, and never acknowledged
            client.xtrim("rewards", maxlen=count - trimmed, approximate=False)
            first.close()
            kept = source(valkey.url, "one" if same else "two", now_s)
            pipeline = world.pipeline(kept)
            pipeline.open()
            received = 0
            for _ in range(100):
                now_s[0] += 1.0
                received += drain(pipeline)
                if kept.state().lost == trimmed:
                    break
            now_s[0] += 1.0
            received += drain(pipeline)
            pipeline._end()
            assert received == count - trimmed
            ends = world.ends()
            assert (ends["received"], ends["applied"], ends["lost"]) == (
                count - trimmed,
                count - trimmed,
                trimmed,
            )
            assert adds_up(ends)
            pending = client.xpending("rewards", "banditd")
            assert pending["pending"] == 0, "somebody would claim them for ever"


@pytest.mark.parametrize("server", SERVERS)
def test_what_a_dead_consumer_left_is_claimed(tmp_path: Path, server: str) -> None:
    with Embedded(tmp_path / "kept", binary=server_program(server)) as valkey:
        world, now_s = World(MemoryStore()), [0.0]
        with closing(redis.Redis.from_url(valkey.url, protocol=2)) as client:
            for body in world.good(60):
                client.xadd("rewards", {"event": body})
            dead = source(valkey.url, "dead", now_s)
            dead.open(lambda _: [])
            assert len(dead.poll(25, 0.0)) == 25
            dead.close()
            kept = source(valkey.url, "living", now_s)
            pipeline = world.pipeline(kept)
            pipeline.open()
            for _ in range(50):
                drain(pipeline)
                now_s[0] += 1.0
                if world.ends()["received"] == 60:
                    break
            assert world.counted() == world.expected
            assert kept.state().redelivered == 25
            assert client.xpending("rewards", "banditd")["pending"] == 0
            kept.close()

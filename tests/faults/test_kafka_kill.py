"""kill -9 of the process that reads a topic, at every step between broker and store: none is lost, none counts twice.

Fault 21, invariants I1 and I2, cases C304, C308 and C311. The oracle is integers, compared with ``==``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from server.store.embedded import Embedded
from server.store.fed import SlotCounts
from server.store.redis import RedisStore
from tests.ingest_process import KAFKA_STEPS, Processes, alive
from tests.ingesting import NAME, World, adds_up, poisons
from tests.kafka_ground import PARTITIONS, MockKafka

TOPIC = "rewards"
PATIENT_S = 90.0
AHEAD = 30_000  # events that wait in the mock: it keeps 5 MB of a partition, and drops the oldest


class Feed:
    """Sends events with twelve kinds of poison among them, up to ``limit`` and no faster than they are read."""

    def __init__(self, world: World, mock: MockKafka, poison_every: int, random: Random) -> None:
        self.world, self.mock, self.random = world, mock, random
        self.poison_every = poison_every
        self.kinds = [body for _, body in poisons(world)]
        self.sent = self.bad = self.limit = 0

    def taken(self) -> int:
        """How many of them are in a slot, so far as partitions tell."""
        none = SlotCounts({}, {})
        slots = [self.world.store.fed(self.world.name), self.world.store.buried()]
        positions = [slot.get(NAME, none).positions for slot in slots]
        names = set().union(*positions)
        return sum(max(each[name].offset + 1 for each in positions if name in each) for name in names)

    def go_on(self) -> None:
        """Send what there is room for."""
        while self.sent < self.limit and self.sent - self.taken() < AHEAD // 2:
            count = min(AHEAD // 4, self.limit - self.sent)
            bad = self.random.choices(self.kinds, k=count // self.poison_every)
            bodies = [*self.world.good(count - len(bad)), *bad]
            self.random.shuffle(bodies)
            self.mock.send(TOPIC, bodies)
            self.sent += count
            self.bad += len(bad)

    def until(self, met: Callable[[], bool], what: str, *, more: int = 0) -> None:
        """Keep sending until it is so; ``more`` than was planned when all is read and it is not."""
        reached, deadline = -1, 0.0
        while not met():
            taken = self.taken()
            if taken > reached:
                reached, deadline = taken, time.monotonic() + PATIENT_S
            assert time.monotonic() < deadline, (
                f"{PATIENT_S:g} s without progress: {what}; {taken} of {self.sent} are taken"
            )
            if taken == self.sent:
                self.limit += more
            self.go_on()
            time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nothing_is_lost_or_counted_twice(servers: Callable[[str], Embedded], full: bool) -> None:
    """``--full``: 1,000,000 events and 100 kills."""
    total, rounds, poll_limit = (1_000_000, 11, 1000) if full else (6_000, 1, 100)
    random = Random(20261128)
    plan = [(step, random.randint(1, 3)) for step in KAFKA_STEPS for _ in range(rounds)]
    plan += [("", 0)] * (100 - len(plan) if full else 1)
    random.shuffle(plan)
    kills: Counter[str] = Counter()
    mock = MockKafka()
    mock.make(TOPIC)
    server, namespace = servers("valkey"), f"t{secrets.token_hex(6)}"
    settings = {
        "servers": mock.servers.split(","),
        "topics": [TOPIC],
        "partitions": list(range(PARTITIONS)),
        "identity": "cluster",
        "commit_s": 0.0,
    }
    given = {"kind": "kafka", "source": NAME, "settings": settings, "poll_limit": poll_limit}
    with contextlib.closing(RedisStore(server.url, namespace=namespace, timeout_s=5.0)) as store:
        feed = Feed(World(store), mock, 1000 if full else 100, random)
        share = total // len(plan)
        with Processes(url=server.url, namespace=namespace, **given) as processes:
            for step, nth in plan:
                # Each dies while its part of the events is read, so that every step has work before and after it.
                feed.limit += share
                feed.go_on()
                before = feed.taken()
                pid = processes.start(step, 1 if step == "begin" else nth)
                if not step:
                    feed.until(partial(_beyond, feed, before + share // 2), "half of its part is read")
                    os.kill(pid, signal.SIGKILL)
                feed.until(partial(_ended, pid), f"a process dies at {step or 'any step'}", more=share)
                kills[step or "any"] += 1
                feed.world.fold()
            feed.limit = max(feed.limit, total)
            last = processes.start()
            feed.until(partial(_beyond, feed, feed.limit), "all is read")
            os.kill(last, signal.SIGKILL)
        ends = feed.world.ends()
        print(f"{feed.sent} events, {sum(kills.values())} kills {dict(kills)}, {ends}")  # noqa: T201
        assert feed.world.counted() == feed.world.expected
        assert adds_up(ends)
        assert feed.sent >= total
        assert ends["received"] == feed.sent
        assert ends["dead"] == feed.bad
        assert ends["applied"] == feed.sent - feed.bad
        assert min(kills[step] for step in KAFKA_STEPS) >= rounds
    mock.close()


def _beyond(feed: Feed, count: int) -> bool:
    return feed.taken() >= count


def _ended(pid: int) -> bool:
    return not alive(pid)

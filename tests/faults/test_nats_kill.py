"""kill -9 of the process that reads a JetStream stream, at every step, and of the server: none is lost or counts twice.

Faults 21 and 22, invariants I1 and I2. Its source has no order, so what comes again is left to the ledger's marks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.ingest_process import STEPS, Processes, alive
from tests.ingesting import NAME, World, adds_up
from tests.nats_ground import NatsServer, left, make_stream, nats_server, publish

PATIENT_S = 90.0


def until(met: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENT_S
    while not met():
        assert time.monotonic() < deadline, f"not in {PATIENT_S:g} s: {what}"
        time.sleep(0.05)


def send(world: World, server: NatsServer, count: int, random: Random) -> int:
    """So many events with poison among them; how many were poison."""
    bad = [b"\xff poison %d" % random.getrandbits(64) for _ in range(count // 100)]
    bodies = [*world.good(count - len(bad)), *bad]
    asyncio.run(publish(server.url, "rewards.all", random.sample(bodies, len(bodies))))
    return len(bad)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_is_lost_or_counted_twice(
    servers: Callable[[str], Embedded], tmp_path: Path, full: bool
) -> None:
    """``--full``: 10 kills of each step and 60,000 events; the server is killed every third time."""
    rounds, each = (10, 1000) if full else (1, 400)
    random = Random(20261129)
    plan = [step for step in STEPS for _ in range(rounds)]
    random.shuffle(plan)
    kills: Counter[str] = Counter()
    store_server, namespace = servers("valkey"), f"t{secrets.token_hex(6)}"
    with (
        nats_server(tmp_path / "nats") as server,
        contextlib.closing(RedisStore(store_server.url, namespace=namespace, timeout_s=5.0)) as store,
    ):
        asyncio.run(make_stream(server.url, "REWARDS", "rewards.>"))
        world = World(store)
        settings = {"servers": [server.url], "stream": "REWARDS", "ack_wait_s": 1.0, "check_s": 0.5}
        given = {"kind": "nats", "source": NAME, "settings": settings, "poll_limit": 100}
        bad = 0
        with Processes(url=store_server.url, namespace=namespace, **given) as processes:
            for number, step in enumerate(plan):
                bad += send(world, server, each, random)
                pid = processes.start(step, random.randint(1, 3))
                if number % 3 == 1:
                    server.kill()
                    server.start()
                    kills["server"] += 1
                until(lambda pid=pid: not alive(pid), f"a process dies at {step}")  # type: ignore[misc]
                kills[step] += 1
                world.fold()
            last = processes.start()
            until(lambda: asyncio.run(left(server.url, "REWARDS", "banditd")) == 0, "all is acknowledged")
            os.kill(last, signal.SIGKILL)
        ends = world.ends()
        letters = Counter(letter.body for letter in store.letters("", 10_000))
        print(f"{each * len(plan)} events, kills {dict(kills)}, {ends}")  # noqa: T201
        assert world.counted() == world.expected
        assert adds_up(ends)
        assert ends["applied"] == each * len(plan) - bad
        assert len(letters) == bad

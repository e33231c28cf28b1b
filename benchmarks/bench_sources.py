"""Rewards from Kafka and NATS until the ledger has them, held against a bare consumer of the same events, same run.

    uv run python benchmarks/bench_sources.py [--rewards 40000] [--rounds 5]

``bare``: the client library alone reads a thousand at a time, decodes nothing and acknowledges nothing. ``source``: our
source of it, polled and acknowledged. ``taken``: the whole pipeline, from poll to the experiment's log on a real
Valkey (tokens verified, values checked). ``applied``: the same and then folded into the ledger, one after the other in
one thread; in the service the learner folds beside it. Brokers: librdkafka's mock and a real nats-server, on this
machine; CPU time is that of this process with all its threads, the mock's too. After each round the ledger must hold
exactly what was sent (==), else the run ends with an error. JSON to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import nats
import structlog
from nats.js.api import AckPolicy, ConsumerConfig

from benchmarks.service import machine
from server.ingest.base import RewardSource
from server.ingest.pipeline import Pace, Pipeline
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.ingesting import World, drain
from tests.kafka_ground import PARTITIONS, MockKafka, kafka_source
from tests.nats_ground import drop_stream, make_stream, nats_server, nats_source, publish

BATCH = 1000
CASES = ("bare", "source", "taken", "applied")
PACE = Pace(poll_limit=BATCH, poll_s=0.2)


class KafkaGround:
    """A topic for each round on librdkafka's mock."""

    def __init__(self) -> None:
        self._mock = MockKafka()
        self._topic = ""

    def fill(self, turn: int, bodies: Sequence[bytes]) -> None:
        """An empty topic, then all of these."""
        self._topic = f"rewards-{turn}"
        self._mock.make(self._topic)
        self._mock.send(self._topic, bodies)

    def bare(self, count: int) -> None:
        """Read them by the library alone."""
        with self._mock.reader("bare") as reader:
            from confluent_kafka import TopicPartition

            reader.assign([TopicPartition(self._topic, number, 0) for number in range(PARTITIONS)])
            got = 0
            while got < count:
                got += len(reader.consume(BATCH, 0.2))

    def source(self, group: str) -> RewardSource:
        """Ours, from the beginning."""
        partitions = tuple(range(PARTITIONS))
        return kafka_source(
            self._mock, topics=(self._topic,), partitions=partitions, group=group, commit_s=0.5
        )


class NatsGround:
    """A stream for each round on a server of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def fill(self, turn: int, bodies: Sequence[bytes]) -> None:
        """An empty stream, then all of these."""
        if turn >= 0:
            asyncio.run(drop_stream(self._url, "REWARDS"))
        asyncio.run(make_stream(self._url, "REWARDS", "rewards.>"))
        asyncio.run(publish(self._url, "rewards.all", bodies))

    def bare(self, count: int) -> None:
        """Read them by the library alone."""
        asyncio.run(self._bare(count))

    def source(self, group: str) -> RewardSource:
        """Ours, from the beginning."""
        from tests.nats_ground import NatsServer

        server = NatsServer(Path())
        server.url = self._url
        return nats_source(server, durable=group, ack_wait_s=30.0)

    async def _bare(self, count: int) -> None:
        client = await nats.connect(self._url)
        stream = client.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        pull = await stream.pull_subscribe("rewards.>", durable="bare", stream="REWARDS", config=config)
        got = 0
        while got < count:
            got += len(await pull.fetch(BATCH, timeout=5))
        await client.close()


Ground = KafkaGround | NatsGround


class Spent(NamedTuple):
    """Seconds by the wall, and of CPU."""

    wall_s: float
    cpu_s: float

    @classmethod
    def of(cls, work: Callable[[], object]) -> Spent:
        """What the work took."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def polled(source: RewardSource, count: int) -> None:
    """Poll and acknowledge so many."""
    source.open(lambda _: ())
    got = 0
    while got < count:
        batch = source.poll(BATCH, 0.2)
        source.done(batch)
        got += len(batch)
    source.close()


def piped(world: World, source: RewardSource) -> Pipeline:
    """All of them into the log."""
    pipeline = world.pipeline(source, pace=PACE)
    pipeline.open()
    drain(pipeline, quiet=1)
    source.close()
    return pipeline


def one_round(ground: Ground, store: RedisStore, name: str, turn: int, count: int) -> dict[str, Spent]:
    """What each case took. Raises SystemExit when the ledger is not exact."""
    world = World(store, f"{name}-{turn + 1}")
    ground.fill(turn, world.good(count))
    world.keeper.poll()
    bare = Spent.of(lambda: ground.bare(count))
    source = Spent.of(lambda: polled(ground.source("alone"), count))
    taken = Spent.of(lambda: piped(world, ground.source("whole")))
    taken = taken._replace(wall_s=taken.wall_s - PACE.poll_s)  # it waited once for more
    fold = Spent.of(world.fold)
    if world.counted() != world.expected:
        raise SystemExit(f"{name}: the ledger is not exact: {world.counted()} in place of {world.expected}")
    applied = Spent(taken.wall_s + fold.wall_s, taken.cpu_s + fold.cpu_s)
    return dict(zip(CASES, (bare, source, taken, applied), strict=True))


@contextlib.contextmanager
def grounds(folder: Path) -> Iterator[dict[str, Ground]]:
    """Both kinds of brokers."""
    with nats_server(folder / "nats") as server:
        yield {"kafka": KafkaGround(), "nats": NatsGround(server.url)}


def run(rewards: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Rounds of all cases in turn; the first one is for warming up."""
    found: dict[str, dict[str, list[Spent]]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="banditd-bench-")))
        embedded = stack.enter_context(Embedded(folder / "store"))
        store = stack.enter_context(contextlib.closing(RedisStore(embedded.url)))
        kinds = stack.enter_context(grounds(folder))
        for turn in range(-1, rounds):
            for name, ground in kinds.items():
                spent = one_round(ground, store, name, turn, rewards if turn >= 0 else 2 * BATCH)
                if turn >= 0:
                    for case, each in spent.items():
                        found.setdefault(name, {}).setdefault(case, []).append(each)
            say(f"round {turn + 1} of {rounds}: counts exact")
    return {name: summary(cases, rewards) for name, cases in found.items()}


def summary(cases: dict[str, list[Spent]], count: int) -> dict[str, Any]:
    """Medians, and the ratios to the bare consumer of the same round."""
    found: dict[str, Any] = {}
    for case, spent in cases.items():
        rates = [count / each.wall_s for each in spent]
        over = [bare.wall_s / each.wall_s for each, bare in zip(spent, cases["bare"], strict=True)]
        found[case] = {
            "events_per_s": {
                "median": round(median(rates)),
                "min": round(min(rates)),
                "max": round(max(rates)),
            },
            "cpu_us_per_event": round(median(each.cpu_s for each in spent) / count * 1e6, 1),
            "over_bare": round(median(over), 3),
        }
    return found


def say(line: str) -> None:
    """To stderr."""
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description="Rewards from Kafka and NATS into the ledger, against a bare consumer."
    )
    parser.add_argument(
        "--rewards", type=int, default=40_000, help="events a round (the mock keeps some 80,000)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    described = machine("confluent-kafka", "nats-py", "redis", "hiredis", "numba")
    found = run(options.rewards, options.rounds)
    for name, cases in found.items():
        for case, each in cases.items():
            rate = each["events_per_s"]
            spread = f"({rate['min']:,} to {rate['max']:,})"
            say(
                f"{name:6} {case:8} {rate['median']:>10,} {spread:>22}  {each['over_bare']:6.3f} of bare  "
                f"CPU {each['cpu_us_per_event']} us an event"
            )
    result = {"machine": described, "rewards": options.rewards, "rounds": options.rounds, **found}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A store that loses its last writes under a reader of topics, and topics that are made again: exact after the repair.

Faults 7 and 9, invariant I1. The loss is seen before the repair, so that these tests bite.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bandit.errors import StoreUnavailable
from server.ingest.kafka import KafkaSource
from server.ingest.pipeline import Pace
from server.store.memory import MemoryStore
from server.store.redis import RedisStore
from tests.clusters import Node, free_ports, server
from tests.ingesting import NAME, World, adds_up, drain
from tests.kafka_ground import PARTITIONS, MockKafka, kafka_source

TOPIC = "rewards"
PATIENT_S = 60.0
REPAIR_S = 30.0
ALL = tuple(range(PARTITIONS))
PACE = Pace(poll_limit=500, poll_s=0.05, check_s=0.5, advance_s=0.2, publish_s=0.2)


@pytest.fixture
def mock() -> Iterator[MockKafka]:
    """Brokers of this test."""
    brokers = MockKafka()
    brokers.make(TOPIC)
    yield brokers
    brokers.close()


def until(met: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENT_S
    while not met():
        assert time.monotonic() < deadline, f"not in {PATIENT_S:g} s: {what}"
        time.sleep(0.02)


def taken(world: World) -> int:
    """How many events stand in the slot, by its positions; fewer than none while the store is away."""
    try:
        slot = world.store.fed(world.name).get(NAME)
    except StoreUnavailable:
        return -1
    return sum(each.offset + 1 for each in slot.positions.values()) if slot else 0


def in_log(world: World) -> int:
    """How many rewards its log holds."""
    return sum(
        len(entry.payload) // 40
        for entry in world.store.read({world.name: "0-0"}, 1_000_000, 0).get(world.name, [])
    )


@contextlib.contextmanager
def reading(worlds: list[World], source: KafkaSource) -> Iterator[None]:
    """A pipeline in a thread."""
    stop = threading.Event()
    pipeline = worlds[0].pipeline(source, pace=PACE)
    worlds[0].keeper.poll()
    thread = threading.Thread(target=pipeline.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENT_S)
        assert not thread.is_alive()


def cut(node: Node, share: float) -> None:
    """The server dies, the tail of its file is gone, it comes back."""
    node.kill()
    (tail,) = sorted(node.folder.glob("appendonlydir/*.incr.aof"))[-1:]
    with tail.open("r+b") as file:
        file.truncate(int(tail.stat().st_size * (1 - share)))
    node.start()
    node.ready()


def exchange(node: Node, copy: Path) -> None:
    """An older copy of its files is put in place: as when a replica that had not heard the rest takes over."""
    node.kill()
    shutil.rmtree(node.folder / "appendonlydir")
    shutil.copytree(copy, node.folder / "appendonlydir")
    node.start()
    node.ready()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", ["cut tail", "older copy", "cut tail, reader restarted"])
def test_what_the_store_lost_is_brought_again(mock: MockKafka, tmp_path: Path, way: str, full: bool) -> None:
    """Two experiments share the topic, one of them goes quiet. ``--full``: 20 losses in place of 2."""
    rounds, count = (20, 2000) if full else (2, 500)
    random = Random(7)
    node = server(tmp_path / "node", free_ports(1)[0], "--appendfsync", "always")
    node.start()
    node.ready()
    url, namespace, copy = f"redis://{node.address}", f"t{secrets.token_hex(6)}", tmp_path / "copy"
    losses: list[int] = []
    repairs_s: list[float] = []
    with (
        contextlib.closing(RedisStore(url, namespace=namespace, timeout_s=5.0)) as store,
        contextlib.ExitStack() as parts,
    ):
        worlds = [World(store, "busy"), World(store, "quiet")]
        total = 0

        def send(quiet: int) -> int:
            bodies = [*worlds[0].good(count - quiet), *worlds[1].good(quiet)]
            mock.send(TOPIC, random.sample(bodies, len(bodies)))
            return count

        def all_taken(total: int) -> None:
            until(lambda: min(map(taken, worlds)) >= total, f"{total} are taken, and each slot says so")

        parts.enter_context(reading(worlds, kafka_source(mock, partitions=ALL)))
        total += send(count // 5)
        all_taken(total)
        for number in range(rounds):
            if copy.exists():
                shutil.rmtree(copy)
            shutil.copytree(node.folder / "appendonlydir", copy)
            total += send(count // 5 if number == rounds // 2 else 0)
            all_taken(total)
            before = sum(map(in_log, worlds))
            if "restarted" in way:
                parts.close()
            if way == "older copy":
                exchange(node, copy)
            else:
                cut(node, random.uniform(0.02, 0.3) / (number + 1))
            losses.append(before - sum(map(in_log, worlds)))
            began_s = time.monotonic()
            if "restarted" in way:
                parts.enter_context(reading(worlds, kafka_source(mock, partitions=ALL)))
            all_taken(total)
            repairs_s.append(time.monotonic() - began_s)
        parts.close()
        print(f"{way}: {total} events, lost and brought again {losses}, repaired in {max(repairs_s):.1f} s")  # noqa: T201
        assert max(losses) > 0
        assert max(repairs_s) < REPAIR_S
        for world in worlds:
            assert world.counted() == world.expected
            ends = world.ends()
            assert ends["applied"] == world.made
    node.stop()


def test_a_topic_of_another_cluster_under_the_same_name_is_read_whole(mock: MockKafka) -> None:
    """Its offsets begin anew below those that were taken: an offset alone would skip them."""
    world = World(MemoryStore())

    def read_all(brokers: MockKafka) -> None:
        source = kafka_source(brokers, partitions=ALL)
        pipeline = world.pipeline(source)
        pipeline.open()
        drain(pipeline)
        source.close()

    mock.send(TOPIC, world.good(400))
    read_all(mock)
    others = [MockKafka(), MockKafka()]  # both at once: the mock's ids are those of its memory
    for other, count in zip(others, (120, 700), strict=True):
        other.make(TOPIC)
        other.send(TOPIC, world.good(count))
        read_all(other)
    ends = world.ends()
    assert world.counted() == world.expected
    assert adds_up(ends)
    assert (ends["applied"], ends["duplicate"]) == (1220, 0)
    for other in others:
        other.close()


def test_events_that_the_brokers_dropped_are_counted_as_lost(mock: MockKafka) -> None:
    """The mock keeps 5 MB of a partition; what goes before it was read is told, once."""
    world = World(MemoryStore())
    source = kafka_source(mock, partitions=ALL)
    pipeline = world.pipeline(source)
    pipeline.open()
    mock.send(TOPIC, world.good(8))
    drain(pipeline)
    source.close()
    mock.send(TOPIC, [b"\xff" * 60_000] * 150, partition=0)
    with mock.reader() as reader:
        low, high = reader.get_watermark_offsets(_partition(), timeout=10)
    assert 2 < low < high
    heir = kafka_source(mock, partitions=ALL)
    pipeline = world.pipeline(heir)
    pipeline.open()
    drain(pipeline)
    drain(pipeline)
    ends = world.ends()
    assert heir.state().lost == ends["lost"] == low - 2
    assert ends["dead"] == high - low
    heir.close()


def _partition() -> Any:
    from confluent_kafka import TopicPartition

    return TopicPartition(TOPIC, 0)

"""Members of a consumer group that come, go, die and stall: every event is counted once, and nobody waits for ever.

Fault 22, cases C302, C304 and C306: librdkafka's brokers, real threads, an oracle of integers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, cast

import pytest

from server.ingest.kafka import KafkaSource
from server.ingest.pipeline import Pace
from server.store.base import Store
from server.store.memory import MemoryStore
from tests.ingesting import NAME, World, adds_up
from tests.kafka_ground import MockKafka, kafka_source
from tests.serving import Faulty

TOPIC = "rewards"
PATIENT_S = 90.0
PACE = Pace(poll_limit=100, poll_s=0.1, check_s=0.5, advance_s=0.5, publish_s=0.2)
# The shortest that the mock's three seconds for a new group allow.
QUICK: dict[str, Any] = {"session_timeout_s": 3.5, "stall_s": 4.0, "commit_s": 0.1}


class Locked:
    """A store for several threads: one call at a time."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)

        def call(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                return found(*arguments, **named)

        return call


class Member:
    """One process of the group, as a thread. ``leave`` says goodbye, ``die`` does not."""

    def __init__(self, world: World, source: KafkaSource, store: Any = None) -> None:
        self.source = source
        self._stop = threading.Event()
        pipeline = world.pipeline(source, pace=PACE, store=store)
        self._thread = threading.Thread(target=pipeline.run, args=(self._stop,), daemon=True)
        self._thread.start()

    # A source is for one thread: of a running one only plain numbers may be looked at.

    @property
    def joined(self) -> bool:
        """Is it a member of the group with partitions, or without?"""
        return self.source._joined and all(part.epoch for part in list(self.source._parts.values()))

    @property
    def refused(self) -> int:
        """Acknowledgements that were refused."""
        return self.source._refused

    def leave(self) -> None:
        """SIGTERM."""
        self._stop.set()
        self._thread.join(PATIENT_S)
        assert not self._thread.is_alive()

    def die(self) -> None:
        """Nothing is committed, nobody is told; the group finds out when the session times out.

        Its client is destroyed unclosed, which in the middle of a rebalance may wait for ever: in a thread of its own.
        """
        self.source.close = lambda: None  # type: ignore[method-assign]
        self.leave()
        threading.Thread(target=setattr, args=(self.source, "_line", None), daemon=True).start()


def until(met: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENT_S
    while not met():
        assert time.monotonic() < deadline, f"not in {PATIENT_S:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def mock() -> Iterator[MockKafka]:
    """Brokers of this test."""
    brokers = MockKafka()
    brokers.make(TOPIC)
    yield brokers
    brokers.close()


@pytest.fixture
def world() -> World:
    """An experiment on a store that several threads may use."""
    return World(cast("Store", Locked(MemoryStore())))


def taken(world: World) -> int:
    """How many events stand in the slot, by its positions."""
    slot = world.store.fed(world.name).get(NAME)
    return sum(each.offset + 1 for each in slot.positions.values()) if slot else 0


@contextmanager
def sending(world: World, mock: MockKafka, per_s: float) -> Iterator[Callable[[], int]]:
    """Events flow as long as the block runs; calls give how many were sent."""
    stop = threading.Event()
    sent = [0]

    def flow() -> None:
        while not stop.wait(0.05):
            count = max(1, round(per_s * 0.05))
            mock.send(TOPIC, world.good(count))
            sent[0] += count

    thread = threading.Thread(target=flow, daemon=True)
    thread.start()
    try:
        yield lambda: sent[0]
    finally:
        stop.set()
        thread.join(PATIENT_S)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
def test_a_storm_of_rebalances_changes_no_integer(
    mock: MockKafka, world: World, assignment: str, full: bool
) -> None:
    """Up to four members; every few seconds one comes, leaves or dies. ``--full``: five minutes of it."""
    random = Random(22)
    ends_s = time.monotonic() + (300.0 if full else 12.0)
    members: list[Member] = []
    changes = refused = 0

    def join() -> None:
        members.append(Member(world, kafka_source(mock, assignment=assignment, **QUICK)))

    with sending(world, mock, 400.0) as sent:
        join()
        until(lambda: taken(world) > 0, "the first member reads")
        while time.monotonic() < ends_s:
            if len(members) < 4 and (len(members) < 2 or random.random() < 0.5):
                join()
            else:
                gone = members.pop(random.randrange(len(members)))
                gone.die() if random.random() < 0.4 else gone.leave()
                refused += gone.refused
            changes += 1
            time.sleep(3.0 if full else 1.5)
    until(lambda: taken(world) == sent(), "every partition is read to its end")
    for member in members:
        member.leave()
        refused += member.refused
    ends = world.ends()
    print(f"{sent()} events, {changes} changes, {refused} acknowledgements refused, {ends}")  # noqa: T201
    assert world.counted() == world.expected
    assert adds_up(ends)
    assert (ends["received"], ends["applied"], ends["duplicate"]) == (sent(), sent(), 0)
    assert changes >= 5


def test_who_stalls_loses_its_partitions_and_harms_nobody(mock: MockKafka, world: World) -> None:
    """Its append hangs beyond the poll interval, another takes over; then the append goes through after all."""
    hangs, go_on = threading.Event(), threading.Event()
    faulty = Faulty(world.store)

    def feed(given: Any) -> Any:
        if not go_on.is_set():
            hangs.set()
            assert go_on.wait(PATIENT_S)
        return world.store.feed(given)

    faulty.instead["feed"] = feed
    mock.send(TOPIC, world.good(200))
    stalled = Member(world, kafka_source(mock, **QUICK), store=faulty)
    assert hangs.wait(PATIENT_S)
    told = world.store.sources()[NAME]
    heir_source = kafka_source(mock, **QUICK)
    heir = Member(world, heir_source)
    until(lambda: taken(world) == 200, "the other has counted what hangs")
    mock.send(TOPIC, world.good(100))
    until(lambda: taken(world) == 300, "it goes on")
    # Who stalls tells the store nothing, so its age gives it away; the other one speaks.
    assert world.store.sources()[NAME] != told
    go_on.set()
    until(lambda: stalled.refused > 0, "who stalled hears that its acknowledgement came too late")
    until(lambda: stalled.joined, "and is a member again")
    mock.send(TOPIC, world.good(100))
    until(lambda: taken(world) == 400, "all is read")
    stalled.leave()
    heir.leave()
    ends = world.ends()
    assert world.counted() == world.expected
    assert adds_up(ends)
    assert ends["received"] == ends["applied"] == 400


def test_a_store_that_is_away_costs_no_membership(mock: MockKafka, world: World) -> None:
    """Longer than the poll interval: the partitions are paused, and nobody else gets them."""
    faulty = Faulty(world.store)
    away_s = 6.0
    back = [0.0]
    faulty.instead["feed"] = lambda given: _away(back, away_s, world, given)
    mock.send(TOPIC, world.good(200))
    member = Member(world, kafka_source(mock, **QUICK), store=faulty)
    until(lambda: taken(world) == 200, "all is read when the store is back")
    mock.send(TOPIC, world.good(50))
    until(lambda: taken(world) == 250, "it goes on")
    assert member.refused == 0
    assert member.source._lap == 4  # each partition was given to it once
    member.leave()
    assert world.counted() == world.expected
    assert mock.committed(TOPIC, "banditd") == dict.fromkeys(range(4), 63) | {0: 63, 1: 63, 2: 62, 3: 62}


def _away(back: list[float], away_s: float, world: World, given: Any) -> Any:
    from bandit.errors import StoreUnavailable

    now_s = time.monotonic()
    back[0] = back[0] or now_s + away_s
    if now_s < back[0]:
        raise StoreUnavailable("the store does not answer; a test says so")
    return world.store.feed(given)

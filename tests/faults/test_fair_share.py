"""A hot experiment keeps no other waiting: counted in turns and rounds, not in time (fault 30)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from bandit.log import REWARDS, START, Append, LogEntry
from bandit.rollout.transitions import start
from bandit.v1.experiment_pb2 import ExperimentStatus
from server.control.turns import PORTION_BYTES, Turns
from server.ingest.base import Chosen, Kind
from server.ingest.service import Ingest
from server.rpc.appends import MOST_ENTRIES, Appends
from server.runtime import LearnerLoop, LoopSettings
from server.store.memory import MemoryStore
from server.telemetry.ingesting import IngestTelemetry
from tests.builders import spec
from tests.fakes import FakeClock
from tests.gateway import Gateway
from tests.ingesting import World
from tests.learning import Silent
from tests.serving import in_thread, until
from tests.sources import Folder

OTHERS = [f"other-{number}" for number in range(5)]
CALLS, CALL = 60, 300
"""What waits in the hot log: so many calls of so many rewards, 2 metrics of each decision."""


class Logs:
    """Logs in memory that count how often each is read."""

    def __init__(self, **sizes: list[int]) -> None:
        self.entries = {
            name: [LogEntry(f"{place}-0", REWARDS, bytes(size)) for place, size in enumerate(each, 1)]
            for name, each in sizes.items()
        }
        self.reads: Counter[str] = Counter()
        self.waited: list[int] = []

    def read(self, offsets: Mapping[str, str], count: int, block_ms: int) -> dict[str, list[LogEntry]]:
        self.reads.update(offsets.keys())
        self.waited.append(block_ms)
        found = {
            name: [each for each in self.entries[name] if each.time_ms > int(offset.partition("-")[0])]
            for name, offset in offsets.items()
        }
        return {name: entries[:count] for name, entries in found.items() if entries}


def test_each_log_has_its_turn_and_order_is_kept() -> None:
    logs = Logs(hot=[40_000] * 50, cold=[40] * 3, huge=[2 * PORTION_BYTES] * 3)
    turns = Turns(logs, 500)
    offsets = dict.fromkeys(logs.entries, START)
    folded: dict[str, list[str]] = {name: [] for name in offsets}
    for turn in count():
        portions = turns.next(offsets, 20)
        if not portions:
            break
        for name, entries in portions.items():
            assert len(entries) == 1 or sum(len(each.payload) for each in entries) <= PORTION_BYTES
            folded[name] += [each.id for each in entries]
            offsets[name] = entries[-1].id
        assert len(folded["cold"]) == 3, "all of it in the first turn"
        assert len(folded["huge"]) == min(turn + 1, 3), "one at least"
        assert ("hot" in turns.more) == (len(folded["hot"]) < 50)
    assert folded == {name: [each.id for each in entries] for name, entries in logs.entries.items()}
    assert logs.reads["hot"] == 2, "what was read is not read again"
    assert set(logs.waited[1:-1]) == {0}, "nobody waits while something is left"


def test_what_is_left_counts_only_while_it_follows() -> None:
    """Another writer folded on, or the store fell back, while this one had entries in hand."""
    logs = Logs(hot=[200_000] * 10)
    turns = Turns(logs, 500)
    assert [each.id for each in turns.next({"hot": START}, 0)["hot"]] == ["1-0"]
    assert [each.id for each in turns.next({"hot": "5-0"}, 0)["hot"]] == ["6-0"]
    assert [each.id for each in turns.next({"hot": "6-0"}, 0)["hot"]] == ["7-0"]
    assert [each.id for each in turns.next({"hot": START}, 0)["hot"]] == ["1-0"]
    assert turns.next({}, 0) == {}


class Ordered(Silent):
    """Telemetry that keeps the rewards of each fold, in order."""

    def __init__(self) -> None:
        self.folds: list[int] = []

    def folded(self, entries: int, rewards: int, exposures: int, seconds: float) -> None:
        self.folds.append(rewards)


def test_no_experiment_waits_for_a_hot_one_that_is_behind() -> None:
    """36,000 rewards wait in one log; all others are folded, and told of, in each turn meanwhile."""
    clock = FakeClock()
    store = MemoryStore(clock.now_ms)
    telemetry = Ordered()
    loop = LearnerLoop(store, clock, LoopSettings("learner", block_s=0.0), telemetry)
    gateways = {name: Gateway(store, name, issuer) for issuer, name in enumerate(["hot", *OTHERS], 1)}
    for name, gateway in gateways.items():
        gateway.create(spec(experiment=name), clock.now_ms())
        gateway.change(start, now_ms=clock.now_ms())
    loop.step()

    def serve(name: str, decisions: int) -> None:
        gateways[name].serve(decisions, clock.now_ms(), lambda arm, number: {"satisfied": 1.0, "cost": 0.5})

    for _ in range(CALLS):
        serve("hot", CALL)
    turns = 0
    while applied(store, "hot") < gateways["hot"].rewarded:
        for name in OTHERS:
            serve(name, 1)
        clock.advance(0.25)
        telemetry.folds.clear()
        loop.step()
        turns += 1
        for name in OTHERS:
            assert applied(store, name) == gateways[name].rewarded, f"{name} in turn {turns}"
        assert max(telemetry.folds) <= PORTION_BYTES / 40, "rewards of 40 bytes"
    assert turns >= CALLS * CALL * 2 * 40 / PORTION_BYTES
    for name, gateway in gateways.items():
        found = status(store, name)
        assert {arm.arm: arm.exposures for arm in found.arms if arm.exposures} == gateway.decided
        assert found.rewards.duplicate == 0


def status(store: MemoryStore, name: str) -> ExperimentStatus:
    return ExperimentStatus.FromString(store.status(name) or b"")


def applied(store: MemoryStore, name: str) -> int:
    return status(store, name).rewards.applied


def test_a_call_waits_for_those_before_it_and_for_no_later_one() -> None:
    """150 callers of a hot experiment come again and again; another one's call is in the round that it is due in."""
    rounds: list[list[str]] = []
    shut = threading.Event()

    class Log:
        def append(self, entries: list[Append]) -> list[str]:
            shut.wait(20)
            rounds.append([entry.experiment for entry in entries])
            return [f"{len(rounds)}-{index}" for index in range(len(entries))]

    store: Any = Log()
    appends = Appends(store)
    ended = threading.Event()

    def hot() -> None:
        while not ended.is_set():
            appends.append([Append("hot", 1, REWARDS, b"x")] * 5)

    callers = [in_thread(hot) for _ in range(50)]
    until(lambda: len(appends._queue) == 49, what="a round, and 49 callers behind it")
    other = in_thread(lambda: appends.append([Append("other", 2, REWARDS, b"x")]))
    until(lambda: len(appends._queue) == 50, what="the other one")
    callers += [in_thread(hot) for _ in range(100)]
    until(lambda: len(appends._queue) == 150, what="100 more behind it")
    shut.set()
    other.join(20)
    ended.set()
    for caller in callers:
        caller.join(20)
    place = next(index for index, each in enumerate(rounds) if "other" in each)
    assert MOST_ENTRIES > 49 * 5
    assert place == 1


def test_a_source_that_never_comes_to_an_end_keeps_no_other_waiting(tmp_path: Path) -> None:
    """It is in the middle of its portion until all of the other's events are in the log."""
    world = World(MemoryStore())
    go_on = threading.Event()
    folders = {name: Folder(tmp_path / name) for name in ("hot", "other")}
    sources: dict[str, Any] = {name: folder.source() for name, folder in folders.items()}
    poll = sources["hot"].poll

    def endless(limit: int, timeout_s: float) -> Any:
        assert go_on.wait(60)
        return poll(limit, timeout_s)

    sources["hot"].poll = endless
    for name, bodies in zip(folders, (world.good(500), world.good(20)), strict=True):
        folders[name].send(bodies)
    kinds = {"listed": Kind(object, lambda chosen, now_ms: sources[chosen.name])}
    chosen = [Chosen(name, "listed", None) for name in sources]
    ingest = Ingest(chosen, kinds, world.store, world.keeper, world.clock, IngestTelemetry(), "here")
    ingest.start()
    try:
        until(lambda: world.ends("other")["applied"] == 20, 60.0, "the other one's events")
        assert world.ends("hot")["received"] == 0
    finally:
        go_on.set()
    until(lambda: world.ends("hot")["applied"] == 500, 60.0, "those of the hot one")
    assert ingest.stop(60)

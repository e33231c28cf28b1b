"""The pipeline's own promises, over a source in memory: pauses, rests, faults of ours, slots that are broken."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bandit.errors import CorruptStored, StoreUnavailable
from server.ingest.base import Position, Recall, Received, SourceState, SourceUnavailable
from server.ingest.service import Ingest
from server.ingest.slots import LETTERS, Item, Slots, further
from server.intake.sort import Fate, sort
from server.store.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ingesting import NAME, World, adds_up, drain, event
from tests.serving import Faulty, until


class Listed:
    """A source of one partition in memory; ``failing`` holds what is raised at the next polls."""

    ordered = True

    def __init__(self, bodies: Sequence[bytes] = ()) -> None:
        self.bodies = list(bodies)
        self.at = 0
        self.failing: list[Exception] = []
        self.rests = 0
        self.acknowledged = 0
        self.opened = 0
        self.rewound: list[Mapping[str, Sequence[Position]]] = []
        self.lost = 0

    def open(self, recall: Recall) -> None:
        self.opened += 1
        self.at = min((position.offset + 1 for position in recall("p")), default=0)

    def poll(self, limit: int, timeout_s: float) -> Sequence[Received]:
        if self.failing:
            raise self.failing.pop()
        batch = [
            Received(body, Position("p", "e", self.at + at))
            for at, body in enumerate(self.bodies[self.at :][:limit])
        ]
        self.at += len(batch)
        return batch

    def done(self, batch: Sequence[Received]) -> None:
        self.acknowledged += len(batch)

    def rest(self) -> None:
        self.rests += 1

    def rewind(self, to: Mapping[str, Sequence[Position]]) -> None:
        self.rewound.append(to)
        self.at = min((position.offset + 1 for position in to["p"]), default=0)

    def state(self) -> SourceState:
        return SourceState(True, lost=self.lost)

    def close(self) -> None:
        pass


@pytest.fixture
def world() -> World:
    return World(MemoryStore())


def test_an_event_that_breaks_us_is_a_letter_and_the_rest_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(keeper: Any, snapshot: Any, body: bytes, headers: Any, now_ms: int) -> Any:
        if body == b"odd":
            raise ZeroDivisionError
        return sort(keeper, snapshot, body, headers, now_ms)

    monkeypatch.setattr("server.ingest.pipeline.sort", broken)
    source = Listed([*world.good(5), b"odd", *world.good(5)])
    pipeline = world.pipeline(source)
    pipeline.open()
    drain(pipeline)
    assert world.counted() == world.expected
    (letter,) = world.store.letters("", 10)
    assert (letter.reason, letter.body) == ("UNEXPECTED", b"odd")


def test_one_broken_slot_holds_up_no_other(world: World) -> None:
    """Its events are letters, to be replayed when somebody has mended it (row 14)."""
    broken = World(world.store, "broken")
    world.keeper.poll()
    faulty = Faulty(world.store)

    def feed(given: Any) -> Any:
        if given.experiment == "broken":
            raise CorruptStored("broken:fed is a list; restore it")
        return world.store.feed(given)

    faulty.instead["feed"] = feed
    source = Listed([*world.good(3), *broken.good(4), *world.good(3)])
    pipeline = world.pipeline(source, store=faulty)
    pipeline.open()
    drain(pipeline)
    assert world.counted() == world.expected
    assert [letter.reason for letter in world.store.letters("", 10)] == ["CORRUPT_STORED"] * 4
    assert adds_up(world.ends())
    assert source.acknowledged == 10


def test_nothing_is_acknowledged_before_all_of_it_is_in_its_slots(world: World) -> None:
    faulty = Faulty(world.store)
    source = Listed([*world.good(3), b"{"])
    pipeline = world.pipeline(source, store=faulty)
    pipeline.open()
    calls = [0]

    def bury(given: Any) -> Any:
        assert source.acknowledged == 0
        calls[0] += 1
        if calls[0] < 4:
            raise StoreUnavailable("away; a test says so")
        return world.store.bury(given)

    faulty.instead["bury"] = bury
    assert pipeline.turn(threading.Event()) == 4
    assert (source.acknowledged, source.rests) == (4, 3)


def test_a_source_that_is_away_is_asked_again_and_said_to_be_so(world: World) -> None:
    source = Listed(world.good(2))
    source.failing = [SourceUnavailable("the broker is away"), SourceUnavailable("the broker is away")]
    stop = threading.Event()
    said: list[bytes] = []
    faulty = Faulty(world.store)

    def put(name: str, status: bytes) -> None:
        said.append(status)
        world.store.put_source(name, status)

    faulty.instead["put_source"] = put
    thread = threading.Thread(target=world.pipeline(source, store=faulty).run, args=(stop,))
    thread.start()
    until(lambda: source.acknowledged == 2, 60, "both are taken")
    stop.set()
    thread.join(60)
    assert source.opened == 1
    assert any(b"the broker is away" in status for status in said)
    assert b"the broker is away" not in said[-1]
    assert world.counted() == world.expected


def test_a_source_that_cannot_rest_loses_nothing_of_what_it_gave(world: World) -> None:
    """The portion is kept in hand, whoever fails meanwhile."""
    source = Listed(world.good(6))
    faulty = Faulty(world.store)
    failures = [0]

    def feed(given: Any) -> Any:
        failures[0] += 1
        if failures[0] < 4:
            raise StoreUnavailable("away; a test says so")
        return world.store.feed(given)

    def rest() -> None:
        raise SourceUnavailable("the broker is away too")

    faulty.instead["feed"] = feed
    source.rest = rest  # type: ignore[method-assign]
    stop = threading.Event()
    thread = threading.Thread(target=world.pipeline(source, store=faulty).run, args=(stop,))
    thread.start()
    until(lambda: source.at == 6 and failures[0] >= 4, 60, "all were polled, and the store is back")
    until(world.store.sources, 60, "it goes on")
    stop.set()
    thread.join(60)
    assert world.counted() == world.expected
    assert source.acknowledged == 6


def test_a_rewind_that_fails_is_owed(world: World) -> None:
    source = Listed(world.good(8))
    pipeline = world.pipeline(source)
    pipeline.open()
    drain(pipeline)
    kept = world.store._kept["answers"]  # type: ignore[attr-defined]
    assert kept.fed[f"p:{NAME}:p"] == "e 7"
    pipeline._slots.advance(pipeline._done)
    kept.fed[f"p:{NAME}:p"] = "e 2"  # as after a failover
    real, tries = source.rewind, [0]

    def rewind(to: Mapping[str, Sequence[Position]]) -> None:
        tries[0] += 1
        if tries[0] < 3:
            raise SourceUnavailable("the broker is away; a test says so")
        real(to)

    source.rewind = rewind  # type: ignore[method-assign]
    source.bodies += world.good(2)
    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            drain(pipeline, quiet=200)
    drain(pipeline)
    assert tries[0] == 3
    assert min(position.offset for position in source.rewound[0]["p"]) == 2
    assert world.counted() == world.expected


def test_what_the_source_lost_is_counted_once(world: World) -> None:
    source = Listed(world.good(2))
    pipeline = world.pipeline(source)
    pipeline.open()
    source.lost = 3
    drain(pipeline)
    pipeline._publish(force=True)
    source.lost = 5
    pipeline._publish(force=True)
    pipeline._publish(force=True)
    assert world.ends()["lost"] == 5


def test_a_quiet_slot_does_not_hold_a_restart_back(world: World) -> None:
    """Where nothing came for long, the slot is moved on all the same."""
    quiet = World(world.store, "quiet")
    world.keeper.poll()
    source = Listed([*quiet.good(1), *world.good(500)])
    pipeline = world.pipeline(source)
    pipeline.open()
    drain(pipeline)
    pipeline._end()
    for name in ("quiet", "answers"):
        assert world.store.fed(name)[NAME].positions["p"].offset == 500
    assert world.store.buried()[NAME].positions["p"].offset == 500
    following = Listed(source.bodies)
    again = world.pipeline(following)
    again.open()
    assert following.at == 501


def test_a_restart_begins_at_the_beginning_until_a_portion_was_delivered_everywhere(world: World) -> None:
    """One slot being ahead says nothing of the others."""
    world.store.feed(_fed(world, 7))
    source = Listed(world.good(8))
    pipeline = world.pipeline(source)
    pipeline.open()
    assert source.at == 0


def _fed(world: World, offset: int) -> Any:
    from server.store.fed import Feed, Move

    move = Move(None, Position("p", "e", offset))
    return Feed("answers", world.stored.experiment.uid, NAME, moves=[move])


def test_the_furthest_position_is_of_the_latest_incarnation() -> None:
    old, new = Position("p", "a", 7), Position("p", "b", 1)
    assert further(None, old) == old
    assert further(old, new) == new
    assert further(old, Position("p", "a", 3)) == old
    assert LETTERS == ("", 0)


def test_a_thread_that_breaks_is_told_so_that_the_process_ends(world: World) -> None:
    """A live process with a dead reader would look healthy."""
    from server.ingest.base import Chosen, Kind
    from server.telemetry.ingesting import IngestTelemetry

    source = Listed()
    source.failing = [ZeroDivisionError()]
    kinds = {"listed": Kind(object, lambda chosen, now_ms: source)}
    chosen = [Chosen("s", "listed", None)]
    ingest = Ingest(chosen, kinds, world.store, world.keeper, world.clock, IngestTelemetry(), "here")
    ingest.start()
    assert ingest.broken.wait(60)
    assert ingest.stop(60)


def test_a_thread_that_stands_still_is_told_from_one_that_waits(world: World) -> None:
    """Who waits for events, or for a store that is away, turns all the same; who hangs does not."""
    from server.ingest.base import Chosen, Kind
    from server.telemetry.ingesting import IngestTelemetry

    hangs, go_on = threading.Event(), threading.Event()

    class Hanging(Listed):
        def poll(self, limit: int, timeout_s: float) -> Sequence[Received]:
            if hangs.is_set():
                assert go_on.wait(60)
            return super().poll(limit, timeout_s)

    sources = {"one": Listed(), "two": Hanging()}
    kinds = {"listed": Kind(object, lambda chosen, now_ms: sources[chosen.name])}
    chosen = [Chosen(name, "listed", None) for name in sources]
    clock = FakeClock()
    ingest = Ingest(chosen, kinds, world.store, world.keeper, clock, IngestTelemetry(), "here")
    ingest.start()
    clock.advance(100.0)
    until(lambda: ingest.still_s < 1.0, 60.0, "both turn")
    hangs.set()
    moved = time.monotonic() + 60
    while ingest.still_s < 50.0:
        assert time.monotonic() < moved
        clock.advance(1.0)
        time.sleep(0.001)
    go_on.set()
    until(lambda: ingest.still_s < 1.0, 60.0, "it turns again")
    assert ingest.stop(60)


def test_to_recall_one_partition_hides_no_loss_of_another(world: World) -> None:
    """A rebalance between a failover and the next look must not make us forget what was known."""
    slots = Slots(world.store, NAME, lambda: [("answers", world.stored.experiment.uid)], ordered=True)
    for partition in ("p", "q"):
        for offset, body in enumerate(world.good(3)):
            snapshot = world.keeper.snapshot
            assert snapshot is not None
            received = Received(body, Position(partition, "e", offset))
            item = Item(received, sort(world.keeper, snapshot, body, {}, world.clock.now_ms()))
            assert slots.deliver(("answers", world.stored.experiment.uid), [item]) == []
    fields = world.store._kept["answers"].fed  # type: ignore[attr-defined]
    fields[f"p:{NAME}:p"] = "e 0"
    slots.recall("q")
    assert set(slots.set_back()) == {"p"}
    assert slots.set_back() == {}


def test_what_the_slot_of_one_partition_lost_is_brought_again() -> None:
    """Its position and its log went back together; the other partitions stand where they stood."""
    world = World(MemoryStore(), partitions=3)
    source = Listed(world.good(30))
    pipeline = world.pipeline(source)
    pipeline.open()
    drain(pipeline)
    kept = copy.deepcopy(world.store._kept["answers/1"])  # type: ignore[attr-defined]
    source.bodies += world.good(30)
    drain(pipeline)
    assert world.counted() == world.expected
    world.store._kept["answers/1"] = kept  # type: ignore[attr-defined]
    world.forget()
    stop = threading.Event()
    until(lambda: pipeline.turn(stop) or source.rewound, 60.0, "it noticed")
    drain(pipeline)
    assert world.counted() == world.expected
    assert adds_up(world.ends())
    assert world.ends()["received"] == 60


def test_an_event_has_one_slot_whatever_becomes_of_it() -> None:
    """One that came, and comes again when it is late, is told by its place: so it must come to the same slot."""
    world = World(MemoryStore(), partitions=3)
    snapshot = world.keeper.snapshot
    assert snapshot is not None
    for number in range(6):
        found = []
        for age_ms in (0, 10**9):
            body = event(token=world.token(number, age_ms=age_ms))
            found.append(sort(world.keeper, snapshot, body, {}, world.clock.now_ms()))
        assert [each.fate for each in found] == [Fate.ACCEPTED, Fate.LATE]
        assert len({each.slot for each in found}) == 1
    ledgers = set()
    for number in range(20):
        found = []
        for value in (1.0, 7.0):
            body = event(
                value=value, experiment="experiments/answers", arm="small", unit=f"u{number}", eventId="x"
            )
            found.append(sort(world.keeper, snapshot, body, {}, world.clock.now_ms()))
        assert [each.fate for each in found] == [Fate.ACCEPTED, Fate.REJECTED]
        assert len({each.slot for each in found}) == 1
        ledgers.add(found[0].ledger)
    assert ledgers == {"answers", "answers/1", "answers/2"}

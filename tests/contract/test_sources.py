"""What every source of rewards promises, through the pipeline that reads it: counted once, whatever happens.

The oracle is integers, compared with ``==``: each arm's n and sum over distinct good events.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bandit.errors import StoreUnavailable
from server.ingest import SOURCES
from server.ingest.base import RewardSource
from server.store.memory import MemoryStore
from tests.ingesting import (
    NAME,
    QUICK,
    Stopped,
    World,
    adds_up,
    drain,
    event,
    killed_at,
    poisons,
    shuffled,
)
from tests.serving import Faulty
from tests.sources import GROUNDS, Ground

STEPS = ["poll", "decode", "append", "bury", "acknowledge", "go on"]


class Tried(NamedTuple):
    """A world and the ground that feeds it."""

    world: World
    ground: Ground


@pytest.fixture(params=sorted(GROUNDS))
def tried(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tried]:
    """Each kind of source, on an empty ground, with an empty store."""
    with ExitStack() as stack:
        yield Tried(World(MemoryStore()), stack.enter_context(GROUNDS[request.param](tmp_path)))


class Held:
    """All that a store has now, to be put back later: what a failover or a cut log leaves."""

    PARTS = ("_kept", "_letters", "_sources", "_last_id")

    def __init__(self, store: Any) -> None:
        self._store = store
        self._parts = copy.deepcopy({part: getattr(store, part) for part in self.PARTS})

    def restore(self) -> None:
        """Put it back."""
        with self._store._changed:
            for part, value in self._parts.items():
                setattr(self._store, part, value)


def read_all(tried: Tried) -> None:
    """One process reads what there is, and ends well."""
    source = tried.ground.source()
    pipeline = tried.world.pipeline(source)
    pipeline.open()
    drain(pipeline)
    pipeline._end()


def test_every_kind_has_a_ground() -> None:
    assert set(GROUNDS) == set(SOURCES)


def test_each_event_is_counted_once(tried: Tried) -> None:
    world, ground = tried
    ground.send(world.good(300))
    read_all(tried)
    assert world.counted() == world.expected
    ends = world.ends()
    assert (ends["received"], ends["applied"], adds_up(ends)) == (300, 300, True)


def test_what_comes_while_it_reads_is_read(tried: Tried) -> None:
    world, ground = tried
    source = ground.source()
    pipeline = world.pipeline(source)
    ground.send(world.good(5))
    pipeline.open()
    drain(pipeline)
    ground.send(world.good(7))
    drain(pipeline)
    source.close()
    assert world.counted() == world.expected


def test_a_restart_goes_on_and_repeats_nothing(tried: Tried) -> None:
    world, ground = tried
    for _ in range(3):
        ground.send(world.good(40))
        read_all(tried)
    ends = world.ends()
    assert world.counted() == world.expected
    assert (ends["received"], ends["duplicate"]) == (120, 0)


def test_repeats_and_other_orders_change_nothing(tried: Tried) -> None:
    world, ground = tried
    events = world.good(100)
    ground.send(shuffled(events * 3, 1))
    read_all(tried)
    ends = world.ends()
    assert world.counted() == world.expected
    assert (ends["applied"], ends["duplicate"], adds_up(ends)) == (100, 200, True)


def test_poison_is_buried_and_what_follows_is_counted(tried: Tried) -> None:
    world, ground = tried
    bad = poisons(world)
    assert len(bad) == 12
    for reason, body in bad:
        ground.send([body.replace(b"\n", b" "), *world.good(3)])
        assert reason
    read_all(tried)
    letters = world.store.letters("", 100)
    assert [letter.reason for letter in letters] == [reason for reason, _ in bad]
    assert [letter.body for letter in letters] == [body.replace(b"\n", b" ") for _, body in bad]
    assert all(letter.source == NAME and letter.message and letter.place for letter in letters)
    ends = world.ends()
    assert world.counted() == world.expected
    assert (ends["applied"], ends["dead"], adds_up(ends)) == (36, 12, True)


def test_every_end_is_counted_and_all_add_up(tried: Tried) -> None:
    world, ground = tried
    good = world.good(10)
    numbers = iter(range(5_000_000, 6_000_000))
    values: list[object] = ["1", True, None, [1], "", 0.5, 2, -0.5, 10**400]
    rejected = [event(token=world.token(next(numbers)), value=value) for value in values]
    late = [event(token=world.token(next(numbers), age_ms=7_200_000)) for _ in range(4)]
    changed = event(token=world.token(0), value=0.0)  # decision 0 had 1
    ground.send([*good, *rejected, *late, changed, good[1], b"{"])
    read_all(tried)
    ends = world.ends()
    assert world.counted() == world.expected
    assert ends == {
        "received": 10 + len(values) + 4 + 3,
        "lost": 0,
        "applied": 10,
        "duplicate": 1,
        "conflict": 1,
        "superseded": 0,
        "late": 4,
        "rejected": len(values),
        "dead": 1,
    }


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_crash_at_any_step_loses_and_doubles_nothing(tried: Tried, step: str, nth: int) -> None:
    """Killed just before the nth time of a step, then again by its successor, then read to the end."""
    world, ground = tried
    bad = [body for reason, body in poisons(world) if reason in ("NOT_JSON", "BAD_TOKEN")]
    ground.send([*world.good(250), *bad, *world.good(250)])
    for _ in range(2):
        source: RewardSource = ground.source()
        pipeline = world.pipeline(source, told=killed_at(step, nth))
        with pytest.raises(Stopped):  # noqa: PT012 - wherever it stops
            pipeline.open()
            drain(pipeline, quiet=2)
            raise Stopped
        ground.crash(source)
    source = ground.source()
    pipeline = world.pipeline(source)
    pipeline.open()
    drain(pipeline)
    ends = world.ends()
    assert world.counted() == world.expected
    assert adds_up(ends)
    assert ends["dead"] == len(bad)
    assert Counter(letter.body for letter in world.store.letters("", 100)) == Counter(bad)
    if source.ordered:
        assert (ends["received"], ends["duplicate"]) == (500 + len(bad), 0)
    source.close()


def test_a_crash_before_each_append_of_several_experiments(tried: Tried) -> None:
    """Some slots have a portion already and others not: each takes what it lacks."""
    world, ground = tried
    others = [World(world.store, f"other-{number}") for number in range(3)]
    world.keeper.poll()
    bodies = [body for each in (world, *others) for body in each.good(60)]
    ground.send(shuffled(bodies, 3))
    for nth in (2, 3, 4):
        source = ground.source()
        pipeline = world.pipeline(source, told=killed_at("append", nth))
        pipeline.open()
        with pytest.raises(Stopped):  # noqa: PT012 - wherever it stops
            drain(pipeline, quiet=2)
            raise Stopped
        ground.crash(source)
    read_all(tried)
    for each in (world, *others):
        assert each.counted() == each.expected
        assert adds_up({**each.ends(), "dead": 0})


def test_while_the_store_is_away_nothing_is_lost(tried: Tried) -> None:
    world, ground = tried
    faulty = Faulty(world.store)
    ground.send(world.good(50))
    source = ground.source()
    pipeline = world.pipeline(source, store=faulty)
    pipeline.open()
    faulty.broken = {"feed", "fed", "bury", "buried", "put_source"}
    failures = [0]

    def failing(*_: object) -> object:
        failures[0] += 1
        if failures[0] > 5:
            faulty.broken, faulty.instead = set(), {}
        raise StoreUnavailable("the store does not answer; a test says so")

    faulty.broken.remove("feed")
    faulty.instead["feed"] = failing
    faulty.broken -= {"fed", "buried"}  # what is refused first is the append
    for _ in range(200):
        try:
            drain(pipeline)
            break
        except StoreUnavailable:
            continue
    assert failures[0] == 6
    assert world.counted() == world.expected
    assert world.ends()["received"] == 50
    source.close()


def test_an_append_whose_answer_was_lost_is_not_made_twice(tried: Tried) -> None:
    world, ground = tried
    faulty = Faulty(world.store)
    lost = [0]

    def feed(given: object) -> object:
        told = world.store.feed(given)  # type: ignore[arg-type]
        if lost[0] < 4:
            lost[0] += 1
            raise StoreUnavailable("its answer was lost; a test says so")
        return told

    faulty.instead["feed"] = feed
    ground.send(world.good(80))
    source = ground.source()
    pipeline = world.pipeline(source, store=faulty)
    pipeline.open()
    drain(pipeline)
    source.close()
    ends = world.ends()
    assert lost[0] == 4
    assert world.counted() == world.expected
    assert adds_up(ends)
    if source.ordered:
        assert ends["received"] == 80


def test_what_the_store_lost_is_brought_again_while_it_reads(tried: Tried) -> None:
    """A failover that loses the newest writes: positions went back with the log, so the reader notices."""
    world, ground = tried
    other = World(world.store, "other")
    world.keeper.poll()
    source = ground.source()
    pipeline = world.pipeline(source)
    pipeline.open()
    ground.send([*world.good(50), b"{", *other.good(10)])
    drain(pipeline)
    kept = Held(world.store)
    ground.send([*world.good(60), b"[", *other.good(20), *world.good(5)])
    drain(pipeline)
    kept.restore()
    assert world.counted() != world.expected, "nothing was lost, so nothing is shown"
    world.forget()
    drain(pipeline, quiet=8)
    source.close()
    for each in (world, other):
        assert each.counted() == each.expected
    assert Counter(letter.body for letter in world.store.letters("", 10)) == Counter([b"{", b"["])


def test_a_store_that_loses_writes_under_a_portion_in_hand_hides_nothing(tried: Tried) -> None:
    """The portion that is in hand then lies beyond what was lost: to append it would pass over that for ever."""
    world, ground = tried
    other = World(world.store, "other")
    world.keeper.poll()
    ground.send([*world.good(30), *other.good(5)])
    read_all(tried)
    kept = Held(world.store)
    ground.send([*world.good(40), b"{", *other.good(5)])
    source = ground.source()
    losing = [False]

    def told(step: str) -> None:
        if losing[0] and step == "append":
            losing[0] = False
            kept.restore()

    never = replace(QUICK, check_s=1e9, advance_s=1e9)  # nobody looks meanwhile
    pipeline = world.pipeline(source, told=told, pace=never)
    pipeline.open()
    drain(pipeline)
    ground.send([*world.good(20), *other.good(5)])
    losing[0] = True
    drain(pipeline, quiet=10)
    source.close()
    assert not losing[0]
    world.forget()
    for each in (world, other):
        assert each.counted() == each.expected
    assert [letter.body for letter in world.store.letters("", 10)] == [b"{"]


def test_what_the_store_lost_is_brought_again_after_a_restart(tried: Tried) -> None:
    world, ground = tried
    other = World(world.store, "other")
    world.keeper.poll()
    for end in (False, True):
        if end:
            kept = Held(world.store)
        ground.send([*world.good(50), *other.good(10), b"{"])
        read_all(tried)
    kept.restore()
    assert world.counted() != world.expected, "nothing was lost, so nothing is shown"
    world.forget()
    read_all(tried)
    for each in (world, other):
        assert each.counted() == each.expected
    assert [letter.body for letter in world.store.letters("", 10)] == [b"{", b"{"]


def test_stopping_ends_at_once_and_leaves_the_rest_for_later(tried: Tried) -> None:
    world, ground = tried
    faulty = Faulty(world.store)
    ground.send(world.good(30))
    source = ground.source()
    stop = threading.Event()
    waited = threading.Event()

    def feed(_: object) -> object:
        waited.set()
        raise StoreUnavailable("the store does not answer; a test says so")

    faulty.instead["feed"] = feed
    thread = threading.Thread(target=world.pipeline(source, store=faulty).run, args=(stop,))
    thread.start()
    assert waited.wait(60)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    read_all(tried)
    assert world.counted() == world.expected


def test_events_of_a_deleted_experiment_are_letters(tried: Tried) -> None:
    world, ground = tried
    other = World(world.store, "gone")
    world.keeper.poll()
    ground.send([*other.good(5), *world.good(5)])
    world.store.delete("gone", other.stored.generation)
    source = ground.source()
    pipeline = world.pipeline(source)
    pipeline.open()
    drain(pipeline)
    source.close()
    assert [letter.reason for letter in world.store.letters("", 10)] == ["UNKNOWN_EXPERIMENT"] * 5
    assert world.counted() == world.expected
    assert adds_up(world.ends())

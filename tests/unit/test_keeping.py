"""The writer that keeps events: what the log has, what the trailing ledger begins from, what stands meanwhile."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest

from bandit.errors import CorruptStored
from bandit.ids import trailing_name
from bandit.ledger import ONE
from bandit.log import START
from bandit.rollout.transitions import update
from server import keeping
from server.keeping import Keeping
from server.learner import TRIM_SLACK_MS
from server.runtime import LearnerLoop, LoopSettings
from server.store.packed import split_offset
from tests.builders import NOW, spec
from tests.fakes import FakeClock
from tests.learning import Silent
from tests.removing import NAME, SHAPES, Sent, Side, small

CLICKS = 0
TRAILING = trailing_name(NAME)


def send(side: Side, count: int, *, first: int = 0) -> None:
    side.send([Sent(CLICKS, 1, number, 0, ONE) for number in range(first, first + count)])


def logged(side: Side) -> list[int]:
    """Times of the log's entries, s since the beginning."""
    entries = side.store.read({NAME: START}, 999, 0)[NAME]
    return [(entry.time_ms - NOW) // 1000 for entry in entries]


def test_the_log_is_trimmed_only_behind_the_trailing_ledger() -> None:
    with small():
        side = Side("remembered", "30m")
        for minute in range(60):
            send(side, 1, first=minute)
            side.learn()
            side.settle()
            side.ms += 60_000
        assert isinstance(side.writer, Keeping)
        newest = split_offset(side.writer.state.offset)[0]
        behind = split_offset(side.writer.trailing.state.offset)[0]
        assert 30 * 60_000 <= newest - behind <= 32 * 60_000
        kept = logged(side)
        assert kept[-1] == 59 * 60
        assert behind - TRIM_SLACK_MS - 120_000 <= NOW + kept[0] * 1000 <= behind
    other = Side("remembered", "0s")
    for minute in range(60):
        send(other, 1, first=minute)
        other.learn()
        other.ms += 60_000
    assert logged(other)[0] >= 48 * 60


def test_entries_in_hand_when_a_removal_is_learnt_of_stay_in_the_log() -> None:
    side = Side("remembered", "1d")
    send(side, 2)
    entries = side.store.read({NAME: side.writer.state.offset}, 10, 0)[NAME]
    side.remove("clicks")
    assert side.writer.take(NAME, entries).outcomes.sum() == 0
    assert side.writer.state.offset == START
    assert dict(side.writer.reads) == {}
    side.settle()
    assert side.writer.counts.sources["clicks"].rejected == 2


def test_events_may_be_kept_from_some_time_on_and_no_longer() -> None:
    side = Side("remembered", "0s")
    send(side, 3)
    side.learn()
    before = side.writer.state.offset
    for retention in ("1d", "0s", "2d"):
        now = side.stored
        changed = spec(**SHAPES["remembered"], event_retention=retention)
        moved = update(now.experiment, now.allocation, changed, side.ms)
        assert moved is not None
        side.commit(moved)
        side.again()
        written = side.store.written(TRAILING)
        assert (written is not None) == (retention != "0s")
        assert written is None or (written.offset, written.counts) == (before, side.writer.counts)
    side.ms += 1
    send(side, 2, first=10)
    side.learn()
    side.remove("clicks")
    side.settle()
    assert side.writer.counts.sources["clicks"] == replace(
        side.writer.counts.sources["clicks"], applied=3, rejected=2
    )


def test_a_log_that_is_not_what_was_counted_changes_nothing() -> None:
    side = Side("remembered", "1d")
    send(side, 3)
    side.learn()
    del side.store._kept[NAME].log[0]
    before = side.store.load_writer(NAME)
    side.remove("clicks")
    with pytest.raises(CorruptStored, match="take event_retention out of the spec"):
        side.settle()
    after = side.store.load_writer(NAME)
    assert before is not None
    assert after is not None
    assert (before.counts, before.removals) == (after.counts, after.removals)


def test_a_removal_without_the_ledger_to_begin_from_is_refused() -> None:
    side = Side("remembered", "1d")
    send(side, 1)
    side.learn()
    side.remove("clicks")
    side.store.forget(TRAILING, 7)
    with pytest.raises(CorruptStored, match="ledger to begin from is gone"):
        side.again()


def test_allocations_are_kept_until_the_trailing_ledger_has_them() -> None:
    side = Side("remembered", "1d")
    side.writer.flush()
    for _ in range(5):
        side.ms += 1000
        side.reshare()
        side.writer.flush()
    newest = side.stored.allocation.number
    assert [each.number for each in side.store.allocations(NAME, 0)][-1] == newest
    side.again()
    assert side.writer.newest == newest
    with patch.object(keeping, "MOST_UNWRITTEN", 1):
        side.writer.tend()
    side.reshare()
    assert isinstance(side.writer, Keeping)
    side.writer.trailing.flush()  # the ledger itself has not written it yet
    assert [each.number for each in side.store.allocations(NAME, 0)][-1] == newest + 1


def test_a_removal_is_done_in_small_steps() -> None:
    """Each reads a bounded part of the log, so that other experiments have their turns between."""
    with small(4):
        side = Side("remembered", "1d")
        for number in range(30):
            send(side, 1, first=number)
            side.ms += 1
        side.learn()
        side.remove("clicks")
        seen = []
        while side.writer.stands:
            side.writer.tend()
            events = side.writer.events
            assert events is not None
            seen.append(events.read)
        assert seen == [4, 8, 12, 16, 20, 24, 28, None]


def test_batches_end_between_milliseconds() -> None:
    with small(4):
        side = Side("remembered", "1m")
        for number in range(3):
            for _ in range(3):
                send(side, 1, first=number)
            side.ms += 1
        side.ms += 120_000
        send(side, 1, first=9)
        side.learn()
        side.writer.tend()
        written = side.store.written(TRAILING)
        assert written is not None
        assert written.offset.endswith("-2")
        assert sum((written.counts.applied, written.counts.duplicate)) == 3


def test_shares_stand_still_while_the_ledger_does() -> None:
    """The loop judges and tells, but commits nothing by what is about to be taken back."""
    clock = FakeClock(NOW)
    side = Side("remembered", "1d")
    side.store._clock_ms = clock.now_ms
    loop = LearnerLoop(side.store, clock, LoopSettings("here", tick_s=0.0), Silent())
    loop.step()
    for number in range(60):
        side.send([Sent(CLICKS, 1, number, 1, 0 if number % 3 == 1 else ONE)])
    loop._ticked[NAME] = clock.monotonic_s() + 1e9  # it folds and does not look yet
    loop.step()
    side.stored = before = side.load()
    side.remove("clicks")
    loop._ticked.clear()
    with small(2):
        for _ in range(8):
            clock.advance(2)
            loop.step()
        assert loop.writers[NAME].stands
        assert side.load().allocation == before.allocation
        while loop.writers[NAME].stands:
            clock.advance(0.1)
            loop.step()
    for _ in range(8):
        clock.advance(60)
        loop.step()
    assert loop.writers[NAME].counts.sources["clicks"].rejected == 60
    assert side.load().allocation.number > before.allocation.number

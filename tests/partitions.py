"""An experiment in any number of partitions, fed the same events as another, for laws that compare the two."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bandit.errors import StoreUnavailable
from bandit.ids import ledger_name
from bandit.ledger import Period
from bandit.log import EXPOSURE, Append, exposure_entry, partition_of
from bandit.reward import Amendment, RewardRecord
from bandit.rollout.transitions import create, reallocate, start
from server.evidence import Evidence
from server.partitioned import open_writer
from server.store.base import Commit, FoldWrite, Shipment, Stored
from server.store.memory import MemoryStore
from server.store.memory_ledger import Kept
from tests.builders import NOW, SALT, spec

READ = 7


class Breaking(MemoryStore):
    """Fails one fold, before or after it was taken, when ``left`` folds were written."""

    left: int | None = None
    after = False

    def copied(self, ledger: str) -> Kept:
        """All that one slot has of a ledger."""
        return copy.deepcopy(self._kept[ledger])

    def put_back(self, ledger: str, kept: Kept) -> None:
        """The slot stands where it was."""
        self._kept[ledger] = kept

    def clear(self, ledger: str) -> None:
        """Lose all that one slot has of a ledger."""
        self._kept[ledger] = Kept(self._kept[ledger].uid)

    def fold(self, name: str, write: FoldWrite) -> bool:
        """See LedgerStore."""
        if self.left is None:
            return super().fold(name, write)
        self.left -= 1
        if self.left >= 0:
            return super().fold(name, write)
        self.left = None
        if self.after:
            super().fold(name, write)
        raise StoreUnavailable("it broke here")


@dataclass(frozen=True)
class Decided:
    """One decision, as a token would have it."""

    issuer: int
    number: int
    allocation: int
    arm: int
    cohort: int
    issued_ms: int
    bucket: int


@dataclass
class Split:
    """One experiment with its store and writers; ``tell`` drives it."""

    partitions: int
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.now_ms = NOW
        self.store = Breaking(lambda: self.now_ms)
        made = create(spec(partitions=self.partitions, **self.changes), uid=7, salt=SALT, now_ms=NOW)
        self.store.commit(Commit(0, made.experiment, made.allocation))
        begun = start(made.experiment, made.allocation, NOW)
        self.store.commit(Commit(1, begun.experiment, begun.allocation))
        self.writer: Evidence | None = None
        self._commits: list[Commit] = []
        self._shipped: list[Shipment] = []
        self._sent: list[Append] = []

    @property
    def stored(self) -> Stored:
        """As the store has it."""
        found = self.store.load("answers")
        assert found is not None
        return found

    def move(self, shares_ppm: tuple[int, ...], centres: tuple[float, ...]) -> None:
        """Another allocation."""
        now = self.stored
        moved = reallocate(now.experiment, now.allocation, shares_ppm, centres, "evidence", self.now_ms)
        self._commits.append(Commit(now.generation, moved.experiment, moved.allocation))
        self.store.commit(self._commits[-1])

    def forget_commits(self) -> None:
        """The learner that knew them is gone."""
        self._commits.clear()

    def copied(self, partition: int) -> Kept:
        """All that one slot has now."""
        return self.store.copied(ledger_name("answers", partition))

    def go_back(self, partition: int, kept: Kept) -> None:
        """A slot stands where it was, and everybody does what they do then: commits, journals and rewards once more."""
        self.store.put_back(ledger_name("answers", partition), copy.deepcopy(kept))
        self.writer = None
        for commit in self._commits:
            if commit.expected_generation == self.stored.generation:
                self.store.commit(commit)
        for sent in self._shipped:
            self.store.ship([sent])
        self.store.append(self._sent)

    def serve(self, decided: list[Decided]) -> None:
        """Decisions of one issuer, in order."""
        issuer, first = decided[0].issuer, decided[0].number
        rows = b"".join(
            EXPOSURE.pack(each.allocation, each.cohort, each.arm, each.bucket) for each in decided
        )
        following = first + len(decided)
        sent = Shipment(
            self._ledger(issuer, first), 7, issuer, first, following, exposure_entry(issuer, 1, first, rows)
        )
        assert self.store.ship([sent]) == [following]
        self._shipped.append(sent)

    def reward(self, made: RewardRecord | Amendment) -> None:
        """One accepted reward."""
        record = made.reward if isinstance(made, Amendment) else made
        ledger = self._ledger(record.issuer, record.number)
        self._sent.append(Append(ledger, 7, made.kind, made.pack()))
        assert self.store.append(self._sent[-1:]) != [""]

    def turn(self, compact: bool = False) -> None:
        """Fold all that is there, in small portions; then old periods, when asked."""
        writer = self._opened()
        while found := self.store.read(writer.offsets, READ, 0):
            for ledger, entries in found.items():
                if not writer.knows(entries):
                    writer.sync(self.stored)
                writer.take(ledger, entries)
        writer.sync(self.stored)
        writer.flush()
        if compact:
            writer.compact(self.now_ms)

    def surely(self, compact: bool = False) -> None:
        """As :meth:`turn`, with a new writer where the store broke."""
        try:
            self.turn(compact)
        except StoreUnavailable:
            self.writer = None
            self.turn(compact)

    def _opened(self) -> Evidence:
        if self.writer is None:
            self.writer = open_writer(self.store, self.stored)
            self.writer.flush()
        return self.writer

    def _ledger(self, issuer: int, number: int) -> str:
        return ledger_name("answers", partition_of(issuer, number, self.partitions))


def same(one: Evidence, other: Evidence) -> None:
    """Both have the same periods with the same sums, facts, units, accumulators and counts."""
    ours, theirs = one.ledger_read, other.ledger_read
    assert (ours.epoch, ours.layout) == (theirs.epoch, theirs.layout)
    assert sorted(ours.periods) == sorted(theirs.periods)
    for number, period in ours.periods.items():
        for name, left, right in _fields(period, theirs.periods[number]):
            assert _equal(left, right), f"period {number}: {name} {left} {right}"
    assert one.counts == other.counts
    assert one.exposures_lost == other.exposures_lost
    assert _equal(one.folded().sums, other.folded().sums)
    assert _equal(one.folded().since, other.folded().since)


def same_sums(one: Evidence, other: Evidence) -> None:
    """Both have the same sums of everything; they may be cut into other periods, and have met other repeats."""
    ours, theirs = one.ledger_read.totals(), other.ledger_read.totals()
    for name in type(ours).__slots__:
        assert _equal(getattr(ours, name), getattr(theirs, name)), name


def _fields(period: Period, other: Period) -> Iterator[tuple[str, Any, Any]]:
    for name in Period.__slots__:
        left, right = getattr(period, name), getattr(other, name)
        if name == "cells":
            for part in type(left).__slots__:
                yield part, getattr(left, part), getattr(right, part)
        else:
            yield name, left, right


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return bool(np.array_equal(left, right))
    return bool(left == right)

"""An experiment in any number of partitions, fed the same events as another, for laws that compare the two."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bandit.errors import StoreUnavailable
from bandit.ids import ledger_name
from bandit.ledger import ONE, Period
from bandit.linear.weights import SHARE_BYTES, marks_of
from bandit.log import EXPOSURE, RETRACT, Append, exposure_entry, partition_of
from bandit.reward import Amendment, RewardRecord
from bandit.rollout.transitions import create, reallocate, start
from server.evidence import Evidence
from server.learner import Writer
from server.partitioned import Partitioned, open_writer
from server.store.base import Commit, FoldWrite, Shipment, Stored
from server.store.memory import MemoryStore
from server.store.memory_ledger import Kept
from tests.builders import NOW, SALT, spec

ISSUERS = (1, 2, 3, 8)
STICKY: dict[str, Any] = {
    "metrics": [
        {"name": "satisfied", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1m",
         "corrections": True},
        {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 2], "attribution_window": "1m"},
        {"name": "clicked", "kind": "bernoulli", "direction": "maximize", "attribution_window": "2m"},
    ],
    "objective": [{"metric": "satisfied"}],
    "cohorts": {"attribute": "plan", "values": ["pro"]},
    "guardrails": [
        {"name": "dear", "kind": "harm", "metric": "cost", "method": "asymptotic"},
        {"name": "clicks", "kind": "rate_limit", "metric": "clicked", "limit": 0.9},
    ],
    "rewards_without_token": True,
}  # fmt: skip
LINEAR: dict[str, Any] = STICKY | {
    "unit": {"kind": "request", "mode": "request"},
    "allocator": {"kind": "lin_ts"},
    "features": [{"name": "tokens", "kind": "numeric", "low": 0, "high": 10}],
    "baseline": "stationary",
    "rewards_without_token": False,
    "guardrails": [{"name": "clicks", "kind": "rate_limit", "metric": "clicked", "limit": 0.9}],
}
SATISFIED, COST, CLICKED = range(3)
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


class Both:
    """The experiment in one ledger and in several; each step is told to both."""

    def __init__(self, partitions: int, changes: dict[str, Any]) -> None:
        self.worlds = [Split(1, changes), Split(partitions, changes)]
        self.linear = "features" in changes
        self.decided: list[Decided] = []
        self.sent: list[RewardRecord | Amendment] = []
        self.following = dict.fromkeys(ISSUERS, 0)

    @property
    def single(self) -> Evidence:
        """What judges read of the one ledger."""
        found = self.worlds[0].writer
        assert found is not None
        return found

    @property
    def several(self) -> Evidence:
        """What judges read of all partitions."""
        found = self.worlds[1].writer
        assert found is not None
        return found

    @property
    def parts(self) -> tuple[Writer, ...]:
        """The writers of the partitions."""
        assert isinstance(self.several, Partitioned)
        return self.several.parts

    def breaks(self, left: int, *, after: bool) -> None:
        """After so many folds of the partitions one breaks."""
        self.worlds[1].store.left, self.worlds[1].store.after = left, after

    def tell(self, step: tuple[Any, ...]) -> None:
        """One step."""
        getattr(self, step[0])(*step[1:])

    def serve(self, issuer: int, count: int) -> None:
        """Decisions of one issuer under the newest allocation."""
        world = self.worlds[0]
        newest, first = world.stored.allocation.number, self.following[issuer]
        fresh = [
            Decided(
                issuer, number, newest, (number + issuer) % 3, number % 2, world.now_ms, 1 + number * 7 % 64
            )
            for number in range(first, first + count)
        ]
        self.following[issuer] += count
        self.decided += fresh
        for each in self.worlds:
            each.serve(fresh)

    def reward(self, which: int, metric: int, q: int) -> None:
        """A reward of some decision."""
        if self.decided:
            self._send(self._record(self.decided[which % len(self.decided)], metric, q))

    def amend(self, which: int, operation: int, order: int) -> None:
        """A correction or retraction of some decision's value."""
        if self.decided:
            q = 0 if operation == RETRACT else ONE
            self._send(
                Amendment(
                    self._record(self.decided[which % len(self.decided)], SATISFIED, q), order, 0, operation
                )
            )

    def foreign(self, number: int, metric: int, q: int) -> None:
        """A reward without a token, where they are taken."""
        if self.linear:
            return
        at = self.worlds[0].now_ms - number * 100
        self._send(
            RewardRecord(0, 1, number * 0x9E3779B97F4A7C15 % 2**64, at, 0, q, 0, number % 3, metric, 3)
        )

    def again(self, which: int) -> None:
        """Something that was sent before."""
        if self.sent:
            self._send(self.sent[which % len(self.sent)])

    def move(self, count: int) -> None:
        """Other shares, so many times, and a decision of each issuer under each."""
        for _ in range(count):
            for issuer in ISSUERS:
                self.serve(issuer, 1)
            for world in self.worlds:
                now = world.stored.allocation
                world.move((now.shares_ppm[1], now.shares_ppm[2], now.shares_ppm[0]), now.centres)
            self.wait(500)

    def wait(self, ms: int) -> None:
        """Time passes."""
        for world in self.worlds:
            world.now_ms += ms

    def turn(self) -> None:
        """All is folded, and then the same."""
        self._turn(compact=False)

    def old(self) -> None:
        """Old periods are folded too."""
        self._turn(compact=True)

    def go_on(self, *, compact: bool = False) -> None:
        """All is folded; sums alone are compared, for repeats were counted on one side."""
        for world in self.worlds:
            world.surely(compact)
        same_sums(self.single, self.several)

    def _turn(self, *, compact: bool) -> None:
        for world in self.worlds:
            world.surely(compact)
        same(self.single, self.several)

    def _record(self, of: Decided, metric: int, q: int) -> RewardRecord:
        features = bytes([of.number % 200]) if self.linear and metric == SATISFIED else b""
        if self.linear:  # drawn evenly, whatever the allocation says
            features += marks_of((333_333,) * 3) + (333_333).to_bytes(SHARE_BYTES, "little")
        place = (
            of.issuer,
            1,
            of.number,
            of.issued_ms,
            of.allocation,
            q,
            of.cohort,
            of.arm,
            metric,
            of.bucket,
        )
        return RewardRecord(*place, features=features)

    def _send(self, made: RewardRecord | Amendment) -> None:
        self.sent.append(made)
        for world in self.worlds:
            world.reward(made)

"""What tests of stores share: commits, leases, random but possible folds, and when two writer states are the same."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from bandit.ids import ledger_name, parse_ledger
from bandit.ledger import BUCKETS, COLUMNS, ONE, Cells, Layout, Ledger, Period
from bandit.rollout.audit import AuditRecord, chained
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import create
from bandit.seen import AMENDED, PAGE_SLOTS, BucketKey, Page, PageKey, Seen, ValuePage
from server.store.base import Commit, FoldWrite, RewardCounts, Store, Stored, WriterState
from tests.builders import NOW, SALT, spec

LAYOUT = Layout(2, 3, 3, 2, 128)
_names = itertools.count(1)


def new_name() -> str:
    """A name no other test of this run uses."""
    return f"release-{next(_names)}"


def fresh(name: str, uid: int = 7, **changes: Any) -> tuple[Experiment, Allocation]:
    """A new experiment and its first allocation."""
    made = create(spec(experiment=name, **changes), uid=uid, salt=SALT, now_ms=NOW)
    return made.experiment, made.allocation


def put(store: Store, name: str, uid: int = 7, **changes: Any) -> Stored:
    """Create an experiment in the store and read it back."""
    experiment, allocation = fresh(name, uid, **changes)
    store.commit(Commit(0, experiment, allocation))
    return stored(store, name)


PARTITION = 0
"""Which ledger of an experiment :func:`put_ledger` gives; tests of ledgers set it, for all must do alike."""


def put_ledger(store: Store, ledger: str = "", uid: int = 7) -> str:
    """Create an experiment, anew where its ledger is named; name of its ledger."""
    name, partition = parse_ledger(ledger) if ledger else (new_name(), PARTITION)
    put(store, name, uid, partitions=partition + 1)
    return ledger_name(name, partition)


def delete_ledger(store: Store, ledger: str) -> None:
    """Delete the experiment of a ledger."""
    store.delete(parse_ledger(ledger)[0], 1)


def stored(store: Store, name: str) -> Stored:
    """The experiment, which must be there."""
    found = store.load(name)
    assert found is not None
    return found


def following(now: Stored, **changes: Any) -> Commit:
    """A commit that continues what is stored, with the next revision."""
    after = replace(now.experiment, revision=now.experiment.revision + 1)
    return replace(Commit(now.generation, after, now.allocation), **changes)


def next_allocation(allocation: Allocation, cause: str = "evidence") -> Allocation:
    """The same shares under the next number."""
    return replace(allocation, number=allocation.number + 1, cause=cause)


def record(now: Stored, action: str = "paused") -> AuditRecord:
    """The audit record that continues what is stored."""
    plain = AuditRecord(
        sequence=now.audit_sequence + 1,
        time_ms=NOW,
        actor="operator/anna",
        action=action,
        reason="a reason, with 'quotes' and ünïcode",
        state_before="running",
        state_after="paused",
        shares_before_ppm=(1_000_000, 0, 0),
        shares_after_ppm=(0, 500_000, 500_000),
        epoch=1,
        allocation=now.allocation.number,
        verdict={"log_e": 7.25, "n": 12, "message": "too many"},
    )
    return chained(plain, now.audit_hash)


def possible_cells(random: np.random.Generator, layout: Layout = LAYOUT, most: int = 20) -> Cells:
    """Cells that real rewards could have led to."""
    cells = Cells.zeros(layout)
    g, k, m, *_ = layout
    cells.exposures[:] = random.integers(0, 1 << 40, (g, k))
    n = random.integers(0, most, (g, k, m))
    for at in np.ndindex(g, k, m):
        values = [int(q) for q in random.integers(0, ONE + 1, n[at])]
        squares = [q * q for q in values]
        cells.sums[at] = (
            len(values),
            sum(values),
            sum(square >> 30 for square in squares),
            sum(square & (ONE - 1) for square in squares),
        )
    assert cells.sums.shape[-1] == COLUMNS
    if cells.clusters is not None:
        cells.clusters[..., 0] = random.integers(1, 9, cells.clusters.shape[:-1])
        cells.clusters[..., 1] = random.integers(0, ONE + 1, cells.clusters.shape[:-1])
    if cells.visits is not None:
        cells.visits[:] = random.integers(0, 1 << 40, cells.visits.shape)
    return cells


def period(number: int, random: np.random.Generator, *, epoch: int = 1, layout: Layout = LAYOUT) -> Period:
    """A period, or a block, with random cells."""
    g, k, c, m, _ = layout
    first = int(random.integers(0, 1_000_001))
    start_ms = NOW + int(random.integers(0, 1000))
    return Period(
        number=number,
        last=number + int(random.integers(0, 3)),
        epoch=epoch,
        start_ms=start_ms,
        end_ms=int(random.choice([0, start_ms + 5000])),
        shares_ppm=(first, 1_000_000 - first, *([0] * (k - 2))),
        centres=tuple(random.random(m or c).tolist()),
        cells=possible_cells(random, layout),
        facts=random.normal(size=(g, 4)) if random.random() < 0.5 else None,
        units=random.normal(size=(k - 1, m, BUCKETS, 2)) if m and random.random() < 0.5 else None,
        apart_ppm={g - 1: (0, *([0] * (k - 2)), 1_000_000)} if random.random() < 0.5 else {},
    )


def page(random: np.random.Generator) -> Page:
    """A page of random marks."""
    return Page(
        NOW + int(random.integers(0, 1000)), random.integers(0, 1 << 16, PAGE_SLOTS).astype(np.uint16)
    )


def value_page(random: np.random.Generator) -> ValuePage:
    """A page of random values, with all or few of its parts."""
    found = ValuePage(
        NOW + int(random.integers(0, 1000)), random.integers(0, ONE + 2, PAGE_SLOTS).astype(np.uint32)
    )
    if random.random() < 0.7:
        found.amended = np.zeros(PAGE_SLOTS, AMENDED)
        found.amended["op"] = random.integers(0, 4, PAGE_SLOTS)
        found.amended["q"] = random.integers(0, ONE + 1, PAGE_SLOTS)
        found.amended["order"] = random.integers(0, 1 << 64, PAGE_SLOTS, dtype=np.uint64)
    if random.random() < 0.7:
        found.parts = random.integers(-1, 14, PAGE_SLOTS).astype(np.int8)
    for slot in random.integers(0, PAGE_SLOTS, int(random.integers(0, 4))).tolist():
        ids = random.integers(0, 1 << 64, 3, dtype=np.uint64).tolist()
        found.events[slot] = {event: int(random.integers(0, ONE + 1)) for event in ids}
    return found


class Writing:
    """A model of one writer: draws folds that follow one another, and knows the state that each leads to."""

    def __init__(self, uid: int, seed: int) -> None:
        self.uid = uid
        self.random = np.random.default_rng(seed)
        self.state = WriterState(0, "0-0", Ledger(1, LAYOUT), Seen(), RewardCounts())

    def some(self, what: Any, most: int = 3) -> list[Any]:
        """A few of the things."""
        things = sorted(what)
        count = int(self.random.integers(0, min(most, len(things)) + 1))
        return [things[int(at)] for at in self.random.permutation(len(things))[:count]]

    def draw(self) -> FoldWrite:
        """The next fold; :meth:`took` says that the store has it."""
        random, state = self.random, self.state
        wide = 1 << 32
        epoch = state.ledger.epoch + int(random.random() < 0.2)
        layout = (
            state.ledger.layout if epoch == state.ledger.epoch else Layout(1, int(random.integers(2, 5)), 1)
        )
        numbers = {int(number) for number in random.integers(1, 12, 3)}
        pages = {
            PageKey(
                int(random.integers(1, wide)),
                epoch,
                int(random.integers(0, 3)),
                int(random.integers(0, 1 << 50)),
            )
            for _ in range(int(random.integers(0, 4)))
        } | set(self.some(state.seen.pages))
        values = set(self.some(state.seen.values)) | {
            PageKey(int(random.integers(1, wide)), epoch, 3, int(random.integers(0, 1 << 50)))
            for _ in range(int(random.integers(0, 3)))
        }
        buckets = {
            BucketKey(int(random.integers(0, 600_000)), epoch, int(random.integers(0, 3)))
            for _ in range(int(random.integers(0, 3)))
        } | set(self.some(state.seen.foreign))
        again = {bucket for bucket in state.seen.foreign if bucket not in buckets and random.random() < 0.3}
        drop_periods = [number for number in self.some(state.ledger.periods) if number not in numbers]
        return FoldWrite(
            uid=self.uid,
            expected_sequence=state.sequence,
            offset=f"{NOW + int(random.integers(0, 1000))}-{int(random.integers(0, 9))}",
            epoch=epoch,
            layout=layout,
            counts=self._counts(int(random.integers(0, 4))),
            exposures_lost=int(random.integers(0, 1 << 60)),
            set_periods={number: period(number, random, epoch=epoch, layout=layout) for number in numbers},
            drop_periods=drop_periods,
            set_pages={key: page(random) for key in pages} | {key: value_page(random) for key in values},
            drop_pages=[
                key
                for key in self.some(state.seen.pages) + self.some(state.seen.values)
                if key not in pages | values
            ],
            add_foreign={key: self._new_ids(key) for key in buckets},
            replace_foreign={bucket: {5: 6} | self._new_ids(bucket) for bucket in again},
            drop_foreign=[key for key in self.some(state.seen.foreign) if key not in buckets | again],
            exposed={int(issuer): int(random.integers(0, 1 << 60)) for issuer in random.integers(1, wide, 2)},
            folded=self._folded() if random.random() < 0.5 else None,
            removals=int(random.integers(0, 3)),
        )

    def took(self, write: FoldWrite) -> None:
        """Change the model as the store must have changed."""
        state = self.state
        state.sequence += 1
        state.offset, state.counts, state.exposures_lost = write.offset, write.counts, write.exposures_lost
        state.removals = write.removals
        state.ledger.epoch, state.ledger.layout = write.epoch, write.layout
        state.ledger.periods.update(write.set_periods)
        for key, given in write.set_pages.items():
            if isinstance(given, ValuePage):
                state.seen.values[key] = given
            else:
                state.seen.pages[key] = given
        state.seen.exposed.update(write.exposed)
        state.seen.foreign.update({bucket: dict(ids) for bucket, ids in write.replace_foreign.items()})
        for bucket, ids in write.add_foreign.items():
            if ids:
                state.seen.foreign.setdefault(bucket, {}).update(ids)
        for number in write.drop_periods:
            del state.ledger.periods[number]
        for key in write.drop_pages:
            del (state.seen.pages if key in state.seen.pages else state.seen.values)[key]
        for bucket in write.drop_foreign:
            del state.seen.foreign[bucket]
        if write.folded is not None:
            state.folded = write.folded

    def _counts(self, sources: int) -> RewardCounts:
        counts = RewardCounts(*(int(count) for count in self.random.integers(0, 1 << 60, 6)))
        counts.sources = {f"source-{number}": self._counts(0) for number in range(sources)}
        return counts

    def _new_ids(self, key: BucketKey) -> dict[int, int]:
        known = self.state.seen.foreign.get(key, {})
        ids = self.random.integers(0, 1 << 64, int(self.random.integers(0, 5)), dtype=np.uint64)
        return {int(each): int(self.random.integers(1, 1 << 16)) for each in ids if int(each) not in known}

    def _folded(self) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.int64]]]:
        shape = tuple(int(size) for size in self.random.integers(0, 4, 3))
        return self.random.normal(size=shape), self.random.integers(0, 9, 3)


def simple_write(uid: int, expected_sequence: int, **changes: Any) -> FoldWrite:
    """A fold of nothing but an offset."""
    write = FoldWrite(uid, expected_sequence, f"{NOW}-0", 1, LAYOUT, RewardCounts(), 0)
    return replace(write, **changes)


def same(a: WriterState | None, b: WriterState | None) -> bool:
    """Are two writer states the same, bit for bit?"""
    if a is None or b is None:
        return a is b
    return (
        (a.sequence, a.offset, a.counts, a.exposures_lost, a.removals)
        == (b.sequence, b.offset, b.counts, b.exposures_lost, b.removals)
        and (a.ledger.epoch, a.ledger.layout) == (b.ledger.epoch, b.ledger.layout)
        and a.ledger.periods.keys() == b.ledger.periods.keys()
        and all(same_period(a.ledger.periods[n], b.ledger.periods[n]) for n in a.ledger.periods)
        and a.seen.pages.keys() == b.seen.pages.keys()
        and all(same_page(a.seen.pages[key], b.seen.pages[key]) for key in a.seen.pages)
        and a.seen.values.keys() == b.seen.values.keys()
        and all(same_values(a.seen.values[key], b.seen.values[key]) for key in a.seen.values)
        and (a.seen.foreign, a.seen.exposed) == (b.seen.foreign, b.seen.exposed)
        and (a.folded is None) == (b.folded is None)
        and all(same_array(x, y) for x, y in zip(a.folded or (), b.folded or (), strict=True))
    )


def same_array(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


def same_page(a: Page, b: Page) -> bool:
    return a.newest_ms == b.newest_ms and same_array(a.marks, b.marks)


def same_values(a: ValuePage, b: ValuePage) -> bool:
    return (
        (a.newest_ms, a.events) == (b.newest_ms, b.events)
        and same_array(a.base, b.base)
        and same_or_none(a.amended, b.amended)
        and same_or_none(a.parts, b.parts)
    )


def same_or_none(a: Any, b: Any) -> bool:
    return a is b is None or (a is not None and b is not None and same_array(a, b))


def same_period(a: Period, b: Period) -> bool:
    plain = [
        (
            *(each.number, each.last, each.epoch, each.start_ms, each.end_ms),
            *(each.shares_ppm, each.centres, each.apart_ppm),
        )
        for each in (a, b)
    ]
    return (
        plain[0] == plain[1]
        and same_array(a.cells.exposures, b.cells.exposures)
        and same_array(a.cells.sums, b.cells.sums)
        and same_or_none(a.cells.clusters, b.cells.clusters)
        and same_or_none(a.cells.visits, b.cells.visits)
        and same_or_none(a.units, b.units)
        and same_or_none(a.facts, b.facts)
    )

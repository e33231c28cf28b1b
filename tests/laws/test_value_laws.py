"""Remembered values: sums, channels, buckets and pages equal an integer oracle exactly, in any order and split,
with every message twice and with crashes in between."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.counting import tables_of
from bandit.learn import fold, open_periods
from bandit.ledger import BUCKETS, ONE, Ledger, quantise
from bandit.log import AMENDMENTS, CORRECT, REPORT, RETRACT, REWARDS, LogEntry
from bandit.reward import Amendment, RewardRecord
from bandit.rollout.state import Allocation
from bandit.rollout.transitions import reallocate
from bandit.seen import PageKey, Seen
from bandit.spec.channels import ChannelKind, channels_of
from server.store.packed import pack_page, page_field, unpack_page
from server.store.packed_periods import pack_period, unpack_period
from server.store.packed_values import pack_values, unpack_values
from tests.builders import NOW, running
from tests.oracles.value_oracle import Told, ValueOracle

METRICS: list[dict[str, Any]] = [
    {"name": "clicked", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h",
     "default_when_silent": 0, "corrections": True},
    {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [-1, 3], "aggregate": "last"},
    {"name": "spend", "kind": "revenue", "direction": "maximize", "range": [0, 100], "aggregate": "sum"},
    {"name": "stars", "kind": "rating", "direction": "maximize", "levels": [1, 2, 3, 4, 5], "aggregate": "max"},
    {"name": "latency", "kind": "gaussian", "direction": "minimize", "range": [0, 10]},
    {"name": "size", "kind": "lognormal", "direction": "minimize", "range": [0, 1000]},
    {"name": "answered", "kind": "bernoulli", "direction": "maximize", "default_when_silent": 0},
    {"name": "price", "kind": "ratio", "direction": "minimize", "range": [0, 50], "numerator": "cost",
     "denominator": "stars"},
    {"name": "profit", "kind": "gaussian", "direction": "maximize", "range": [-1, 3], "aggregate": "sum"},
]  # fmt: skip
CLICKED, COST, SPEND, STARS, LATENCY, SIZE, ANSWERED, PRICE, PROFIT = range(9)
GUARDRAILS = [
    {"name": "slow", "kind": "quantile_limit", "metric": "latency", "quantile": 0.9, "limit": 4.0},
    {"name": "dear", "kind": "harm", "metric": "cost", "method": "asymptotic"},
]
SPEC: dict[str, Any] = {
    "metrics": METRICS,
    "objective": [{"metric": "clicked"}, {"metric": "cost"}, {"metric": "spend"}],
    "guardrails": GUARDRAILS,
}
EXPERIMENT, FIRST = running(**SPEC)
TABLES = tables_of(EXPERIMENT.spec)
COUNTED = [CLICKED, COST, SPEND, STARS, LATENCY, SIZE, ANSWERED, PROFIT]
LEVELS = [quantise(level, 1, 5) for level in (1, 2, 3, 4, 5)]


def allocations() -> list[Allocation]:
    out = [FIRST]
    for step in range(1, 3):
        moved = reallocate(EXPERIMENT, out[-1], FIRST.shares_ppm, FIRST.centres, "e", NOW + step * 10_000)
        out.append(moved.allocation)
    return out


ALLOCATIONS = allocations()


class World:
    """A ledger with what was seen, folded into and checked."""

    def __init__(self) -> None:
        self.ledger = Ledger(1, TABLES.layout)
        open_periods(self.ledger, ALLOCATIONS, EXPERIMENT)
        self.seen = Seen()

    def fold(self, entries: Sequence[LogEntry]) -> list[int]:
        """Outcome of each reward."""
        folding = fold(entries, EXPERIMENT, self.ledger, self.seen)
        return [code for entry in entries for code in folding.replies[entry.reply]]

    def stored(self) -> tuple[list[bytes], list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
        """Everything as the store keeps it."""
        return (
            [pack_period(period) for _, period in sorted(self.ledger.periods.items())],
            sorted((page_field(key), pack_page(key, page)) for key, page in self.seen.pages.items()),
            sorted((page_field(key), pack_values(key, page)) for key, page in self.seen.values.items()),
        )

    def restart(self, kept: tuple[list[bytes], list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]) -> None:
        """Forget all but what was stored."""
        periods, pages, values = kept
        numbers = sorted(self.ledger.periods)
        self.ledger.periods = {
            number: unpack_period("k", b"%d" % number, raw)
            for number, raw in zip(numbers, periods, strict=True)
        }
        self.seen = Seen(
            pages=dict(unpack_page("k", *each) for each in pages),
            values=dict(unpack_values("k", *each) for each in values),
        )


def place_of(decision: tuple[int, int]) -> tuple[int, int, int, int]:
    """Allocation, cohort, arm, bucket."""
    issuer, number = decision
    return ALLOCATIONS[number % 3].number, 0, (number + issuer) % 3, (number * 7 + issuer) % BUCKETS


def entry(told: Told, at: int) -> LogEntry:
    """A log entry of one message; its decision was issued at NOW + 5000."""
    allocation, cohort, arm, bucket = place_of(told.decision)
    record = RewardRecord(
        *(told.decision[0], 1, told.decision[1], NOW + 5000),
        *(allocation, told.q, cohort, arm, told.metric, 1 + bucket),
    )
    ms, reply = NOW + 5000 + told.delay_ms, b"%d" % at
    if told.op == REPORT and told.order == 0 and told.event == 0:
        return LogEntry(f"{ms}-{at}", REWARDS, record.pack(), reply)
    amendment = Amendment(record, told.order, told.event, told.op)
    return LogEntry(f"{ms}-{at}", AMENDMENTS, amendment.pack(), reply)


def equal(world: World, oracle: ValueOracle) -> None:
    """Every sum and bucket of the ledger is the oracle's, and there is nothing else."""
    sums, clusters = oracle.sums(), oracle.clusters()
    for number, period in world.ledger.periods.items():
        wanted = np.zeros_like(period.cells.sums)
        for (allocation, cohort, arm, column), cell in sums.items():
            if allocation == number:
                wanted[cohort, arm, column] = cell
        assert (period.cells.sums == wanted).all(), np.argwhere(period.cells.sums != wanted)
        assert period.cells.clusters is not None
        buckets = np.zeros_like(period.cells.clusters)
        for (allocation, arm, metric, bucket), pair in clusters.items():
            if allocation == number:
                buckets[arm, metric, bucket] = pair
        assert (period.cells.clusters == buckets).all()


DECISIONS = [(1, 0), (1, 1), (1, 256), (2, 0), (2, 70_000)]
seeds = st.integers(0, 1 << 32)


def messages(chance: random.Random, *, one_report: bool = False) -> list[Told]:
    """What is told of a few decisions; with ``one_report`` reports of first-per-decision metrics all say the same."""
    return [one_message(chance, one_report=one_report) for _ in range(chance.randint(1, 70))]


def one_message(chance: random.Random, *, one_report: bool) -> Told:
    metric = chance.choice(COUNTED)
    amends = metric in EXPERIMENT.spec.remembered and chance.random() < 0.4
    op = chance.choice([CORRECT, RETRACT]) if amends else REPORT
    order = chance.randint(0, 3) if amends or metric == COST else 0
    q = chance.choice([0, 1, 77, ONE // 3, ONE // 2 + 1, ONE])
    if metric in (CLICKED, ANSWERED):
        q = chance.choice([0, ONE])
    if metric == STARS:
        q = chance.choice(LEVELS)
    if one_report and op == REPORT and metric in (CLICKED, LATENCY, SIZE, ANSWERED):
        q = ONE if metric in (CLICKED, ANSWERED) else 12345
    event = 0
    if op == REPORT and metric in (SPEND, PROFIT):
        event, q = chance.choice([(5, ONE // 2), (6, 1), ((1 << 64) - 1, ONE // 2 + 7)])
    delay = 1000 if one_report else chance.choice([0, 1, 800, 60_000, 3_600_000, 3_700_000])
    return Told(chance.choice(DECISIONS), metric, op, 0 if op == RETRACT else q, order, event, delay)


def oracle_of(told: Sequence[Told]) -> ValueOracle:
    oracle = ValueOracle(EXPERIMENT.spec, {m: tuple(row) for m, row in enumerate(TABLES.logs.tolist())})
    for each in told:
        oracle.tell(each, place_of(each.decision))
    return oracle


def test_the_spec_has_channels_of_every_kind() -> None:
    assert {channel.kind for channel in channels_of(EXPERIMENT.spec)} == set(ChannelKind)
    assert EXPERIMENT.spec.remembered == {CLICKED, COST, SPEND, STARS, PROFIT}


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 30))
def test_sums_equal_the_oracle(seed: int, cut: int) -> None:
    told = messages(random.Random(seed))
    world = World()
    entries = [entry(each, at) for at, each in enumerate(told)]
    for start in range(0, len(entries), cut):
        world.fold(entries[start : start + cut])
    equal(world, oracle_of(told))


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 20))
def test_any_order_any_split_every_message_twice(seed: int, cut: int) -> None:
    chance = random.Random(seed)
    told = messages(chance, one_report=True)
    once, shuffled = World(), World()
    once.fold([entry(each, at) for at, each in enumerate(told)])
    twice = [*told, *told]
    chance.shuffle(twice)
    entries = [entry(each, at) for at, each in enumerate(twice)]
    for start in range(0, len(entries), cut):
        shuffled.fold(entries[start : start + cut])
    equal(once, oracle_of(told))
    assert shuffled.stored() == once.stored()


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 10))
def test_a_crash_between_folds_changes_nothing(seed: int, cut: int) -> None:
    """What was stored is all that is left; a fold that was not stored is folded again."""
    chance = random.Random(seed)
    told = messages(chance)
    calm, stormy = World(), World()
    entries = [entry(each, at) for at, each in enumerate(told)]
    for start in range(0, len(entries), cut):
        batch = entries[start : start + cut]
        outcomes = calm.fold(batch)
        kept = stormy.stored()
        while chance.random() < 0.5:
            stormy.fold(batch)
            stormy.restart(kept)
        assert stormy.fold(batch) == outcomes
        if chance.random() < 0.5:
            stormy.restart(stormy.stored())
    assert stormy.stored() == calm.stored()


def test_a_retraction_leaves_nothing_behind() -> None:
    """Sums of a decision whose values were all taken back are those of no decision at all."""
    world, empty = World(), World()
    decision = (1, 9)
    told = [
        Told(decision, CLICKED, REPORT, ONE, 0, 0, 10),
        Told(decision, COST, REPORT, 12345, 7, 0, 10),
        Told(decision, SPEND, REPORT, 777, 0, 5, 10),
        Told(decision, STARS, REPORT, LEVELS[3], 0, 0, 10),
    ]
    world.fold([entry(each, at) for at, each in enumerate(told)])
    assert world.stored()[0] != empty.stored()[0]
    world.fold(
        [entry(each._replace(op=RETRACT, q=0, order=50, event=0), at) for at, each in enumerate(told, 10)]
    )
    assert world.stored()[0] == empty.stored()[0]


@pytest.mark.parametrize("shift", [1, 255])
def test_decisions_do_not_meet(shift: int) -> None:
    """A pair joins values of one decision, never of neighbours in a page or of equal places in two pages."""
    world = World()
    told = [Told((1, 0), CLICKED, REPORT, ONE, 0, 0, 10), Told((1, shift + 1), COST, REPORT, ONE, 3, 0, 10)]
    told.append(Told((2, 0), SPEND, REPORT, ONE, 0, 5, 10))
    world.fold([entry(each, at) for at, each in enumerate(told)])
    equal(world, oracle_of(told))
    pairs = [c for c, channel in enumerate(channels_of(EXPERIMENT.spec)) if channel.kind is ChannelKind.PAIR]
    assert all(not period.cells.sums[:, :, pairs].any() for period in world.ledger.periods.values())
    assert PageKey(1, 1, CLICKED, 0) in world.seen.values

"""Folding: the ledger equals an integer oracle exactly, whatever the order, the split, the repeats or the replay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.compact import plan
from bandit.counting import layout_of
from bandit.learn import fold, newest_allocation, open_periods
from bandit.ledger import ONE, S1, S2_HIGH, S2_LOW, Ledger, N, fold_block, quantise, table
from bandit.log import (
    AMENDMENTS,
    CORRECT,
    EXPOSURE,
    EXPOSURES,
    OUTCOME_APPLIED,
    OUTCOME_CONFLICT,
    OUTCOME_DUPLICATE,
    OUTCOME_LATE,
    OUTCOME_REJECTED,
    REWARDS,
    LogEntry,
    exposure_entry,
)
from bandit.reading import read
from bandit.reward import Amendment, RewardRecord
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import reallocate
from bandit.seen import Seen, fingerprint, fingerprints
from tests.builders import NOW, running
from tests.oracles.ledger_oracle import Oracle

CODES = {"applied": OUTCOME_APPLIED, "duplicate": OUTCOME_DUPLICATE, "conflict": OUTCOME_CONFLICT}


def world(allocations: int = 3, **changes: Any) -> tuple[Experiment, list[Allocation], Ledger]:
    experiment, allocation = running(**changes)
    out = [allocation]
    for step in range(1, allocations):
        out.append(
            reallocate(
                experiment, out[-1], allocation.shares_ppm, (0.5, 0.5), "e", NOW + step * 10_000
            ).allocation
        )
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, out, experiment)
    return experiment, out, ledger


def entry(ms: int, kind: bytes, payload: bytes, reply: bytes = b"") -> LogEntry:
    return LogEntry(f"{ms}-0", kind, payload, reply)


def sums_match(ledger: Ledger, oracle: Oracle) -> None:
    seen = set()
    for (allocation, cohort, arm, metric), (n, s1, s2) in oracle.cells.items():
        cell = ledger.periods[allocation].cells.sums[cohort, arm, metric]
        assert (int(cell[N]), int(cell[S1]), int(cell[S2_HIGH]) * 2**30 + int(cell[S2_LOW])) == (n, s1, s2)
        seen.add((allocation, cohort, arm, metric))
    total = sum(int(period.cells.sums[..., :2, N].sum()) for period in ledger.periods.values())
    assert total == sum(cell[0] for cell in oracle.cells.values())
    for (allocation, cohort, arm), n in oracle.exposures.items():
        assert int(ledger.periods[allocation].cells.exposures[cohort, arm]) == n
    assert sum(int(p.cells.exposures.sum()) for p in ledger.periods.values()) == sum(
        oracle.exposures.values()
    )


# Few decisions in half of the cases, so that repeats meet in one fold and in others.
decision = st.tuples(st.integers(1, 3), st.integers(0, 3) | st.integers(0, 700))
event = st.tuples(decision, st.integers(0, 1), st.sampled_from([0, 1, 77, ONE // 3, ONE]))


@pytest.mark.parametrize("joined", [True, False], ids=["values remembered", "marks alone"])
@settings(max_examples=100)
@given(events=st.lists(event, max_size=120), chance=st.randoms(use_true_random=False), cut=st.integers(1, 40))
def test_rewards_equal_the_oracle(
    joined: bool, events: list[tuple[tuple[int, int], int, int]], chance: random.Random, cut: int
) -> None:
    """Terms of one objective are remembered per decision; of other metrics a bit says what was counted."""
    changes: dict[str, Any] = {} if joined else {"objective": [{"metric": "satisfied"}]}
    experiment, allocations, ledger = world(**changes)
    assert bool(experiment.spec.remembered) == joined
    oracle, seen = Oracle(), Seen()
    places: dict[tuple[int, int], tuple[int, int, int]] = {}
    records = []
    for (issuer, number), metric, q in events:
        place = places.setdefault((issuer, number), (allocations[number % 3].number, 0, number % 3))
        records.append(RewardRecord(issuer, 1, number, NOW, place[0], q, place[1], place[2], metric))
    for start in range(0, len(records), cut):
        batch = records[start : start + cut]
        wanted = [
            CODES[oracle.reward(r.issuer, r.number, r.metric, (r.allocation, r.cohort, r.arm), r.q)]
            for r in batch
        ]
        reply = b"who" if chance.random() < 0.5 else b""
        folding = fold(
            [entry(NOW + start, REWARDS, b"".join(r.pack() for r in batch), reply)], experiment, ledger, seen
        )
        assert folding.outcomes.sum() == len(batch)
        if reply:
            assert list(folding.replies[b"who"]) == wanted
    sums_match(ledger, oracle)


@settings(max_examples=60)
@given(st.integers(1, 60), st.randoms(use_true_random=False))
def test_exposures_count_once_however_they_are_sent_again(count: int, chance: random.Random) -> None:
    """The shipper may send any prefix again, cut anywhere, as long as each issuer's numbers come in order."""
    experiment, allocations, ledger = world()
    oracle, seen = Oracle(), Seen()
    rows = [(allocations[n % 3].number, 0, n % 3) for n in range(count)]
    for number, place in enumerate(rows):
        oracle.exposure(4, number, place)
    sent = 0
    while sent < count:
        first = chance.randint(0, sent)
        last = chance.randint(sent + 1, count)
        payload = exposure_entry(4, 1, first, b"".join(EXPOSURE.pack(*row, 0) for row in rows[first:last]))
        folding = fold([entry(NOW, EXPOSURES, payload)], experiment, ledger, seen)
        assert folding.exposures == last - sent
        assert folding.exposures_lost == 0
        sent = last
    sums_match(ledger, oracle)


def test_exposures_that_come_again_after_newer_ones_move_nothing_back() -> None:
    """A server that died in between sends what it sent before, and then again what came after it."""
    experiment, allocations, ledger = world()
    row, seen = EXPOSURE.pack(allocations[0].number, 0, 1, 0), Seen()
    first, second = (exposure_entry(4, 1, start, row * 5) for start in (0, 5))
    counted = [
        fold([entry(NOW, EXPOSURES, payload)], experiment, ledger, seen).exposures
        for payload in (first, second, first, second, first)
    ]
    assert counted == [5, 5, 0, 0, 0]
    assert seen.exposed == {4: 10}


@pytest.mark.parametrize(("cohort", "arm"), [(1, 1), (2, 1), (255, 1), (0, 3), (0, 255)])
def test_exposures_of_no_known_cohort_are_of_the_others_and_of_no_known_arm_lost(
    cohort: int, arm: int
) -> None:
    """This experiment has one cohort and three arms; nothing is counted for a neighbour in the array."""
    experiment, allocations, ledger = world()
    payload = exposure_entry(4, 1, 0, EXPOSURE.pack(allocations[0].number, cohort, arm, 0))
    folding = fold([entry(NOW, EXPOSURES, payload)], experiment, ledger, Seen())
    assert (folding.exposures, folding.exposures_lost) == ((1, 0) if arm < 3 else (0, 1))
    cells = ledger.periods[allocations[0].number].cells
    assert cells.exposures.tolist() == [[0, 1 if arm < 3 else 0, 0]]


def test_a_gap_in_exposures_is_counted_as_lost() -> None:
    experiment, allocations, ledger = world()
    payload = exposure_entry(4, 1, 10, EXPOSURE.pack(allocations[0].number, 0, 1, 0))
    folding = fold([entry(NOW, EXPOSURES, payload)], experiment, ledger, Seen())
    assert (folding.exposures, folding.exposures_lost) == (1, 10)


def shuffled_bits(order: Sequence[int], split: int, **changes: Any) -> bytes:
    experiment, allocations, ledger = world(**changes)
    seen = Seen()
    records = [
        RewardRecord(1, 1, n, NOW, allocations[n % 3].number, (n * 7919) % ONE, 0, n % 3, n % 2)
        for n in range(2000)
    ]
    for start in range(0, len(order), split):
        payload = b"".join(records[i].pack() for i in order[start : start + split])
        fold([entry(NOW + 1, REWARDS, payload)], experiment, ledger, seen)
    return b"".join(p.cells.sums.tobytes() for _, p in sorted(ledger.periods.items()))


@pytest.mark.parametrize(
    "changes", [{}, {"objective": [{"metric": "satisfied"}]}], ids=["remembered", "marks"]
)
def test_any_order_any_split_gives_the_same_bits(changes: dict[str, Any]) -> None:
    chance = random.Random(3)
    order = list(range(2000))
    expected = shuffled_bits(order, 2000, **changes)
    for split in (1999, 333, 64):
        chance.shuffle(order)
        repeated = order + chance.sample(order, 500)
        assert shuffled_bits(repeated, split, **changes) == expected


def test_a_count_goes_on_beyond_what_a_float_of_32_bits_can_hold() -> None:
    experiment, allocations, ledger = world()
    many, period = 1 << 24, ledger.periods[allocations[0].number]
    period.cells.sums[0, 1, 0] = (many, many * ONE, many * ONE, 0)
    records = [RewardRecord(1, 1, n, NOW, allocations[0].number, ONE, 0, 1, 0).pack() for n in range(1001)]
    fold([entry(NOW + 1, REWARDS, b"".join(records))], experiment, ledger, Seen())
    assert int(period.cells.sums[0, 1, 0, N]) == 16_778_217
    rows = table(ledger.current(), ledger.layout)
    assert read(rows, experiment.spec, NOW + 1).s1[1, 0] == 16_778_217.0


def test_poison_is_counted_and_passed_over() -> None:
    experiment, allocations, ledger = world()
    good = RewardRecord(1, 1, 1, NOW, allocations[0].number, 5, 0, 1, 0)
    cases = [
        (b"r", b"", OUTCOME_REJECTED),
        (b"r", b"short", OUTCOME_REJECTED),
        (b"?", b"x" * 40, OUTCOME_REJECTED),
        (b"x", b"x", OUTCOME_REJECTED),
        (b"r", good._replace(arm=9).pack(), OUTCOME_REJECTED),
        (b"r", good._replace(metric=9).pack(), OUTCOME_REJECTED),
        (b"r", good._replace(q=ONE + 1).pack(), OUTCOME_REJECTED),
        (b"r", good._replace(epoch=8).pack(), OUTCOME_REJECTED),
        (b"r", good._replace(allocation=10_000).pack(), OUTCOME_REJECTED),
        (b"r", good._replace(issued_ms=NOW - 4_300_000).pack(), OUTCOME_LATE),
        (b"r", good.pack(), OUTCOME_APPLIED),
    ]
    entries = [entry(NOW + i, kind, payload, str(i).encode()) for i, (kind, payload, _) in enumerate(cases)]
    folding = fold(entries, experiment, ledger, Seen())
    for index, (_, payload, outcome) in enumerate(cases):
        if payload[:1] != b"x" and len(payload) != 1:
            assert set(folding.replies[str(index).encode()]) == {outcome}
    assert folding.outcomes[OUTCOME_APPLIED] == 1
    assert folding.outcomes[OUTCOME_LATE] == 1
    assert folding.outcomes[OUTCOME_REJECTED] == 9


def test_what_was_accepted_for_another_experiment_of_the_name_is_counted_nowhere() -> None:
    """It was deleted and made again before the entry came: uids tell, for allocations begin at 1 again."""
    experiment, allocations, ledger = world()
    first = RewardRecord(1, 1, 1, NOW, allocations[0].number, ONE, 0, 1, 0)
    amended = Amendment(first._replace(number=2), 1, 9, CORRECT)
    uid, seen = experiment.uid, Seen()
    sent = [
        entry(NOW + 1, REWARDS, first.pack() * 3, b"a")._replace(uid=uid + 1),
        entry(NOW + 2, AMENDMENTS, amended.pack(), b"b")._replace(uid=uid - 1, source=b"orders"),
        entry(NOW + 3, REWARDS, b"junk", b"c")._replace(uid=uid + 1),
        entry(NOW + 4, REWARDS, first.pack(), b"d")._replace(uid=uid),
        entry(NOW + 5, REWARDS, first._replace(number=3).pack(), b"e"),
    ]
    folding = fold(sent, experiment, ledger, seen)
    told = {name: list(outcomes) for name, outcomes in folding.replies.items()}
    rejected, applied = [OUTCOME_REJECTED], [OUTCOME_APPLIED]
    assert told == {b"a": rejected * 3, b"b": rejected, b"c": rejected, b"d": applied, b"e": applied}
    assert folding.outcomes.sum() == folding.outcomes[OUTCOME_APPLIED] == 2
    assert ledger.periods[allocations[0].number].cells.sums[..., N].sum() == 2


def test_foreign_ids_count_once_and_go_to_the_period_of_their_time() -> None:
    experiment, allocations, ledger = world(rewards_without_token=True)
    seen = Seen()
    late_in_second = allocations[1].time_ms + 5
    rows = [
        RewardRecord(0, 1, 2**63 + 5, late_in_second, 0, 10, 0, 1, 0),
        RewardRecord(0, 1, 2**63 + 5, late_in_second, 0, 10, 0, 1, 0),
        RewardRecord(0, 1, 2**63 + 5, late_in_second, 0, 11, 0, 1, 0),
        RewardRecord(0, 1, 77, 5 + NOW, 0, 20, 0, 2, 0),
    ]
    folding = fold(
        [entry(NOW + 60_000, REWARDS, b"".join(r.pack() for r in rows), b"w")], experiment, ledger, seen
    )
    assert list(folding.replies[b"w"]) == [
        OUTCOME_APPLIED,
        OUTCOME_DUPLICATE,
        OUTCOME_CONFLICT,
        OUTCOME_APPLIED,
    ]
    assert int(ledger.periods[allocations[1].number].cells.sums[0, 1, 0, N]) == 1
    assert int(ledger.periods[allocations[0].number].cells.sums[0, 2, 0, N]) == 1
    again = fold([entry(NOW + 60_001, REWARDS, rows[0].pack())], experiment, ledger, seen)
    assert again.outcomes[OUTCOME_DUPLICATE] == 1


def test_the_writer_knows_which_allocation_it_must_have() -> None:
    world()
    reward = RewardRecord(1, 1, 1, NOW, 17, 5, 0, 1, 0).pack()
    exposure = exposure_entry(1, 1, 0, EXPOSURE.pack(23, 0, 0, 0))
    entries = [entry(1, REWARDS, reward), entry(2, EXPOSURES, exposure)]
    assert newest_allocation(entries, 7) == 23
    assert newest_allocation([entries[0], entries[1]._replace(uid=8)], 7) == 17
    assert newest_allocation([entry(1, REWARDS, b"junk")], 7) == 0


def test_fingerprints_agree_and_tell_values_apart() -> None:
    q = np.arange(0, ONE, 9973, dtype=np.uint32)
    assert fingerprints(q).tolist() == [fingerprint(int(value)) for value in q]
    assert fingerprints(q).min() >= 1
    assert fingerprint(0) != fingerprint(ONE)


@pytest.mark.parametrize(("value", "low", "high"), [(1e8 + 0.5, 1e8 - 10, 1e8 + 10), (0.2345, 0.0, 1.0)])
def test_variance_survives_far_from_zero(value: float, low: float, high: float) -> None:
    """Raw sums of squares lose it all at 1e8; scaled integers keep it."""
    deltas = [-1.0, 1.0] if low > 1 else [0.0, 0.0]
    q = [quantise(value + delta, low, high) for delta in deltas]
    n, s1, s2 = 1_000_000, 500_000 * sum(q), 500_000 * sum(each * each for each in q)
    variance = (n * s2 - s1 * s1) / (n * n) / ONE**2 * (high - low) ** 2
    assert variance == pytest.approx(1.0 if low > 1 else 0.0, abs=1e-6)
    # The same through cells, table and reading, whose numbers are doubles.
    metrics = [
        {"name": name, "kind": "gaussian", "direction": "minimize", "range": [low, high]}
        for name in ("a", "b")
    ]
    experiment, allocations, ledger = world(metrics=metrics, objective=[{"metric": "a"}])
    ledger.periods[allocations[0].number].cells.sums[0, 1, 1] = (n, s1, *divmod(s2, ONE))
    got = read(table(ledger.current(), ledger.layout), experiment.spec, NOW).channel(1)
    shown = (got.s2[1] / n - (got.s1[1] / n) ** 2) * (high - low) ** 2
    assert shown == pytest.approx(variance, abs=1e-6)


def test_silence_counts_only_in_mature_periods() -> None:
    metrics = [
        {"name": "satisfied", "kind": "bernoulli", "direction": "maximize", "attribution_window": "10s",
         "default_when_silent": 0},
        {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0.0, 2.0], "attribution_window": "10s"},
    ]  # fmt: skip
    experiment, allocations, ledger = world(metrics=metrics)
    for index, allocation in enumerate(allocations):
        cells = ledger.periods[allocation.number].cells
        cells.exposures[0, 1] = 10
        cells.sums[0, 1, 0] = (index + 1, (index + 1) * ONE, (index + 1) * ONE, 0)
        cells.sums[0, 1, 1] = (5, 5 * ONE // 2, 5 * ONE // 4, 0)
    now = allocations[2].time_ms + 1500
    reading = read(table(ledger.current(), ledger.layout), experiment.spec, now)
    assert reading.assigned[1] == 30
    assert (reading.n[1, 0], reading.s1[1, 0]) == (10, 1)  # the first period only, all ten of it
    assert (reading.n[1, 1], reading.s1[1, 1], reading.s2[1, 1]) == (15, 7.5, 3.75)
    later = read(table(ledger.current(), ledger.layout), experiment.spec, now + 60_000)
    assert (later.n[1, 0], later.s1[1, 0]) == (20, 3)  # the open period never matures


def test_blocks_keep_every_sum() -> None:
    experiment, allocations, ledger = world(allocations=40)
    for period in ledger.periods.values():
        period.cells.sums += period.number
        period.cells.exposures += 1
    before = ledger.totals()
    far = allocations[-1].time_ms + 10 * 86_400_000
    groups = plan(ledger, experiment, far)
    assert sum(map(len, groups)) == 39
    for group in groups:
        block = fold_block([ledger.periods.pop(number) for number in group])
        ledger.periods[block.number] = block
    after = ledger.totals()
    assert (before.sums == after.sums).all()
    assert (before.exposures == after.exposures).all()
    late = RewardRecord(1, 1, 1, far, allocations[3].number, 5, 0, 1, 0)
    folding = fold([entry(far, REWARDS, late.pack())], experiment, ledger, Seen())
    assert folding.outcomes[OUTCOME_APPLIED] == 1  # a straggler finds the block that took its period in


def test_blocks_are_short_beside_the_half_life() -> None:
    experiment, allocations, ledger = world(allocations=200, decay={"half_life": "10m"})
    far = allocations[-1].time_ms + 2 * 3_600_000
    for group in plan(ledger, experiment, far):
        rows = [ledger.periods[number] for number in group]
        assert rows[-1].end_ms - rows[0].start_ms <= 600_000 / 14

"""Weighed sums: a slow twin in fractions, any order, corrections that leave no trace, limits, and the store."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.counting import layout_of
from bandit.decide import compile_table
from bandit.errors import CorruptStored, Rejected
from bandit.learn import fold, open_periods
from bandit.ledger import CELL_ROOM, ONE, Cells, Layout, Ledger, Period, fold_block, table
from bandit.linear.project import bounded_ppm
from bandit.linear.weights import (
    COUNT,
    LADDER,
    LEAST_PPM,
    OWN,
    PPM,
    REACH,
    SHARE_BYTES,
    SQUARE_BITS,
    WEIGHT_BITS,
    WW,
    WWX,
    WWXX,
    WX,
    W,
    add,
    fault,
    marks_of,
    read,
    weights,
)
from bandit.log import CORRECT, REPORT, RETRACT, LogEntry
from bandit.reward import Amendment, RewardEvent, RewardRecord, accept_with_token
from bandit.rollout.state import Experiment
from bandit.seen import Seen
from bandit.token import Claims
from server.store.packed_periods import pack_period, unpack_period
from tests.builders import NOW, running

Sums = dict[tuple[int, int, int], list[int]]


def linear_experiment(*, corrections: bool = False, **changes: Any) -> tuple[Experiment, Ledger, Seen]:
    """A running lin_ts experiment of three arms and two metrics, of which models learn from the second alone."""
    metrics = [
        {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 2], "corrections": corrections},
        {"name": "good", "kind": "fraction", "direction": "maximize", "corrections": corrections},
    ]  # fmt: skip
    experiment, allocation = running(
        metrics=metrics,
        objective=[{"metric": "good"}],
        allocator={"kind": "lin_ts"},
        baseline="stationary",
        features=[{"name": "plan", "kind": "categorical", "values": ["free", "pro"]}],
        **changes,
    )
    ledger = Ledger(experiment.epoch, layout_of(experiment.spec))
    open_periods(ledger, [allocation], experiment)
    return experiment, ledger, Seen()


def brought(shares: tuple[int, ...], arm: int, metric: int) -> bytes:
    features = b"\x01" if metric == 1 else b""
    return features + marks_of(shares) + shares[arm].to_bytes(SHARE_BYTES, "little")


def record(
    number: int, shares: tuple[int, ...], q: int, arm: int, metric: int = 1, allocation: int = 3
) -> RewardRecord:
    return RewardRecord(
        5, 1, number, NOW + 1000, allocation, q, 0, arm, metric, 1, brought(shares, arm, metric)
    )


def entry(rows: Sequence[RewardRecord | Amendment], at: int = 0) -> LogEntry:
    return LogEntry(f"{NOW + 2000}-{at}", rows[0].kind, b"".join(row.pack() for row in rows))


def twin(shares: tuple[int, ...], arm: int, metric: int, q: int) -> Sums:
    """What one reward adds, in exact fractions: rounded as the module says, and otherwise not at all."""
    steps = [max(each for each in LADDER if each <= share) for share in shares]
    found: Sums = {}
    for k in (1, 2):
        h = min(steps[k], REACH * steps[0])
        if h == 0 or arm not in (0, k):
            continue
        w = Fraction(h, shares[arm])
        fixed = floor(w * 2**WEIGHT_BITS + Fraction(1, 2))
        square = Fraction(fixed * fixed, 2 ** (2 * WEIGHT_BITS - SQUARE_BITS))
        over, under = ceil(square), floor(square)
        found[k, metric, int(arm == 0)] = [
            1,
            fixed,
            floor(Fraction(fixed * q, ONE) + Fraction(1, 2)),
            over,
            floor(Fraction(under * q, ONE)),
            ceil(Fraction(ceil(Fraction(over * q, ONE)) * q, ONE)),
        ]
    return found


def sums_of(held: list[Sums]) -> np.ndarray[Any, np.dtype[np.int64]]:
    total = np.zeros((3, 2, 2, 6), np.int64)
    for each in held:
        for place, added in each.items():
            total[place] += added
    return total


def shares_of(chance: random.Random) -> tuple[int, ...]:
    p = [chance.random() ** 6 for _ in range(3)]
    return bounded_ppm([each / sum(p) for each in p], [0] * 3, [PPM] * 3)


@pytest.mark.parametrize("corrections", [False, True])
def test_sums_are_those_of_the_twin_in_any_order_with_repeats_and_corrections(*, corrections: bool) -> None:
    chance = random.Random(7)
    experiment, ledger, seen = linear_experiment(corrections=corrections)
    rows: list[RewardRecord | Amendment] = []
    held: list[Sums] = []
    for number in range(500):
        shares, arm = shares_of(chance), chance.randrange(3)
        if shares[arm] == 0:
            continue
        for metric in (0, 1):
            q = chance.choice([0, 1, ONE, chance.randrange(ONE + 1)])
            own = record(number, shares, q, arm, metric)
            last: int | None = q
            if not corrections:
                rows += [own] * chance.choice([1, 1, 2])
            else:
                rows += [Amendment(own, 0, 0, REPORT)] * chance.choice([1, 2])
                for order in range(1, chance.choice([1, 2, 4])):
                    op, other = chance.choice([(CORRECT, chance.randrange(ONE + 1)), (RETRACT, 0)])
                    rows.append(Amendment(own._replace(q=other), order, 0, op))
                    last = other if op == CORRECT else None
            if last is not None:
                held.append(twin(shares, arm, metric, last))
    chance.shuffle(rows)
    # An entry has records of one size: those of the metric that models learn from have a feature too.
    parts = [[row for row in rows if _metric(row) == metric] for metric in (0, 1)]
    while any(parts):
        place = chance.choice([each for each in (0, 1) if parts[each]])
        size = chance.randrange(1, 60)
        part, parts[place] = parts[place][:size], parts[place][size:]
        fold([entry(part), entry(part[: len(part) // 2] or part, 1)], experiment, ledger, seen)
    sums = ledger.periods[3].weighed
    assert sums is not None
    assert np.array_equal(sums, sums_of(held))
    assert (sums[:, :, OWN, COUNT] > 50).any()


def _metric(row: RewardRecord | Amendment) -> int:
    return row.reward.metric if isinstance(row, Amendment) else row.metric


def test_what_is_taken_back_leaves_no_trace() -> None:
    experiment, ledger, seen = linear_experiment(corrections=True)
    for number, shares in enumerate([(500_000, 300_000, 200_000), (100, 999_800, 100), (150, 50, 999_800)]):
        for arm in range(3):
            own = record(10 * number + arm, shares, 12_345, arm)
            fold([entry([Amendment(own, 0, 0, REPORT)])], experiment, ledger, seen)
    sums = ledger.periods[3].weighed
    assert sums is not None
    assert sums.any()
    for number, shares in enumerate([(500_000, 300_000, 200_000), (100, 999_800, 100), (150, 50, 999_800)]):
        for arm in range(3):
            own = record(10 * number + arm, shares, 0, arm)
            fold([entry([Amendment(own, 1, 0, RETRACT)])], experiment, ledger, seen)
    assert not sums.any()


def test_the_hand_checked_case() -> None:
    """Shares 25, 60 and 15 %: marks of 24.988, 59.2126 and 14.573 %; h is 2 * 24.988 and 14.573 %."""
    shares = (250_000, 600_000, 150_000)
    steps = [LADDER[mark] for mark in marks_of(shares)]
    assert steps == [249_880, 592_126, 145_730]
    period = Period(1, 1, 1, 0, 0, shares, (0.5,), Cells.zeros(Layout(1, 3, 1)))
    sums = np.zeros((3, 1, 2, 6), np.int64)
    marks = np.frombuffer(marks_of(shares) * 3, np.uint8).reshape(3, 3)
    arm = np.arange(3)
    add(
        sums,
        marks,
        np.array(shares),
        arm,
        np.zeros(3, np.int64),
        np.array([ONE, ONE // 2, 0]),
        np.ones(3, np.int64),
        0,
    )
    found = read(sums)[:, 0]
    w = {
        (1, 0): 499_760 / 600_000,
        (1, 1): 499_760 / 250_000,
        (2, 0): 145_730 / 150_000,
        (2, 1): 145_730 / 250_000,
    }
    for (k, side), each in w.items():
        q = [1.0, 0.5, 0.0][0 if side else k]
        expected = [1.0, each, each * q, each**2, each**2 * q, each**2 * q * q]
        assert found[k, side] == pytest.approx(expected, abs=2e-7)
    assert not found[0].any()
    assert not fault(replace(period, weighed=sums))


@given(st.lists(st.floats(1e-7, 1.0), min_size=2, max_size=8), st.integers(0, 7), st.integers(0, ONE))
@settings(max_examples=150, deadline=None)
def test_over_the_draw_arm_and_control_weigh_alike_and_never_much(
    p: list[float], control: int, q: int
) -> None:
    """p_k w_k = p_0 w_0 = h for each challenger: where both have the same values, no score is left in the mean."""
    k = len(p)
    control %= k
    shares = np.array(bounded_ppm([each / sum(p) for each in p], [0] * k, [PPM] * k))
    arms = np.flatnonzero(shares)
    marks = np.repeat(np.frombuffer(marks_of(shares.tolist()), np.uint8)[None], arms.size, axis=0)
    _, w = weights(marks, shares[arms], arms, control)
    real = w / 2.0**WEIGHT_BITS
    for challenger in range(k):
        if challenger == control or shares[control] < LEAST_PPM or shares[challenger] < LEAST_PPM:
            assert not w[:, challenger].any()
            continue
        own = real[arms == challenger, challenger][0]
        other = real[arms == control, challenger][0]
        assert 0.0 < own <= 1.0
        assert 0.0 < other <= REACH
        assert own * shares[challenger] == pytest.approx(other * shares[control], abs=0.5)
        h = min(shares[challenger], REACH * shares[control])
        assert 0.96 * h <= own * shares[challenger] <= h + 1e-6
    third = [each for each in arms if each != control]
    if len(third) > 1:
        assert w[arms == third[0], third[1]].tolist() == [0]
    sums = np.zeros((k, 1, 2, 6), np.int64)
    ones = np.ones(arms.size, np.int64)
    add(sums, marks, shares[arms], arms, 0 * ones, q * ones, ones, control)
    # Squares are never told too small: those of w q, and those of w (q - m) for any m.
    for m in (0.0, 0.3, 1.0):
        found = read(sums)[:, 0]
        spread = found[..., WWXX] - 2.0 * m * found[..., WWX] + m * m * found[..., WW]
        true = (found[..., W] ** 2) * (q / ONE - m) ** 2
        assert (spread >= true - 1e-12).all()
    assert not fault(period_of(sums))


def period_of(sums: np.ndarray[Any, Any]) -> Period:
    return Period(1, 1, 1, 0, 0, (0,) * len(sums), (0.5,), Cells.zeros(Layout(1, 3, 1)), weighed=sums)


def test_a_share_that_does_not_fit_its_mark_counts_nowhere() -> None:
    marks = np.frombuffer(marks_of((500_000, 500_000)), np.uint8)[None]
    for share in (0, 400_000, PPM + 1, 1 << 23):
        compared, w = weights(marks, np.array([share]), np.array([1]), 0)
        assert not compared.any()
        assert not w.any()


def test_the_ladder_is_fine_and_ends_at_all() -> None:
    steps = np.array(LADDER[1:])
    assert (LADDER[0], steps[0], steps[-1], len(LADDER)) == (0, LEAST_PPM, PPM, 256)
    assert (np.diff(steps) >= 0).all()
    assert (steps[1:] <= steps[:-1] * 1.045).all()
    assert marks_of((0, LEAST_PPM - 1, LEAST_PPM, PPM)) == bytes([0, 0, 1, 255])


def test_room_for_as_many_rewards_as_a_cell_has() -> None:
    """The heaviest reward of the largest value, as often as there is room: int64 holds it and no sum is refused."""
    shares = (100, 999_900)
    marks = np.frombuffer(marks_of(shares), np.uint8)[None]
    sums = np.zeros((2, 1, 2, 6), np.int64)
    one = np.ones(1, np.int64)
    add(sums, marks, np.array([100]), 0 * one, 0 * one, ONE * one, one, 0)
    assert read(sums)[1, 0, 1, W] == REACH
    assert [int(each) * CELL_ROOM < 1 << 63 for each in sums[1, 0, 1]] == [True] * 6
    assert not fault(period_of(sums * CELL_ROOM))
    assert fault(period_of(sums * CELL_ROOM + 1))


def test_the_log_keeps_what_a_token_brought() -> None:
    experiment, _, _ = linear_experiment()
    shares = (500_000, 300_000, 200_000)
    claims = Claims(1, 1, 3, 5, 9, NOW, 77, 300_000, 0, 1, b"\x02" + marks_of(shares))
    for metric in (0, 1):
        name = experiment.spec.metrics[metric].name
        made = accept_with_token(experiment, claims, RewardEvent(name, 0.5), NOW + 1000)
        assert isinstance(made, RewardRecord)
        tail = b"\x02" * metric + marks_of(shares) + (300_000).to_bytes(3, "little")
        assert made.features == tail
    # A server of before: its tokens have no marks; what models learn from is kept, and nothing is weighed.
    older = claims._replace(features=b"\x02")
    made = accept_with_token(experiment, older, RewardEvent("good", 0.5), NOW + 1000)
    assert made.features == b"\x02"  # type: ignore[union-attr]
    with pytest.raises(Rejected) as refused:
        accept_with_token(
            experiment, older._replace(features=b"\x02\x01"), RewardEvent("good", 1), NOW + 1000
        )
    assert refused.value.reason == "NO_FEATURES"


def test_rewards_without_marks_are_learned_from_and_not_weighed() -> None:
    experiment, ledger, seen = linear_experiment()
    old = RewardRecord(5, 1, 1, NOW + 1000, 3, 77, 0, 1, 1, 1, b"\x01")
    bare = RewardRecord(5, 1, 1, NOW + 1000, 3, 77, 0, 1, 0, 1)
    bad = RewardRecord(5, 1, 2, NOW + 1000, 3, 77, 0, 1, 1, 1, b"\x01\x02\x03")
    done = [fold([entry([each])], experiment, ledger, seen).outcomes for each in (old, bare, bad)]
    assert [int(each[1]) for each in done] == [1, 1, 0]
    period = ledger.periods[3]
    assert period.linear is not None
    assert period.linear.any()
    assert period.weighed is not None
    assert not period.weighed.any()


def test_a_period_of_before_the_sums_is_read_and_takes_rewards() -> None:
    experiment, ledger, seen = linear_experiment()
    period = ledger.periods[3]
    raw = pack_period(replace(period, weighed=None))
    back = unpack_period("key", b"3", raw)
    assert back.weighed is None
    ledger.periods[3] = back
    later = replace(running()[1], number=4, time_ms=NOW + 60_000)
    open_periods(ledger, [later], experiment)
    shares = (500_000, 300_000, 200_000)
    rows = [record(n, shares, ONE, n % 3, allocation=3 + n % 2) for n in range(12)]
    assert fold([entry(rows)], experiment, ledger, seen).outcomes[1] == 12
    assert ledger.periods[3].weighed is None
    found = table(ledger.current(), ledger.layout).weighed
    assert found is not None
    assert not found[0].any()
    assert found[1].any()
    ledger.periods[3].end_ms = ledger.periods[4].end_ms = NOW + 70_000
    block = fold_block(ledger.current())
    assert np.array_equal(block.weighed, ledger.periods[4].weighed)  # type: ignore[arg-type]


def test_blocks_add_up_and_the_store_keeps_every_bit() -> None:
    experiment, ledger, seen = linear_experiment()
    later = replace(running()[1], number=4, time_ms=NOW + 60_000)
    open_periods(ledger, [later], experiment)
    shares = (500_000, 300_000, 200_000)
    rows = [record(n, shares, n * 1000, n % 3, allocation=3 + n % 2) for n in range(60)]
    fold([entry(rows)], experiment, ledger, seen)
    for period in ledger.periods.values():
        period.end_ms = NOW + 70_000
        back = unpack_period("key", b"%d" % period.number, pack_period(period))
        assert np.array_equal(back.weighed, period.weighed)  # type: ignore[arg-type]
    one, two = (period.weighed for period in ledger.current())
    assert one is not None
    assert two is not None
    assert np.array_equal(fold_block(ledger.current()).weighed, one + two)  # type: ignore[arg-type]
    raw = pack_period(ledger.periods[3])
    for cut in (1, 8, 100):
        with pytest.raises(CorruptStored):
            unpack_period("key", b"3", raw[:-cut])
    for column, value in ((COUNT, -1), (W, 1 << 60), (WX, -5), (WWXX, 1 << 62)):
        broken = replace(ledger.periods[3], weighed=one.copy())
        assert broken.weighed is not None
        broken.weighed[1, 1, OWN, column] = value
        with pytest.raises(ValueError, match="weighed sums"):
            pack_period(broken)


def test_a_decision_by_no_rule_brings_the_shares_of_all() -> None:
    """Before the first rule and after a rollback every request has the same shares; tokens say so in the same way."""
    experiment, allocation = running(
        metrics=[{"name": "good", "kind": "bernoulli", "direction": "maximize"}],
        objective=[{"metric": "good"}],
        guardrails=[],
        allocator={"kind": "lin_ts"},
        baseline="stationary",
        features=[{"name": "plan", "kind": "categorical", "values": ["free", "pro"]}],
    )
    assert allocation.linear is None
    made = compile_table(experiment, allocation)
    found = made.decide("u", {"plan": "pro"})
    assert found.features == b"\x02" + marks_of(allocation.shares_ppm)
    assert found.propensity_ppm == allocation.shares_ppm[found.arm]

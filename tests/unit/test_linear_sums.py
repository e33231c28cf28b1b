"""Linear sums: exact whatever the order, the split and the corrections; within their limits; whole in the store."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.counting import layout_of
from bandit.errors import CorruptStored, Rejected
from bandit.features import UNIT, Encoder, dimension_of
from bandit.learn import fold, open_periods
from bandit.ledger import CELL_ROOM, ONE, Ledger, fold_block
from bandit.linear.sums import Totals, add, fault, read, totals, width_of
from bandit.log import AMENDMENTS, CORRECT, REPORT, RETRACT, REWARDS, LogEntry, kind_of
from bandit.reward import Amendment, RewardEvent, RewardRecord, accept_with_token
from bandit.rollout.state import Experiment
from bandit.seen import Seen
from bandit.token import Claims
from server.store.packed_periods import pack_period, unpack_period
from tests.builders import NOW, running

FEATURES = [
    {"name": "tokens", "kind": "numeric", "low": 0, "high": 4000},
    {"name": "plan", "kind": "categorical", "values": ["free", "pro"]},
]


def linear_experiment(*, corrections: bool = False, **changes: Any) -> tuple[Experiment, Ledger, Seen]:
    """A running lin_ts experiment of three arms and its empty ledger of one period."""
    metric = {"name": "good", "kind": "fraction", "direction": "maximize", "corrections": corrections}
    cost = {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 2]}
    experiment, allocation = running(
        metrics=[cost, metric],
        objective=[{"metric": "good"}],
        allocator={"kind": "lin_ts"},
        baseline="stationary",
        features=FEATURES,
        **changes,
    )
    ledger = Ledger(experiment.epoch, layout_of(experiment.spec))
    open_periods(ledger, [allocation], experiment)
    return experiment, ledger, Seen()


def record(
    number: int, features: bytes, q: int, *, arm: int = 1, metric: int = 1, allocation: int = 3
) -> RewardRecord:
    kept = features if metric == 1 else b""
    return RewardRecord(5, 1, number, NOW + 1000, allocation, q, 0, arm, metric, 1, kept)


def entry(rows: list[RewardRecord | Amendment], at: int = 0) -> LogEntry:
    return LogEntry(f"{NOW + 2000}-{at}", rows[0].kind, b"".join(row.pack() for row in rows))


class Oracle:
    """Plain Python integers of each decision's features and value: what the sums must be, to the last bit."""

    def __init__(self, experiment: Experiment) -> None:
        self.encoder = Encoder(experiment.spec.features)
        self.held: dict[tuple[int, int], tuple[bytes, int]] = {}

    def sums(self, arm: int) -> list[int]:
        d = self.encoder.dimension
        found = [0] * width_of(d)
        for (owner, _), (features, q) in self.held.items():
            if owner != arm:
                continue
            row = self.encoder.rows(np.frombuffer(features, np.uint8)[None])[0].tolist()
            products = [row[i] * row[j] for i in range(d) for j in range(i, d)]
            products += [each * (q >> 15) for each in row] + [each * (q & 32767) for each in row]
            products += [q * q >> 30, q * q & (ONE - 1)]
            found = [a + b for a, b in zip(found, products, strict=True)]
        return found


@pytest.mark.parametrize("corrections", [False, True])
def test_sums_are_those_of_the_oracle_in_any_order_with_repeats_and_corrections(*, corrections: bool) -> None:
    chance = random.Random(5)
    experiment, ledger, seen = linear_experiment(corrections=corrections)
    oracle = Oracle(experiment)
    rows: list[RewardRecord | Amendment] = []
    best: dict[int, tuple[int, int, int]] = {}
    for number in range(600):
        features, arm = bytes([chance.randrange(256), chance.randrange(3)]), chance.randrange(3)
        q = chance.choice([0, 1, ONE, chance.randrange(ONE + 1)])
        own = record(number, features, q, arm=arm)
        if not corrections:
            rows += [own] * chance.choice([1, 1, 2])
            oracle.held[arm, number] = features, q
            continue
        rows += [Amendment(own, 0, 0, REPORT)] * chance.choice([1, 2])
        oracle.held[arm, number] = features, q
        for order in range(1, chance.choice([1, 2, 4])):
            op, other = chance.choice([(CORRECT, chance.randrange(ONE + 1)), (RETRACT, 0)])
            rows.append(Amendment(own._replace(q=other), order, 0, op))
            best[number] = (order, op, other)
            oracle.held[arm, number] = features, other
            if op == RETRACT:
                del oracle.held[arm, number]
    chance.shuffle(rows)
    while rows:
        size = chance.randrange(1, 60)
        part, rows = rows[:size], rows[size:]
        again = chance.choice([part, part[: len(part) // 2]])
        fold([entry(part), entry(again or part, 1)], experiment, ledger, seen)
    sums = ledger.periods[3].linear
    assert sums is not None
    for arm in range(3):
        assert sums[arm, 0].tolist() == oracle.sums(arm)
    # The number of rewards is the ledger's, and the metric that no model learns from left no trace.
    assert (sums[:, 0, 0] // UNIT**2).tolist() == ledger.periods[3].cells.sums[0, :, 1, 0].tolist()


def test_a_late_reward_goes_to_the_period_of_its_decision() -> None:
    experiment, ledger, seen = linear_experiment()
    _, allocation = running()
    later = replace(allocation, number=4, time_ms=allocation.time_ms + 60_000)
    open_periods(ledger, [later], experiment)
    fold([entry([record(1, b"\x05\x01", 77)])], experiment, ledger, seen)
    old, new = ledger.periods[3].linear, ledger.periods[4].linear
    assert old is not None
    assert new is not None
    assert old.any()
    assert not new.any()


def test_other_metrics_carry_no_features_and_a_record_with_too_few_is_refused() -> None:
    experiment, ledger, seen = linear_experiment()
    cost = record(1, b"", 5, metric=0)
    assert (cost.kind, len(cost.pack())) == (REWARDS, 40)
    own = record(2, b"ab", 5)
    assert (own.kind, len(own.pack())) == (kind_of(REWARDS, 2), 42)
    assert (Amendment(own, 1, 0, CORRECT).kind, len(Amendment(own, 1, 0, CORRECT).pack())) == (
        kind_of(AMENDMENTS, 2),
        66,
    )
    done = fold([entry([cost]), entry([own], 1)], experiment, ledger, seen)
    assert (done.outcomes[1], done.outcomes[5]) == (2, 0)
    for odd in (
        record(3, b"", 5),
        record(4, b"a", 5),
        record(5, b"abc", 5),
        cost._replace(number=6, features=b"ab"),
    ):
        assert fold([entry([odd])], experiment, ledger, seen).outcomes.tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert fold([entry([own])._replace(payload=bytes(43))], experiment, ledger, seen).outcomes[5] == 1


def test_the_edge_takes_features_from_the_token_and_nowhere_else() -> None:
    experiment, _, _ = linear_experiment()
    claims = Claims(7, 1, 3, 5, 9, NOW, 1, 500_000, 0, 1, b"\x7f\x02")
    accepted = accept_with_token(experiment, claims, RewardEvent("good", 0.5), NOW + 1)
    assert isinstance(accepted, RewardRecord)
    assert accepted.features == b"\x7f\x02"
    plain = accept_with_token(experiment, claims, RewardEvent("cost", 0.5), NOW + 1)
    assert isinstance(plain, RewardRecord)
    assert plain.features == b""
    with pytest.raises(Rejected) as caught:
        accept_with_token(experiment, claims._replace(features=b""), RewardEvent("good", 0.5), NOW + 1)
    assert caught.value.reason == "NO_FEATURES"


def test_a_billion_of_the_largest_rewards_fit() -> None:
    d = 32
    one = np.zeros(width_of(d), np.int64)
    rows = np.full((1, d), UNIT, np.int64)
    add(one, rows, np.array([ONE - 1]), np.array([1]))
    most = [int(each) * CELL_ROOM for each in one]
    assert max(most) < 1 << 62
    assert (np.array(most, np.int64) == one * CELL_ROOM).all()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.binary(min_size=2, max_size=2), st.integers(0, ONE)), min_size=1, max_size=30))
def test_what_is_read_back_are_the_moments_of_the_rows(rewards: list[tuple[bytes, int]]) -> None:
    experiment, _, _ = linear_experiment()
    encoder = Encoder(experiment.spec.features)
    rows = encoder.rows(np.array([list(each) for each, _ in rewards], np.uint8))
    q = np.array([each for _, each in rewards], np.int64)
    sums = np.zeros((1, 1, width_of(encoder.dimension)), np.int64)
    add(sums[0, 0], rows, q, np.ones(len(q), np.int64))
    found, x, y = read(sums), rows / UNIT, q / ONE
    assert found.n[0, 0] == len(q)
    assert found.xx[0, 0] == pytest.approx(x.T @ x, rel=1e-12, abs=1e-12)
    assert found.xy[0, 0] == pytest.approx(x.T @ y, rel=1e-12, abs=1e-12)
    assert found.yy[0, 0] == pytest.approx(float(y @ y), rel=1e-12, abs=1e-15)


def test_decay_and_blocks_are_readings_of_the_same_sums() -> None:
    experiment, ledger, seen = linear_experiment()
    _, allocation = running()
    for number in (4, 5):
        open_periods(ledger, [replace(allocation, number=number, time_ms=NOW + number * 1000)], experiment)
    rows = [record(n, bytes([n % 256, n % 3]), n * 1000, allocation=3 + n % 3) for n in range(90)]
    fold([entry(list(rows))], experiment, ledger, seen)
    parts = [ledger.periods[number] for number in (3, 4, 5)]
    sums = [each.linear for each in parts]
    whole = totals((each, 1.0) for each in sums if each is not None)
    block = fold_block(parts[:2])
    assert block.linear is not None
    assert sums[2] is not None
    again = totals([(block.linear, 1.0), (sums[2], 1.0)])
    assert isinstance(whole, Totals)
    assert isinstance(again, Totals)
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))
    half = totals((each, 0.5) for each in sums if each is not None)
    assert half is not None
    assert half.xx == pytest.approx(0.5 * whole.xx)


def test_a_period_with_linear_sums_is_whole_in_the_store_or_refused() -> None:
    experiment, ledger, seen = linear_experiment()
    fold([entry([record(n, bytes([n, n % 3]), n) for n in range(20)])], experiment, ledger, seen)
    period = ledger.periods[3]
    raw = pack_period(period)
    back = unpack_period("key", b"3", raw)
    assert back.linear is not None
    assert period.linear is not None
    assert np.array_equal(back.linear, period.linear)
    assert pack_period(back) == raw
    for cut in (1, 8, 100):
        with pytest.raises(CorruptStored):
            unpack_period("key", b"3", raw[:-cut])
    for place, value in ((0, 5), (0, -(UNIT**2)), (3, 1 << 60), (-1, 1 << 60)):
        broken = replace(period, linear=period.linear.copy())
        assert broken.linear is not None
        broken.linear[1, 0, place] = value
        assert fault(broken)
        with pytest.raises(ValueError, match="linear sums"):
            pack_period(broken)


def test_the_dimension_counts_the_intercept() -> None:
    experiment, _, _ = linear_experiment()
    assert dimension_of(experiment.spec) == Encoder(experiment.spec.features).dimension == 5

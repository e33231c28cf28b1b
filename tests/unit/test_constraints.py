"""Constraints and the daily budget, through the proposal that the learner makes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandit.allocate import Proposal, propose
from bandit.allocators.base import Utility
from bandit.baselines import BASELINES
from bandit.baselines.base import evidence_of
from bandit.constraints import feasibility
from bandit.kernels.best_arm import BETA, NORMAL
from bandit.ledger import FloatArray
from bandit.pacing import DAY_MS, Cost, cost_of, pacing, priced, spending
from bandit.reading import Reading
from bandit.spec.channels import log_scale
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import evidence_from, periods

LIVE = np.ones(3, np.bool_)
DAY = 20_000 * DAY_MS


def made(**changes: Any) -> ExperimentSpec:
    """Three arms; success is a rate, cost is up to 2."""
    return spec(**{"baseline": "stationary", "bounds": {"floor": 0.0, "control_floor": 0.0}} | changes)


def read(made: ExperimentSpec, rate: list[float], cost: list[float], n: float = 1000.0) -> Reading:
    """n requests of each arm; cost of sd 0.2."""
    width = len(made.columns)
    count, sums, squares = np.zeros((3, width)), np.zeros((3, width)), np.zeros((3, width))
    count[:, :2] = n
    sums[:, 0], sums[:, 1] = n * np.array(rate), n * np.array(cost) / 2
    squares[:, 0], squares[:, 1] = sums[:, 0], n * ((np.array(cost) / 2) ** 2 + 0.01)
    return Reading(np.full(3, n), count, sums, squares)


def decide(made: ExperimentSpec, reading: Reading, live: Any = LIVE) -> Proposal:
    return propose(made, evidence_from(made, reading), live, [None] * 3, None, 0.0, 100.0)


SUCCESS, COST = [{"metric": "satisfied"}], [{"metric": "cost"}]


def test_a_limit_is_the_posterior_below_it() -> None:
    """P(mean <= limit) to minimise and P(mean >= limit) to maximise, in the metric's unit."""
    low = made(objective=COST, constraints=[{"metric": "satisfied", "limit": 0.5, "probability": 0.9}])
    reading = read(low, [0.48, 0.5, 0.53], [1.0, 1.0, 1.0])
    beliefs = BASELINES["stationary"].beliefs(evidence_from(low, reading))
    found = feasibility(low, beliefs, LIVE)
    assert found is not None
    exact = [stats.beta(a, b).sf(0.5) for a, b in beliefs[0].params]
    assert found.chance[0] == pytest.approx(exact, abs=1e-10)
    assert found.q == pytest.approx([0.0 if each < 0.1 else each for each in exact], abs=1e-10)
    assert found.kept.tolist() == [each >= 0.9 for each in exact]
    dear = made(objective=SUCCESS, constraints=[{"metric": "cost", "limit": 1.0}])
    beliefs = BASELINES["stationary"].beliefs(evidence_from(dear, read(dear, [0.5] * 3, [0.99, 1.0, 1.01])))
    found = feasibility(dear, beliefs, LIVE)
    assert found is not None
    exact = [stats.t(df, at, by).cdf(0.5) for at, by, df in beliefs[1].params]
    assert found.chance[0] == pytest.approx(exact, abs=1e-9)


def test_a_limit_on_a_mean_whose_range_begins_above_zero() -> None:
    """Waiting times from 2 to 10 s: their mean is lognormal in seconds, not in parts of the range."""
    wait = {"name": "wait", "kind": "lognormal", "direction": "minimize", "range": [2.0, 10.0]}
    waits = made(
        metrics=[wait | {"attribution_window": "1h"}],
        objective=[{"metric": "wait"}],
        constraints=[{"metric": "wait", "limit": 4.0}],
    )
    low, high = log_scale(waits.metrics[0])
    n, mean = 50.0, np.array([3.5, 3.9, 4.3])
    sums, squares = np.zeros((3, 2)), np.zeros((3, 2))
    for at, (middle, sd) in enumerate(
        (((mean - 2.0) / 8.0, 0.05), ((np.log(mean) - low) / (high - low), 0.1))
    ):
        sums[:, at], squares[:, at] = n * middle, n * (middle**2 + sd**2)
    reading = Reading(np.full(3, n), np.full((3, 2), n), sums, squares)
    beliefs = BASELINES["stationary"].beliefs(evidence_from(waits, reading))
    found = feasibility(waits, beliefs, LIVE)
    assert found is not None
    exact = [stats.norm(at, sd).cdf(np.log(4.0 / 8.0)) for at, sd, *_ in beliefs[0].params]
    assert found.chance[0] == pytest.approx(exact, abs=1e-9)
    assert found.chance[0, 2] < 0.3 < found.chance[0, 1] < 0.95 < found.chance[0, 0]


def test_the_cheapest_that_is_good_enough() -> None:
    """Cheap but 0.2 worse, cheap enough and 0.01 worse, dear and best: within 0.05 of the best the second has all."""
    kept = made(objective=COST, constraints=[{"metric": "satisfied", "within": 0.05, "probability": 0.95}])
    proposal = decide(kept, read(kept, [0.4, 0.59, 0.6], [0.2, 0.5, 1.0], 5000.0))
    assert proposal.feasible is not None
    assert proposal.feasible[0] == 0.0
    assert proposal.feasible[1] > 0.95
    assert proposal.shares_ppm[1] > 990_000
    free = decide(made(objective=COST), read(kept, [0.4, 0.59, 0.6], [0.2, 0.5, 1.0], 5000.0))
    assert free.feasible is None
    assert free.shares_ppm[0] > 990_000


def test_what_is_to_be_low_may_lie_within_so_much_above_the_lowest() -> None:
    """Of a cost the cheapest is the best, and it always keeps its own constraint."""
    kept = made(objective=SUCCESS, constraints=[{"metric": "cost", "within": 0.05, "probability": 0.95}])
    proposal = decide(kept, read(kept, [0.4, 0.5, 0.6], [0.50, 0.51, 0.9], 5000.0))
    assert proposal.feasible is not None
    assert proposal.feasible[0] > 0.95
    assert proposal.feasible[1] > 0.95
    assert proposal.feasible[2] == 0.0


def test_within_is_measured_from_live_arms() -> None:
    kept = made(objective=COST, constraints=[{"metric": "satisfied", "within": 0.05}])
    reading = read(kept, [0.42, 0.4, 0.6], [0.5, 0.2, 1.0], 5000.0)
    proposal = decide(kept, reading, np.array([True, True, False]))
    assert proposal.shares_ppm[1] > 900_000
    assert proposal.shares_ppm[2] == 0


@pytest.mark.parametrize("name", ["thompson", "top_two", "kl_ucb", "bayes_ucb", "epsilon_greedy", "ucb1"])
def test_an_arm_that_breaks_a_constraint_has_nothing(name: str) -> None:
    """The best by far costs too much; floors alone would serve it. Where no arm keeps it the control has all."""
    kept = made(objective=SUCCESS, allocator={"kind": name}, constraints=[{"metric": "cost", "limit": 0.7}])
    proposal = decide(kept, read(kept, [0.4, 0.5, 0.9], [0.5, 0.5, 1.0], 5000.0))
    assert proposal.shares_ppm[2] == 0
    assert proposal.shares_ppm[1] > 0
    none = decide(kept, read(kept, [0.4, 0.5, 0.9], [1.5, 1.5, 1.0], 5000.0))
    assert none.shares_ppm == (1_000_000, 0, 0)


def test_two_constraints_multiply() -> None:
    both = made(
        objective=COST,
        constraints=[
            {"metric": "satisfied", "limit": 0.5, "probability": 0.5},
            {"metric": "cost", "limit": 1.0, "probability": 0.5},
        ],
    )
    beliefs = BASELINES["stationary"].beliefs(evidence_from(both, read(both, [0.505] * 3, [0.99] * 3)))
    found = feasibility(both, beliefs, LIVE)
    assert found is not None
    assert found.q == pytest.approx(found.chance[0] * found.chance[1], abs=1e-12)
    assert 0.3 < found.q[0] < found.chance.min()


def test_one_broken_constraint_leaves_an_arm_out_however_well_it_keeps_the_other() -> None:
    """Of the third arm the success keeps its limit with a chance of about 0.05, below 1 - 0.9; its cost surely does."""
    both = made(
        objective=COST,
        constraints=[
            {"metric": "satisfied", "limit": 0.5, "probability": 0.9},
            {"metric": "cost", "limit": 1.9, "probability": 0.9},
        ],
    )
    beliefs = BASELINES["stationary"].beliefs(evidence_from(both, read(both, [0.6, 0.6, 0.4635], [1.0] * 3)))
    found = feasibility(both, beliefs, LIVE)
    assert found is not None
    assert 0.01 < found.chance[0, 2] < 0.1
    assert found.chance[1, 2] > 0.999
    assert found.q[2] == 0.0
    assert found.admitted.tolist() == [True, True, False]


def ledger(made: ExperimentSpec, spent: list[list[float]], requests: float, at: list[int], now: int) -> Any:
    """Evidence of periods of one hour from ``at`` (ms), ``requests`` of each arm, cost per request ``spent``."""
    width, rows = len(made.columns), len(at)
    n, s1, s2 = (np.zeros((rows, 3, width)) for _ in range(3))
    n[:, :, :2] = requests
    s1[:, :, 0] = 0.5 * requests
    s1[:, :, 1] = requests * np.array(spent) / 2
    s2[:, :, 0], s2[:, :, 1] = s1[:, :, 0], requests * ((np.array(spent) / 2) ** 2 + 0.01)
    table = periods(made, n, s1, s2, np.full((rows, 3), requests))
    start = np.array(at, np.int64)
    table = replace(table, start_ms=start, end_ms=start + 3_600_000)
    return evidence_of(made, table, now)


PAID = {"objective": [{"metric": "satisfied"}], "budget": {"metric": "cost", "per_day": 1000.0}}


def test_what_was_spent_today() -> None:
    """Two hours of yesterday count for the traffic alone, a period over midnight by its part."""
    kept = made(**PAID)
    hour = 3_600_000
    at = [DAY - 2 * hour, DAY - hour // 2, DAY + hour // 2]
    evidence = ledger(kept, [[0.5, 1.0, 1.5]] * 3, 100.0, at, DAY + 2 * hour)
    cost = cost_of(kept, evidence, BASELINES["stationary"].beliefs(evidence))
    found = spending(kept, evidence, cost)
    assert cost.mean == pytest.approx([0.5, 1.0, 1.5], abs=0.01)
    assert found.spent == pytest.approx(150.0 + 300.0, rel=1e-9)
    assert found.expected == pytest.approx(900.0 / 4 * 22, rel=1e-9)
    assert found.allowed == pytest.approx((1000.0 - 450.0) / (900.0 / 4 * 22), rel=1e-9)
    again = spending(kept, evidence, cost)
    assert again == found


def test_the_open_period_is_spent_too() -> None:
    kept = made(**PAID)
    hour = 3_600_000
    evidence = ledger(kept, [[0.5, 1.0, 1.5]] * 2, 100.0, [DAY, DAY + hour], DAY + 2 * hour)
    cost = cost_of(kept, evidence, BASELINES["stationary"].beliefs(evidence))
    closed = spending(kept, evidence, cost)
    open_ = replace(evidence.rows, end_ms=np.array([DAY + hour, 0]))
    assert spending(kept, replace(evidence, rows=open_), cost) == closed
    assert closed.spent == pytest.approx(600.0, rel=1e-9)


def test_costs_to_come_count() -> None:
    """Half of the costs of the last hour are not in yet: each as its arm's mean; what never came is nothing."""
    kept = made(**PAID)
    hour = 3_600_000
    evidence = ledger(kept, [[0.5, 1.0, 1.5]], 100.0, [DAY], DAY + hour)
    evidence = replace(evidence, rows=replace(evidence.rows, assigned=2.0 * evidence.rows.assigned))
    cost = cost_of(kept, evidence, BASELINES["stationary"].beliefs(evidence))
    assert spending(kept, evidence, cost).spent == pytest.approx(300.0 + 100.0 * cost.mean.sum(), rel=1e-9)
    late = replace(evidence, now_ms=DAY + 3 * hour)
    assert spending(kept, late, cost).spent == pytest.approx(300.0, rel=1e-9)


def test_the_dear_arm_falls_as_the_budget_is_used() -> None:
    """The dear arm is the best: all while the budget is ample, less as it gets short, its floor at the end."""
    shares, prices = [], []
    for per_day in (1e6, 3000.0, 2000.0, 1200.0, 700.0, 300.0):
        kept = made(
            objective=[{"metric": "satisfied"}],
            budget={"metric": "cost", "per_day": per_day},
            bounds={"floor": 0.02, "control_floor": 0.02},
        )
        hour = 3_600_000
        evidence = ledger(kept, [[0.5, 1.0, 1.5]], 100.0, [DAY + hour], DAY + 2 * hour)
        evidence.reading.s1[:, 0] = np.array([40.0, 50.0, 70.0])
        proposal = propose(kept, evidence, LIVE, [None] * 3, None, 0.0, 100.0)
        shares.append(proposal.shares_ppm[2])
        prices.append(proposal.price)
        if 0 < proposal.price < math.inf:
            cost = cost_of(kept, evidence, BASELINES["stationary"].beliefs(evidence))
            a_request = float(np.array(proposal.shares_ppm) / 1e6 @ cost.mean)
            assert a_request == pytest.approx(spending(kept, evidence, cost).allowed, rel=1e-3)
    assert shares == sorted(shares, reverse=True)
    assert prices == sorted(prices)
    assert shares[0] > 900_000
    assert prices[0] == 0.0
    assert shares[-1] == 20_000
    assert math.isinf(prices[-1])


def test_a_spent_budget_leaves_floors_and_the_cheapest() -> None:
    kept = made(**PAID | {"bounds": {"floor": 0.05, "control_floor": 0.1}})
    evidence = ledger(kept, [[1.5, 0.5, 1.0]], 1000.0, [DAY + 3_600_000], DAY + 7_200_000)
    assert propose(kept, evidence, LIVE, [None] * 3, None, 0.0, 100.0).shares_ppm == (
        100_000,
        850_000,
        50_000,
    )


def test_the_price_is_the_least_that_is_enough() -> None:
    """Shares in closed form: two arms of costs 0 and 1, the dear one's share 1 / (1 + price)."""

    def shares(price: float) -> FloatArray:
        return np.array([price / (1 + price), 1 / (1 + price)])

    cost = np.array([0.0, 1.0])
    assert pacing(0.25, cost, shares, 1.0) == pytest.approx(3.0, rel=1e-6)
    assert pacing(0.75, cost, shares, 1.0) == pytest.approx(1 / 3, rel=1e-6)
    assert pacing(1.0, cost, shares, 1.0) == 0.0
    assert pacing(0.0, cost, shares, 1.0) == math.inf
    assert pacing(0.25, cost + 1.0, shares, 1.0) == math.inf


def test_a_price_moves_utilities_by_the_cost() -> None:
    n = np.full(2, 100.0)
    value = Utility(
        BETA,
        np.ones((2, 2)),
        1.0,
        np.array([0.4, 0.6]),
        np.full(2, 0.05),
        np.array([0.4, 0.6]),
        n,
        np.full(2, 0.24),
    )
    cost = Cost(np.array([1.0, 2.0]), np.full(2, 0.1), np.full(2, 0.5), (0.0, 4.0))
    moved = priced(value, cost, 0.1, np.ones(2, np.bool_))
    assert moved.family == NORMAL
    assert moved.mean == pytest.approx([0.3, 0.4])
    assert moved.sd == pytest.approx([math.hypot(0.05, 0.01)] * 2)
    assert moved.unit_mean == pytest.approx([(0.4 + 0.3) / 1.4, (0.6 + 0.2) / 1.4])
    assert moved.variance == pytest.approx([(0.24 + 0.01 * 0.5) / 1.4**2] * 2)
    assert moved.span == pytest.approx(1.4)
    assert priced(value, cost, 0.0, np.ones(2, np.bool_)) is value


@pytest.mark.slow
def test_a_simulated_day_keeps_its_budget() -> None:
    """48 looks of half an hour with noisy costs: the day costs at most 2 % more than its budget, and is not hoarded."""
    kept = made(**PAID | {"bounds": {"floor": 0.02, "control_floor": 0.02}})
    chance, half = np.random.default_rng(9), 1_800_000
    rates, prices = np.array([0.40, 0.45, 0.60]), np.array([0.3, 0.6, 1.5])
    shares, spent = np.array([0.4, 0.3, 0.3]), 0.0
    counts: list[Any] = []
    for look in range(48 * 2):
        served = chance.multinomial(50, shares)
        liked = chance.binomial(served, rates)
        costs = [np.clip(chance.normal(prices[k], 0.2, served[k]), 0, 2) / 2 for k in range(3)]
        counts.append((served, liked, costs))
        if look >= 48:
            spent += 2 * sum(float(each.sum()) for each in costs)
        width = len(kept.columns)
        n, s1, s2 = (np.zeros((len(counts), 3, width)) for _ in range(3))
        for row, (shown, good, paid) in enumerate(counts):
            n[row, :, :2] = shown[:, None]
            s1[row, :, 0] = s2[row, :, 0] = good
            s1[row, :, 1] = [each.sum() for each in paid]
            s2[row, :, 1] = [(each**2).sum() for each in paid]
            from bandit.baselines.base import evidence_of

        start = DAY + np.arange(len(counts), dtype=np.int64) * half
        table = replace(periods(kept, n, s1, s2), start_ms=start, end_ms=start + half)
        evidence = evidence_of(kept, table, int(start[-1]) + half)
        shares = np.array(propose(kept, evidence, LIVE, [None] * 3, None, 0.0, 50.0).shares_ppm) / 1e6
    assert 950.0 <= spent <= 1020.0

"""Best-feasible, distances from the best, characteristic times: against values of 40 digits and slow twins."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandit.allocators.base import Utility, rank
from bandit.allocators.needed import characteristic, needed, samples_needed
from bandit.kernels.best_arm import BETA, GAMMA, LOGNORMAL, NORMAL, STUDENT_T, best_arm
from bandit.kernels.divergence import bernoulli
from bandit.kernels.margin import chance_below, chance_within, value_remaining
from bandit.kernels.track_and_stop import BERNOULLI, GAUSSIAN, evidence, lai_robbins, threshold
from tests.oracles import slow_allocation

GOLDEN = Path(__file__).parents[1] / "golden"
FEASIBLE = json.loads((GOLDEN / "best_feasible.json").read_text())["rows"]
BOUNDS = json.loads((GOLDEN / "lower_bounds.json").read_text())
CASES = [
    (BETA, [[3, 9], [30, 70], [5, 20]], lambda row: stats.beta(*row), (0.0, 0.01, 0.1, 0.5)),
    (BETA, [[1, 1], [1000, 9000], [120, 880]], lambda row: stats.beta(*row), (0.0, 0.01, 0.95)),
    (NORMAL, [[0, 1], [0.3, 0.01], [0.2, 0.4]], lambda row: stats.norm(*row), (0.0, 0.05, 0.5)),
    (STUDENT_T, [[0, 1, 5], [0.3, 0.01, 12]], lambda row: stats.t(row[2], row[0], row[1]), (0.0, 0.05, 0.5)),
    (GAMMA, [[3, 9], [30, 70], [5, 20]], lambda row: stats.gamma(row[0], scale=1 / row[1]), (0.0, 0.01, 0.2)),
    (LOGNORMAL, [[0, 0.3], [0.1, 0.1]], lambda row: stats.lognorm(row[1], scale=np.exp(row[0])), (0.0, 0.05, 1.0)),
]  # fmt: skip


@pytest.mark.parametrize("row", FEASIBLE, ids=lambda row: str(row["p_feasible"]))
def test_best_feasible(row: dict[str, Any]) -> None:
    params, q = np.array(row["normal_mean_sd"], np.float64), np.array(row["p_feasible"], np.float64)
    best = best_arm(NORMAL, params, q)
    assert best.p == pytest.approx([float(each) for each in row["p_best_feasible"]], rel=0, abs=1e-11)
    assert best.none == pytest.approx(float(row["p_none_feasible"]), rel=0, abs=1e-15)
    assert best.mass == pytest.approx(1.0, rel=0, abs=1e-11)


def test_what_no_arm_keeps_is_the_controls() -> None:
    row = FEASIBLE[1]
    params, q = np.array(row["normal_mean_sd"], np.float64), np.array(row["p_feasible"], np.float64)
    zero = np.zeros(2)
    value = Utility(NORMAL, params, 1.0, zero, zero, zero, zero, zero)
    p, _ = rank(value, np.ones(2, np.bool_), q, 1)
    assert p == pytest.approx([0.59731219035417983, 0.35268780964582017 + 0.05], abs=1e-11)
    p, _ = rank(value, np.array([True, False]), q, 1)
    assert p.tolist() == [1.0, 0.0]
    p, _ = rank(value, np.ones(2, np.bool_), np.zeros(2), 1)
    assert p.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("family", [NORMAL, BETA])
def test_best_feasible_sums_over_who_is_feasible(family: int) -> None:
    """The same as the plain chances of each set of feasible arms, weighed by the chance of the set; and the loss."""
    rows = {NORMAL: [[0, 1], [0.3, 0.5], [0.2, 1e-3]], BETA: [[3, 9], [30, 70], [1, 5]]}[family]
    params, q = np.array(rows, np.float64), np.array([0.9, 0.3, 0.6])
    p, loss = np.zeros(3), np.zeros(3)
    for mask in range(1, 8):
        chosen = [k for k in range(3) if mask >> k & 1]
        chance = np.prod([q[k] if k in chosen else 1 - q[k] for k in range(3)])
        p[chosen] += chance * best_arm(family, params[chosen]).p
    for k in range(3):
        others = [i for i in range(3) if i != k]
        for mask in range(1, 4):
            chosen = [each for i, each in enumerate(others) if mask >> i & 1]
            chance = np.prod([q[each] if each in chosen else 1 - q[each] for each in others])
            loss[k] += chance * best_arm(family, params[[k, *chosen]]).loss[0]
    best = best_arm(family, params, q)
    assert best.p == pytest.approx(p, rel=0, abs=1e-10)
    assert best.loss == pytest.approx(loss, rel=0, abs=1e-9)


def test_tiny_chances_survive_constraints() -> None:
    """A sharp arm 7.9 sd below another: its chance of 1e-15 keeps its digits where all arms are surely feasible."""
    params = np.array([[-7.9, 1e-6], [0.0, 1.0]])
    assert best_arm(NORMAL, params, np.ones(2)).p[0] == pytest.approx(stats.norm.sf(7.9), rel=0.015, abs=0)


@pytest.mark.parametrize(("family", "rows", "make", "margins"), CASES)
def test_within_a_margin_of_the_best(family: int, rows: Any, make: Any, margins: tuple[float, ...]) -> None:
    params, twins = np.array(rows, np.float64), [make(row) for row in rows]
    for margin in margins:
        got = chance_within(family, params, margin)
        assert got == pytest.approx(slow_allocation.within(twins, margin), rel=0, abs=1e-9)
    assert chance_within(family, params, 0.0) == pytest.approx(best_arm(family, params).p, rel=0, abs=1e-11)
    for limit in (0.05, 0.2, 0.4):
        assert chance_below(family, params, limit) == pytest.approx(
            [twin.cdf(limit) for twin in twins], abs=1e-12
        )


def test_what_is_better_when_lower_is_turned_around() -> None:
    """Positive means with sign -1: the margin and the limit are of -x."""
    params = np.array([[3.0, 9.0, -1.0], [30.0, 70.0, -1.0], [5.0, 20.0, -1.0]])
    twins = [stats.gamma(row[0], scale=1 / row[1]) for row in params]
    chance = np.random.default_rng(3)
    draws = np.array([twin.rvs(400_000, random_state=chance) for twin in twins])
    near = (draws <= draws.min(axis=0) + 0.05).mean(axis=1)
    assert chance_within(GAMMA, params, 0.05) == pytest.approx(near, abs=5e-3)
    assert chance_below(GAMMA, params, -0.2) == pytest.approx([twin.sf(0.2) for twin in twins], abs=1e-12)


def test_the_value_remaining() -> None:
    """Two equal normals: max - x_b is above v where the difference is, so v = sqrt(2) z; none once P(best) is sure."""
    twins = np.array([[0.0, 1.0], [0.0, 1.0]])
    assert value_remaining(NORMAL, twins, 0.95) == pytest.approx(
        math.sqrt(2) * stats.norm.isf(0.05), rel=1e-8
    )
    assert value_remaining(NORMAL, np.array([[0.0, 1.0], [5.0, 1.0]]), 0.95) == 0.0
    chance = np.random.default_rng(4)
    draws = np.array([chance.beta(a, b, 400_000) for a, b in ((3, 9), (30, 70), (5, 20))])
    v = np.quantile(draws.max(axis=0) - draws[1], 0.95)
    assert value_remaining(BETA, np.array([[3.0, 9.0], [30.0, 70.0], [5.0, 20.0]])) == pytest.approx(
        v, rel=0.02
    )


@pytest.mark.parametrize("family", [NORMAL, STUDENT_T, BETA, GAMMA, LOGNORMAL])
def test_margins_of_any_numbers_are_chances(family: int) -> None:
    chance = np.random.default_rng(family)
    numbers = [0.0, 1.0, -1.0, 1e-300, 1e-9, 0.5, 3.0, 1e12, 1e300, math.inf, -math.inf, math.nan]
    for _ in range(300):
        params = chance.choice(numbers, (int(chance.integers(1, 5)), 3 if family == STUDENT_T else 2))
        if family == STUDENT_T:
            params[:, 2] = chance.uniform(2, 100, len(params))
        for got in (
            chance_within(family, params, float(chance.choice([0.0, 1e-9, 0.5, 1e9]))),
            chance_below(family, params, float(chance.choice([-1.0, 0.0, 0.5, 1e9]))),
        ):
            assert (got >= 0).all(), params
            assert (got <= 1 + 1e-12).all(), params


@pytest.mark.parametrize("row", BOUNDS["bai"], ids=lambda row: str(row["mu"]))
def test_characteristic_time(row: dict[str, Any]) -> None:
    time, w = characteristic(np.array(row["mu"]))
    assert time == pytest.approx(row["T_star"], rel=1e-8)
    assert w == pytest.approx(row["w_star"], rel=0, abs=1e-8)
    assert time * bernoulli(0.1, 0.8) == pytest.approx(row["lower_bound_delta_0p1"], rel=1e-5)


@pytest.mark.parametrize("row", BOUNDS["lai_robbins"], ids=lambda row: str(row["mu"]))
def test_lai_robbins(row: dict[str, Any]) -> None:
    assert lai_robbins(BERNOULLI, np.array(row["mu"]), 1.0) == pytest.approx(
        row["lai_robbins_constant"], rel=1e-9
    )


def test_two_normal_arms_in_closed_form() -> None:
    """T* = 8 v / gap^2 at equal shares; the order of the arms does not matter."""
    time, w = characteristic(np.array([3.0, 5.0]), 9.0)
    assert time == pytest.approx(8 * 9.0 / 4.0, rel=1e-12)
    assert w == pytest.approx([0.5, 0.5], abs=1e-12)


def test_samples_needed() -> None:
    means = np.array([0.10, 0.11])
    whole = samples_needed(means, 0.05)
    assert whole == pytest.approx(7515.082356 * math.log(20), rel=1e-6)
    _, w = characteristic(means)
    assert samples_needed(means, 0.05, 0.25 * whole * w) == pytest.approx(0.75 * whole, rel=1e-9)
    assert samples_needed(means, 0.05, np.array([1e9, 0.0])) == pytest.approx(whole * w[1], rel=1e-9)
    assert samples_needed(means, 0.05, np.array([1e9, 1e9])) == 0.0
    assert samples_needed(np.array([0.1, 0.1]), 0.05) == math.inf
    assert samples_needed(np.array([0.1]), 0.05) == 0.0
    with pytest.raises(ValueError, match="not a chance of error"):
        samples_needed(means, 0.0)


def test_an_underpowered_run_needs_more() -> None:
    """Five arms, seven values each with sd 0.3: the best is told at 0.5 above the next, at 0.1 not."""
    live, n = np.ones(5, np.bool_), np.full(5, 7.0)
    for best, told in ((0.99, True), (0.59, False)):
        mean = np.array([0.25, 0.06, 0.12, 0.49, best])
        value = Utility(NORMAL, np.stack([mean, n], axis=1), 1.0, mean, n, mean, n, np.full(5, 0.09))
        assert (needed(value, live) == 0.0) == told
    assert 100 < needed(value, live) < 1000


def test_the_stopping_statistic_is_a_likelihood_ratio() -> None:
    """Against the maximised log-likelihoods themselves."""
    chance = np.random.default_rng(5)
    for _ in range(50):
        n = np.floor(chance.uniform(5, 500, 4))
        s = np.floor(n * chance.uniform(0.1, 0.9, 4))
        means = s / n
        top = int(np.argmax(means))

        def best(s: float, n: float) -> float:
            p = s / n
            return s * math.log(p) + (n - s) * math.log(1 - p) if 0 < p < 1 else 0.0

        ratios = [
            best(s[top], n[top]) + best(s[k], n[k]) - best(s[top] + s[k], n[top] + n[k])
            for k in range(4)
            if k != top
        ]
        assert evidence(BERNOULLI, means, n, 1.0) == pytest.approx(min(ratios), rel=1e-8, abs=1e-9)
    assert evidence(GAUSSIAN, np.array([1.0, 2.0]), np.array([8.0, 8.0]), 4.0) == pytest.approx(0.5)
    assert threshold(100.0, 0.1) == pytest.approx(math.log((1 + math.log(100)) / 0.1))

"""Regret in published setups, seeded, by a compiled loop around the shipped kernels; the bands are the design's.

PAIR (Garivier & Cappe 2011, scenario 1): Bernoulli (0.9, 0.8), 5,000 requests. Over 10^4 runs of another
implementation, one at a time: Thompson 9.2, KL-UCB 13.2, KL-UCB+ 9.2, UCB1 64.4, UCB1-tuned 15.9. CANARY: five arms,
100,000 requests in batches of 1,000 and 5,000: Thompson 194 and 210, top-two 405 and 415, fluid KL-UCB 304 and 308,
KL-UCB frozen at its arg max for a batch 341 and 496, UCB1 frozen 789, equal shares 1,300.
"""

from __future__ import annotations

import numpy as np
import pytest

from bandit.allocators import ALLOCATORS
from bandit.allocators.base import Problem, Utility, rank
from bandit.kernels.best_arm import BETA, STUDENT_T, best_arm, compare
from bandit.kernels.fluid import ucb_weights
from bandit.kernels.indices import KL, KL_PLUS, UCB1, UCB1_TUNED, UCB_V, gap_at
from bandit.kernels.jit import kernel
from bandit.kernels.mixing import top_two
from bandit.ledger import FloatArray
from bandit.posteriors.gaussian import Gaussian
from bandit.reading import MetricSums, Sums
from bandit.spec.model import Metric

CANARY = np.array([0.10, 0.11, 0.105, 0.09, 0.08])
PAIR = np.array([0.9, 0.8])
THOMPSON, TOP_TWO, FROZEN = 10, 11, 12
CODES = {
    "thompson": THOMPSON, "top_two": TOP_TWO, "kl_ucb": KL, "kl_ucb_plus": KL_PLUS, "ucb1": UCB1,
    "ucb_v": UCB_V, "ucb1_tuned": UCB1_TUNED,
}  # fmt: skip


@kernel
def decide(rule: int, n: FloatArray, s: FloatArray, batch: float, w: FloatArray) -> None:
    """Shares from counts and successes, by the kernels alone."""
    arms = n.size
    params, mean, variance = np.empty((arms, 2)), np.empty(arms), np.empty(arms)
    for k in range(arms):
        params[k, 0], params[k, 1] = 1.0 + s[k], 1.0 + n[k] - s[k]
        mean[k] = params[k, 0] / (n[k] + 2.0)
        variance[k] = mean[k] * (1.0 - mean[k])
    if rule == FROZEN:
        best, top, t = 0, -1.0, max(n.sum(), np.e)
        for k in range(arms):
            index = mean[k] + gap_at(KL, mean[k], variance[k], max(n[k], 1.0), t)
            if index > top:
                best, top = k, index
        w[:] = 0.0
        w[best] = 1.0
    elif rule < THOMPSON:
        ucb_weights(rule, mean, variance, n, n, batch, w)
    else:
        p, loss = np.empty(arms), np.empty(arms)
        compare(BETA, params, np.ones(arms), False, p, loss)
        w[:] = p
        if rule == TOP_TWO:
            top_two(p, 0.5, w)


@kernel
def regrets(
    rule: int, rates: FloatArray, requests: int, batch: int, runs: int, chance: np.random.Generator
) -> FloatArray:
    """[runs] sums over requests of what the best arm pays more."""
    arms, out = rates.size, np.zeros(runs)
    n, s, w = np.zeros(arms), np.zeros(arms), np.empty(arms)
    for run in range(runs):
        n[:] = 0.0
        s[:] = 0.0
        for _ in range(requests // batch):
            decide(rule, n, s, float(batch), w)
            left, rest = batch, 1.0
            for k in range(arms):
                served = left
                if k < arms - 1:
                    part = min(max(w[k] / rest, 0.0), 1.0) if rest > 1e-15 else 0.0
                    served = chance.binomial(left, part)
                rest -= w[k]
                left -= served
                n[k] += served
                s[k] += chance.binomial(served, rates[k])
        out[run] = (n * (rates.max() - rates)).sum()
    return out


def mean_regret(rule: int, rates: FloatArray, requests: int, batch: int, runs: int) -> float:
    return float(regrets(rule, rates, requests, batch, runs, np.random.default_rng(1)).mean())


@pytest.mark.parametrize("name", list(CODES))
def test_the_loop_runs_what_is_shipped(name: str) -> None:
    """Its shares are those of the registry, for the beliefs that a stationary bernoulli metric gives."""
    chance = np.random.default_rng(2)
    for _ in range(50):
        n = np.floor(10 ** chance.uniform(0, 5, 5))
        s = np.floor(n * CANARY)
        params = np.stack([1 + s, 1 + n - s], axis=1)
        mean = params[:, 0] / params.sum(axis=1)
        value = Utility(BETA, params, 1.0, mean, mean, mean, n, mean * (1 - mean))
        live, w = np.ones(5, np.bool_), np.empty(5)
        decide(CODES[name], n, s, 300.0, w)
        shipped = ALLOCATORS[name].weights(Problem(value, n, live, 300.0), rank(value, live)[0])
        assert w == pytest.approx(shipped, rel=0, abs=1e-12)


@pytest.mark.slow
def test_thompson_on_five_arms() -> None:
    assert 175 <= mean_regret(THOMPSON, CANARY, 100_000, 1000, 300) <= 215


@pytest.mark.slow
def test_top_two_on_five_arms() -> None:
    assert 385 <= mean_regret(TOP_TWO, CANARY, 100_000, 1000, 300) <= 425


@pytest.mark.slow
def test_fluid_kl_ucb_on_five_arms() -> None:
    """Less than when the arg max is frozen for a batch, and no cliff with larger batches."""
    fluid = mean_regret(KL, CANARY, 100_000, 1000, 300)
    assert 285 <= fluid <= 325
    assert fluid <= 0.95 * mean_regret(FROZEN, CANARY, 100_000, 1000, 300)
    large = mean_regret(KL, CANARY, 100_000, 5000, 300)
    assert large <= 1.1 * fluid
    assert large <= 0.75 * mean_regret(FROZEN, CANARY, 100_000, 5000, 300)


def test_thompson_on_the_published_pair() -> None:
    assert 7.5 <= mean_regret(THOMPSON, PAIR, 5000, 10, 500) <= 11.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [
        (KL, 10.5, 14.5),
        (UCB1, 60.0, 69.0),
        (KL_PLUS, 8.0, 10.5),
        (UCB1_TUNED, 13.5, 18.0),
        (UCB_V, 54.0, 63.0),
    ],
)
def test_poured_one_by_one_on_the_published_pair(rule: int, low: float, high: float) -> None:
    """A batch of one request is the sequential index, but where two indices are closer than one pull moves them.

    KL-UCB on posterior means, Beta(1, 1), as shipped: 12.0 +- 0.3 poured and 11.6 +- 0.2 by its arg max; on the mean of
    the values alone, as published, 12.3 +- 0.5 and 13.2. UCB-V has zeta = 1.2: 58.5 +- 0.2, where the published 51.0 is
    that of zeta = 1 (50.7 +- 0.2).
    """
    assert low <= mean_regret(rule, PAIR, 5000, 1, 300) <= high


@pytest.mark.parametrize("declared", [(-200.0, 800.0), (-1000.0, 60_000.0)])
def test_a_loose_range_costs_no_regret(declared: tuple[float, float]) -> None:
    """Latencies about 300 +- 100 in a range of 1,000 or of 61,000: well below the 1,500 of equal shares in both."""
    metric = Metric.model_validate(
        {"name": "m", "kind": "gaussian", "direction": "maximize", "range": declared}
    )
    low, high = declared
    means = np.array([300.0, 310.0, 295.0, 305.0])
    lost = []
    for seed in range(8):
        chance = np.random.default_rng(seed)
        n, s1, s2 = np.zeros(4), np.zeros(4), np.zeros(4)
        for _ in range(40):
            params = Gaussian().parameters(metric, MetricSums(Sums(n, s1, s2)))
            served = chance.multinomial(500, best_arm(STUDENT_T, params).p)
            for arm, count in enumerate(served):
                x = (chance.normal(means[arm], 100.0, count) - low) / (high - low)
                s1[arm] += x.sum()
                s2[arm] += x @ x
            n += served
        lost.append(float(n @ (means.max() - means)) / 100)
    assert np.mean(lost) <= 400

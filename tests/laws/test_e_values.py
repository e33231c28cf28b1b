"""The one law that all error bounds rest on: under the null an e-value has mean at most 1, summed exactly."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from bandit.guardrails import harm
from bandit.guardrails.base import Pair
from bandit.guardrails.evidence import Outcomes
from bandit.guardrails.rate_limit import STRENGTHS
from bandit.kernels.confseq import log_mean_exp, log_overlap_e, log_rate_above, log_rate_below
from bandit.ledger import FloatArray
from bandit.spec.model import Guardrail

NEARLY_ONE = 1 + 1e-9


def sums(
    n1: int, n0: int, bad1: FloatArray, bad0: FloatArray, margin: float, centre: float, value: float = 1.0
) -> FloatArray:
    """[E, USED] of one period for each pair of counts; bad outcomes have badness ``value``, the others none."""
    rows = len(bad1)
    outcomes = Outcomes(
        number=np.arange(rows),
        share=np.full((rows, 2), 0.5),
        centre=np.full(rows, centre),
        mature=np.ones(rows, np.bool_),
        n=np.tile([float(n0), float(n1)], (rows, 1)),
        bad=np.stack([bad0, bad1], axis=1) * value,
        square=np.stack([bad0, bad1], axis=1) * value * value,
        arrived=np.tile([float(n0), float(n1)], (rows, 1)),
        silent=None,
    )
    return harm.steps(Guardrail(name="g", kind="harm", metric="unsafe", margin=margin), outcomes, Pair(1, 0))


def parts(row: FloatArray) -> dict[str, float]:
    """e-values of harm and of safety, and of their halves alone."""
    values = dict(zip(("harm", "safe"), map(math.exp, harm.log_e(row)), strict=True))
    for name, total, odds in (("harm", harm.TOTAL, harm.ODDS), ("safe", harm.TOTAL_SAFE, harm.ODDS_SAFE)):
        for index, rho in enumerate(harm.RHOS):
            log_e = log_overlap_e(float(row[total]), float(row[total + 1]), rho, harm.LEAST)
            values[f"{name} overlap {index}"] = math.exp(log_e)
        values[f"{name} odds"] = math.exp(log_mean_exp(row[odds]))
    return values


@pytest.mark.parametrize(("n1", "n0"), [(1, 1), (1, 9), (9, 1), (12, 12), (3, 25)])
@pytest.mark.parametrize("margin", [1.0, 1.3, 5.0])
@pytest.mark.parametrize("value", [1.0, 0.4])
def test_harm_of_one_period(n1: int, n0: int, margin: float, value: float) -> None:
    bad1, bad0 = (each.ravel().astype(float) for each in np.meshgrid(np.arange(n1 + 1), np.arange(n0 + 1)))
    for rate, centre in product((0.02, 0.19), (0.0, 0.02, 0.3, 1.0)):
        chance = stats.binom.pmf(bad1, n1, rate * margin) * stats.binom.pmf(bad0, n0, rate)
        means: dict[str, float] = {}
        for weight, row in zip(chance, sums(n1, n0, bad1, bad0, margin, centre, value), strict=True):
            for name, e in parts(row).items():
                means[name] = means.get(name, 0.0) + weight * e
        assert max(means.values()) <= NEARLY_ONE, (means, rate, centre)


def test_harm_of_two_periods_with_another_share_baseline_and_centre() -> None:
    first, second = (4, 9), (7, 3)
    grids = [np.meshgrid(np.arange(n1 + 1), np.arange(n0 + 1)) for n1, n0 in (first, second)]
    rows, chances = [], []
    for (n1, n0), (bad1, bad0), rate, centre in zip(
        (first, second), grids, (0.1, 0.4), (0.05, 0.2), strict=True
    ):
        flat1, flat0 = bad1.ravel().astype(float), bad0.ravel().astype(float)
        rows.append(sums(n1, n0, flat1, flat0, 1.0, centre))
        chances.append(stats.binom.pmf(flat1, n1, rate) * stats.binom.pmf(flat0, n0, rate))
    mean = sum(
        p * q * math.exp(harm.log_e(left + right)[0])
        for p, left in zip(chances[0], rows[0], strict=True)
        for q, right in zip(chances[1], rows[1], strict=True)
    )
    assert 0.5 < mean <= NEARLY_ONE


@pytest.mark.parametrize("n", [1, 2, 10, 60, 400])
@pytest.mark.parametrize("limit", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_rate_at_the_limit(n: int, limit: float) -> None:
    log_chance = stats.binom.logpmf(np.arange(n + 1), n, limit)
    for log_e in (log_rate_above, log_rate_below):
        for strengths in (STRENGTHS[:1], STRENGTHS):
            mean = math.fsum(
                math.exp(log_p + log_e(float(s), float(n), limit, strengths))
                for s, log_p in enumerate(log_chance)
            )
            # A mixture of likelihood ratios at the very limit: exactly 1.
            assert mean == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("n", [5, 60])
def test_rate_that_keeps_the_limit_and_moves(n: int) -> None:
    rates = np.linspace(0.001, 0.01, n)
    chance = np.array([1.0])
    for rate in rates:
        chance = np.convolve(chance, [1 - rate, rate])
    mean = sum(
        p * math.exp(log_rate_above(float(s), float(n), 0.01, STRENGTHS)) for s, p in enumerate(chance)
    )
    assert mean <= NEARLY_ONE

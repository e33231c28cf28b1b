"""The one law that all error bounds rest on: under the null an e-value has mean at most 1, summed exactly."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from bandit.kernels import overlap
from bandit.kernels.confseq import (
    log_count_above,
    log_count_below,
    log_mean_exp,
    log_overlap_e,
    log_rate_above,
    log_rate_below,
)
from bandit.kernels.overlap import ODDS, ODDS_SAFE, SCORES, TOTAL, TOTAL_SAFE
from bandit.kernels.signals import TILTS, add_tilts, tilts_log_e
from bandit.kernels.weigh import EVENT_STRENGTHS, STRENGTHS
from bandit.ledger import FloatArray

NEARLY_ONE = 1 + 1e-9


def sums(
    n1: int, n0: int, bad1: FloatArray, bad0: FloatArray, margin: float, centre: float, value: float = 1.0
) -> FloatArray:
    """[E, SCORES] of one period for each pair of counts; bad outcomes have badness ``value``, the others none."""
    rows = np.zeros((len(bad1), SCORES))
    for row, x1, x0 in zip(rows, bad1 * value, bad0 * value, strict=True):
        overlap.add_scores(row, float(n1), x1, x1 * value, float(n0), x0, x0 * value, centre, margin)
    return rows


def parts(row: FloatArray) -> dict[str, float]:
    """e-values of harm and of safety, and of their halves alone."""
    values = dict(zip(("harm", "safe"), map(math.exp, overlap.scores_log_e(row)), strict=True))
    for name, total, odds in (
        ("harm", TOTAL, slice(ODDS, ODDS_SAFE)),
        ("safe", TOTAL_SAFE, slice(ODDS_SAFE, SCORES)),
    ):
        for index, rho in enumerate(overlap.RHOS):
            log_e = log_overlap_e(float(row[total]), float(row[total + 1]), rho, overlap.LEAST)
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
        p * q * math.exp(overlap.scores_log_e(left + right)[0])
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


@pytest.mark.parametrize("expected", [0.01, 1.0, 30.0])
def test_events_at_the_limit(expected: float) -> None:
    # A mixture of likelihood ratios at the very limit: exactly 1, far counts included.
    counts = np.arange(int(300 * expected) + 80)
    log_chance = stats.poisson.logpmf(counts, expected)
    for log_e in (log_count_above, log_count_below):
        for strengths in (EVENT_STRENGTHS[:1], EVENT_STRENGTHS):
            mean = math.fsum(
                math.exp(log_p + log_e(float(s), expected, strengths))
                for s, log_p in zip(counts, log_chance, strict=True)
            )
            assert mean == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("n", [3, 40])
def test_counts_that_spread_less_than_poisson_are_bounded_too(n: int) -> None:
    # Sums of 0s and 1s, as cut counts are; and rates below the limit.
    counts = np.arange(n + 1)
    for rate in (0.05, 0.3):
        chance = stats.binom.pmf(counts, n, rate)
        for limit in (rate, 1.5 * rate):
            mean = sum(
                p * math.exp(log_count_above(float(s), n * limit, EVENT_STRENGTHS))
                for s, p in zip(counts, chance, strict=True)
            )
            assert mean <= NEARLY_ONE


def test_traffic_that_follows_shares_that_move() -> None:
    first, second = (12, 0.1), (9, 0.6)
    mean = 0.0
    for k1 in range(first[0] + 1):
        for k2 in range(second[0] + 1):
            tilts = np.zeros(TILTS.size)
            add_tilts(tilts, float(k1), float(first[0]), first[1])
            add_tilts(tilts, float(k2), float(second[0]), second[1])
            mean += (
                stats.binom.pmf(k1, *first) * stats.binom.pmf(k2, *second) * math.exp(tilts_log_e(tilts)[0])
            )
    assert mean == pytest.approx(1.0, abs=1e-9)

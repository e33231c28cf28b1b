"""Slow twins: the same e-processes by special functions and by adaptive quadrature, at random parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special, stats

from bandit.kernels.confseq import (
    log_binomial_tails,
    log_normal_e,
    log_overlap_e,
    log_rate_above,
    log_rate_below,
    rarest_run,
)


def log_integral(
    exponent: Callable[[float], float], low: float, high: float, peak: float, scale: float
) -> float:
    """ln of the integral of exp(exponent) over [low, high] by adaptive quadrature around the peak."""
    top = exponent(peak)
    edges = sorted(
        {low, high, *(min(max(peak + step * scale, low), high) for step in (-40, -9, -3, 0, 3, 9, 40))}
    )
    parts = [
        integrate.quad(lambda x: math.exp(exponent(x) - top), a, b, epsabs=0, epsrel=1e-12, limit=400)[0]
        for a, b in pairwise(edges)
    ]
    return top + math.log(math.fsum(parts))


def log_beta_above(a: float, b: float, p: float) -> float:
    """ln of the incomplete beta integral over [p, 1] in logit coordinates."""
    low, peak = math.log(p / (1 - p)), math.log(a / b)
    scale = math.sqrt((a + b) / (a * b))
    far = max(low, peak) + 60 * scale + 60 / b
    return log_integral(
        lambda z: a * z - (a + b) * float(np.logaddexp(0.0, z)), low, far, max(low, peak), scale
    )


def slow_rate_e(bad: float, n: float, p: float, k: float) -> float:
    """ln E against a rate of at most p, straight from its definition."""
    a, b = k * p, k * (1 - p)
    prior, posterior = log_beta_above(a, b, p), log_beta_above(a + bad, b + n - bad, p)
    return posterior - prior - bad * math.log(p) - (n - bad) * math.log1p(-p)


def test_rate_mixture_equals_quadrature() -> None:
    rng = np.random.default_rng(11)
    for _ in range(60):
        n = int(10 ** rng.uniform(0, 4))
        p = float(rng.choice([0.001, 0.01, 0.1, 0.5, 0.9]))
        bad = int(rng.binomial(n, min(1.0, p * rng.choice([0.3, 1.0, 1.5, 3.0]))))
        k = float(rng.choice([10.0, 100.0, 1000.0]))
        above = log_rate_above(float(bad), float(n), p, np.array([k]))
        below = log_rate_below(float(bad), float(n), p, np.array([k]))
        assert above == pytest.approx(slow_rate_e(bad, n, p, k), abs=1e-8, rel=1e-9), (bad, n, p, k)
        # The mirror: good outcomes against a rate of good ones of at most 1 - p.
        assert below == pytest.approx(slow_rate_e(n - bad, n, 1 - p, k), abs=1e-8, rel=1e-9), (bad, n, p, k)


def test_rate_mixture_equals_the_incomplete_beta_function() -> None:
    rng = np.random.default_rng(12)
    for _ in range(100):
        n, p, k = int(rng.integers(1, 300)), float(rng.uniform(0.02, 0.98)), 20.0
        bad = int(rng.binomial(n, p))
        a, b = k * p, k * (1 - p)
        twin = (
            special.betaln(a + bad, b + n - bad)
            + math.log(special.betaincc(a + bad, b + n - bad, p))
            - special.betaln(a, b)
            - math.log(special.betaincc(a, b, p))
            - bad * math.log(p)
            - (n - bad) * math.log1p(-p)
        )
        assert log_rate_above(float(bad), float(n), p, np.array([k])) == pytest.approx(twin, abs=1e-9)


def test_overlap_mixture_equals_the_incomplete_gamma_function() -> None:
    rng = np.random.default_rng(13)
    for _ in range(200):
        c, rho = float(rng.uniform(0.1, 1)), float(10 ** rng.uniform(-1, 1.5))
        v = float(10 ** rng.uniform(-1, 2))
        total = float(rng.normal() * 2 * math.sqrt(v + rho))
        r, t, x = rho / c**2, (v + rho) / c**2, (c * total + v + rho) / c**2
        if x <= 0 or special.gammainc(t, x) < 1e-200:
            continue
        twin = (
            r * math.log(r)
            - special.gammaln(r)
            - math.log(special.gammainc(r, r))
            + special.gammaln(t)
            + math.log(special.gammainc(t, x))
            - t * math.log(x)
            + (c * total + v) / c**2
        )
        assert log_overlap_e(total, v, rho, c) == pytest.approx(twin, abs=1e-7), (total, v, rho, c)


def test_overlap_mixture_equals_quadrature_where_the_gamma_formula_has_no_value() -> None:
    # E = int exp(lambda S - psi(lambda) V) dF(lambda); y = 1 - c lambda has density y^(r-1) exp(-r y) on (0, 1].
    def log_mass(power: float, slope: float) -> float:
        scale = 1 / (abs(power - slope) + math.sqrt(abs(slope)) + 1)
        return log_integral(
            lambda z: -power * z - slope * math.expm1(-z),
            0.0,
            60.0 + 60 / power,
            max(math.log(slope / power), 0.0) if slope > 0 else 0.0,
            scale,
        )

    for total, v, rho, c in (
        (-50.0, 3.0, 2.0, 0.5),
        (-200.0, 100.0, 5.0, 1.0),
        (40.0, 2.0, 0.5, 0.2),
        (-1e-3, 1.0, 0.1, 0.1),
    ):
        r, t, x = rho / c**2, (v + rho) / c**2, (c * total + v + rho) / c**2
        twin = log_mass(t, x) - log_mass(r, r)
        assert log_overlap_e(total, v, rho, c) == pytest.approx(twin, abs=1e-8), (total, v, rho, c)


def test_normal_mixture_equals_the_log_normal_distribution_function() -> None:
    for total in (-1e4, -300.0, -31.0, -29.0, -1.0, 0.0, 2.0, 40.0):
        v, rho = 5.0, 3.0
        z = total / math.sqrt(v + rho)
        twin = 0.5 * math.log(rho / (v + rho)) + z * z / 2 + math.log(2) + float(special.log_ndtr(z))
        assert log_normal_e(total, v, rho) == pytest.approx(twin, abs=1e-8)


def test_binomial_tails_equal_the_sums_of_terms() -> None:
    for n in (1, 7, 50, 200, 3000):
        for p in (1e-4, 0.01, 0.3, 0.9):
            logs = stats.binom.logpmf(np.arange(n + 1), n, p)
            for count in np.unique(np.linspace(1, n, 9).astype(int)):
                above, below = log_binomial_tails(float(count), float(n), p)
                assert above == pytest.approx(float(special.logsumexp(logs[count:])), abs=1e-9, rel=1e-9)
                assert below == pytest.approx(float(special.logsumexp(logs[:count])), abs=1e-9, rel=1e-9)


def slow_rarest(n: list[int], bad: list[int], runs: list[int], limit: float) -> tuple[float, float, float]:
    """Every run written out."""
    newest = next((end for end in range(1, len(n) + 1) if sum(n[:end]) >= runs[-1]), len(n))
    best = (0.0, float(sum(n[:newest])), float(sum(bad[:newest])))
    for start in range(len(n)):
        ends = {
            next((end for end in range(start + 1, len(n) + 1) if sum(n[start:end]) >= run), None)
            for run in runs
        }
        for stop in sorted(len(n) if end is None else end for end in ends if end is not None or start == 0):
            total, total_bad = sum(n[start:stop]), sum(bad[start:stop])
            if total_bad > total * limit:
                tail = float(stats.binom.logsf(total_bad - 1, total, limit))
                if tail < best[0] - 1e-12:
                    best = (tail, float(total), float(total_bad))
    return best


def test_the_rarest_run_equals_a_search_of_all_runs() -> None:
    rng = np.random.default_rng(14)
    for _ in range(200):
        size = int(rng.integers(1, 9))
        n = [int(x) for x in rng.integers(0, 90, size)]
        bad = [int(x) for x in rng.binomial(n, rng.choice([0.005, 0.05, 0.5]))]
        fast = rarest_run(np.array(n, float), np.array(bad, float), np.array([50.0, 100.0, 200.0]), 0.02)
        slow = slow_rarest(n, bad, [50, 100, 200], 0.02)
        assert fast == pytest.approx(slow, abs=1e-8), (n, bad)

"""Slow twins of the allocation kernels: plain Python and scipy, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from scipy import integrate, stats


QUANTILES = (
    1e-12,
    1e-9,
    1e-6,
    1e-4,
    1e-3,
    0.01,
    0.1,
    0.3,
    0.5,
    0.7,
    0.9,
    0.99,
    0.999,
    1 - 1e-4,
    1 - 1e-6,
    1 - 1e-9,
    1 - 1e-12,
)


def p_best(distributions: Sequence[stats.rv_continuous]) -> list[float]:
    """int f_k prod F_i by adaptive quadrature, one arm after the other, cut at every arm's quantiles."""
    cuts = sorted({float(d.ppf(q)) for d in distributions for q in QUANTILES})
    out = []
    for k, arm in enumerate(distributions):

        def integrand(x: float, k: int = k, arm: stats.rv_continuous = arm) -> float:
            value = float(arm.pdf(x))
            for i, other in enumerate(distributions):
                if i != k:
                    value *= float(other.cdf(x))
            return value

        out.append(
            sum(
                integrate.quad(integrand, low, high, epsabs=1e-10, epsrel=1e-8, limit=200)[0]
                for low, high in pairwise(cuts)
            )
        )
    return out


def kl(p: float, q: float) -> float:
    """Bernoulli divergence."""
    if q in (0.0, 1.0):
        return 0.0 if p == q else math.inf
    out = 0.0
    if p > 0:
        out += p * math.log(p / q)
    if p < 1:
        out += (1 - p) * math.log((1 - p) / (1 - q))
    return out


def kl_ucb(mean: float, n: float, level: float) -> float:
    """Bisection on the definition."""
    return _root(lambda q: n * kl(mean, q) - level, mean, 1.0)


def fluid(means: Sequence[float], pulls: Sequence[float], level: float, batch: float) -> list[float]:
    """Bisection on the common index."""

    def poured(c: float) -> list[float]:
        return [
            max(level / kl(m, c) - n, 0.0) if c > m and kl(m, c) > 0 else math.inf
            for m, n in zip(means, pulls, strict=True)
        ]

    level_c = _root(lambda c: batch - sum(poured(c)), max(means), 1.0)
    shares = poured(level_c)
    return [share / sum(shares) for share in shares]


def project(p: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[float]:
    """Bisection on nu in w = clip(nu p, low, high)."""

    def clipped(nu: float) -> list[float]:
        return [min(max(nu * a, lo), hi) for a, lo, hi in zip(p, low, high, strict=True)]

    smallest = min(a for a in p if a > 0)
    nu = _root(lambda nu: sum(clipped(nu)) - 1.0, 0.0, 2.0 / smallest)
    return clipped(nu)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(200):
        middle = 0.5 * (low + high)
        if rising(middle) > 0:
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)

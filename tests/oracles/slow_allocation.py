"""Slow twins of the allocation kernels: plain Python and scipy, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
QUANTILES = np.array([1e-14, 1e-12, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
_X, _W = np.polynomial.legendre.leggauss(40)


def p_best(distributions: Sequence[stats.rv_continuous]) -> list[float]:
    """int_0^1 prod_{i != k} F_i(F_k^-1(u)) du: over the arm's own quantiles u the integrand is bounded, whatever the
    densities do; cut at the quantiles of every arm. The upper half runs over 1 - u, to keep its digits."""

    def half(k: int, place: Callable[[Array], Array], back: Callable[[Array], Array]) -> float:
        def chance(u: Array) -> Array:
            return _product(_without(distributions, k), back(u))

        return _integral(chance, 1e-15, 0.5, _cuts(distributions, place))

    return [half(k, arm.cdf, arm.ppf) + half(k, arm.sf, arm.isf) for k, arm in enumerate(distributions)]


def expected_loss(distributions: Sequence[stats.rv_continuous]) -> list[float]:
    """int F_k (1 - prod_{i != k} F_i) dx, cut at the quantiles of every arm."""
    cuts = _cuts(distributions, np.asarray)

    def loss(k: int) -> float:
        def lost(x: Array) -> Array:
            return _product([distributions[k]], x) * (1.0 - _product(_without(distributions, k), x))

        return _integral(lost, cuts[0], cuts[-1], cuts)

    return [loss(k) for k in range(len(distributions))]


def within(distributions: Sequence[stats.rv_continuous], margin: float) -> list[float]:
    """int f_k(x) prod_{j != k} F_j(x + margin) dx, cut at the quantiles of the arm and of the others moved down."""

    def chance(k: int) -> float:
        arm = distributions[k]
        moved = [_cuts([each], np.asarray) - margin for each in _without(distributions, k)]
        cuts = np.unique(np.concatenate([_cuts([arm], np.asarray), *moved]))

        def density(x: Array) -> Array:
            out: Array = arm.pdf(x) * _product(_without(distributions, k), x + margin)
            return out

        return _integral(density, float(arm.ppf(1e-14)), float(arm.isf(1e-14)), cuts)

    return [chance(k) for k in range(len(distributions))]


def _without(distributions: Sequence[stats.rv_continuous], k: int) -> list[stats.rv_continuous]:
    return [each for i, each in enumerate(distributions) if i != k]


def _product(distributions: Sequence[stats.rv_continuous], x: Array) -> Array:
    out: Array = np.prod([each.cdf(x) for each in distributions], axis=0)
    return out


def _cuts(distributions: Sequence[stats.rv_continuous], place: Callable[[Array], Array]) -> Array:
    each = [np.concatenate([d.ppf(QUANTILES), d.isf(QUANTILES)]) for d in distributions]
    cuts: Array = np.unique(place(np.concatenate(each)))
    return cuts


def _integral(function: Callable[[Array], Array], low: float, high: float, cuts: Array) -> float:
    """Gauss-Legendre of 40 nodes on quarters of what lies between cuts."""
    edges = np.concatenate([[low], cuts[(cuts > low) & (cuts < high)], [high]])
    fine = np.concatenate([np.linspace(a, b, 4, endpoint=False) for a, b in pairwise(edges)] + [[high]])
    half, middle = np.diff(fine) / 2, (fine[1:] + fine[:-1]) / 2
    values = function((middle[:, None] + half[:, None] * _X).ravel()).reshape(-1, _X.size)
    return float((values @ _W) @ half)


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


def count(rule: str, mean: float, variance: float, index: float, t: float) -> float:
    """Bisection on n: the count at which the index of an arm has come down to ``index``."""
    level, gap = math.log(t), index - mean

    def short(n: float) -> float:
        if rule == "ucb1":
            return gap - math.sqrt(2 * level / n)
        if rule == "ucb_v":
            return gap - math.sqrt(2 * variance * 1.2 * level / n) - 3.6 * level / n
        if rule == "ucb1_tuned":
            return gap - math.sqrt(level / n * min(0.25, variance + math.sqrt(2 * level / n)))
        return n * kl(mean, index) - (level if rule == "kl" else max(math.log(t / n), 0.0))

    return _root(short, 1e-9, 1e15)


def fluid(
    rule: str,
    means: Sequence[float],
    variances: Sequence[float] | None,
    pulls: Sequence[float],
    t: float,
    batch: float,
) -> list[float]:
    """Bisection on the common index."""
    spread = variances or [m * (1 - m) for m in means]

    def poured(c: float) -> list[float]:
        return [
            max(count(rule, m, v, c, t) - n, 0.0) if c > m else math.inf
            for m, v, n in zip(means, spread, pulls, strict=True)
        ]

    level_c = _root(lambda c: batch - sum(poured(c)), max(means), 1.0 if rule.startswith("kl") else 50.0)
    shares = poured(level_c)
    return [share / sum(shares) for share in shares]


def normal_upper(tail: float) -> float:
    """z above which a standard normal is with chance ``tail``."""
    return float(stats.norm.isf(tail))


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

"""Kullback-Leibler divergences kl(m, m + gap) and the gap that has a given one; for KL-UCB indices and stopping rules.

    family       kl(m, m + g), nats                                means
    Bernoulli    m D(g / m) + (1 - m) D(-g / (1 - m))              [0, 1]; valid for any value in [0, 1]
    Gaussian     g^2 / (2 v)                                       any; v > 0 is the variance of one value
    Poisson      m D(g / m)                                        >= 0
    exponential  D(-g / (m + g))                                   > 0

with D(x) = x - ln(1 + x) >= 0. Everything is a function of the gap and not of m + g, so that no digit is lost where
an index lies within 1e-6 of its mean (Garivier & Cappe 2011; Cappe et al. 2013).
"""

from __future__ import annotations

import math

from bandit.kernels.jit import kernel

BROAD = 0.1
"""Beyond it x - ln(1 + x) has lost less than two digits."""
CLOSEST = 1.0 - 2.0**-52


@kernel
def excess(x: float) -> float:
    """D(x) = x - ln(1 + x) for x > -1, to full relative accuracy.

    Near 0 by ln(1 + x) = 2 artanh(r), r = x / (2 + x): D = x^2 / (2 + x) - 2 (r^3 / 3 + r^5 / 5 + ...).
    """
    if abs(x) > BROAD:
        return x - math.log1p(x)
    r = x / (2.0 + x)
    square = r * r
    tail = 0.0
    for i in range(8, 0, -1):
        tail = square * (1.0 / (2 * i + 1) + tail)
    return x * x / (2.0 + x) - 2.0 * r * tail


@kernel
def bernoulli(mean: float, gap: float) -> float:
    """kl(mean, mean + gap); ``mean`` in [0, 1], 0 <= mean + gap <= 1; inf where a value becomes impossible."""
    out = 0.0
    if mean > 0.0:
        if mean + gap <= 0.0:
            return math.inf
        out += mean * excess(gap / mean)
    else:
        out -= gap
    if mean < 1.0:
        if gap >= 1.0 - mean:
            return math.inf
        if mean <= 0.0:
            return -math.log1p(-gap)
        return out + (1.0 - mean) * excess(-gap / (1.0 - mean))
    return -math.log1p(gap)


@kernel
def bernoulli_gap(mean: float, budget: float) -> float:
    """The gap >= 0 at which ``bernoulli`` is ``budget``, at most (1 - mean)(1 - 2^-52).

    Newton on a convex function from above the root, where Pinsker's and Bernstein's inequalities put it, inside a
    shrinking bracket.
    """
    room = 1.0 - mean
    if room <= 0.0 or budget <= 0.0:
        return 0.0
    if mean <= 0.0:
        return min(-math.expm1(-budget), CLOSEST)
    low, high = 0.0, room * CLOSEST
    if bernoulli(mean, high) <= budget:
        return high
    third = budget / 3.0
    gap = min(math.sqrt(0.5 * budget), third + math.sqrt(third * third + 2.0 * mean * room * budget))
    if gap >= high:
        gap = 0.5 * high
    for _ in range(200):
        over = bernoulli(mean, gap) - budget
        if over > 0.0:
            high = gap
        else:
            low = gap
        after = gap - over * (mean + gap) * (room - gap) / gap
        if not low < after < high:
            after = 0.5 * (low + high)
        if abs(after - gap) <= 4e-16 * after or not low < after < high:
            return after
        gap = after
    return gap


@kernel
def gaussian_gap(variance: float, budget: float) -> float:
    """sqrt(2 variance budget)."""
    return math.sqrt(2.0 * variance * max(budget, 0.0))


@kernel
def poisson(mean: float, gap: float) -> float:
    """kl(mean, mean + gap); mean >= 0, mean + gap > 0."""
    return mean * excess(gap / mean) if mean > 0.0 else gap


@kernel
def poisson_gap(mean: float, budget: float) -> float:
    """The gap >= 0 at which ``poisson`` is ``budget``; Newton from Bernstein's bound, which is above the root."""
    if budget <= 0.0:
        return 0.0
    if mean <= 0.0:
        return budget
    third = budget / 3.0
    gap = third + math.sqrt(third * third + 2.0 * mean * budget)
    for _ in range(100):
        after = gap - (mean * excess(gap / mean) - budget) * (mean + gap) / gap
        if not after > 0.0 or abs(after - gap) <= 4e-16 * gap:
            return gap
        gap = after
    return gap


@kernel
def exponential(mean: float, gap: float) -> float:
    """kl(mean, mean + gap) of exponential waiting times; mean > 0, mean + gap > 0."""
    if gap > mean:
        return math.log1p(gap / mean) - gap / (mean + gap)
    return excess(-gap / (mean + gap))


@kernel
def exponential_gap(mean: float, budget: float) -> float:
    """The gap >= 0 at which ``exponential`` is ``budget``; Newton in v = ln(1 + gap / mean).

    There kl = v - 1 + exp(-v) >= v^2 / (2 + v), which gives a start above the root.
    """
    if budget <= 0.0 or mean <= 0.0:
        return 0.0
    v = 0.5 * (budget + math.sqrt(budget * budget + 8.0 * budget))
    for _ in range(100):
        fall = -math.expm1(-v)
        after = v - ((v - fall if v > 1.0 else excess(-fall)) - budget) / fall
        if not after > 0.0 or abs(after - v) <= 4e-16 * v:
            break
        v = after
    return mean * math.expm1(v)


def warm() -> None:
    """Compile for the types that the learner uses."""
    bernoulli_gap(0.5, 0.1)

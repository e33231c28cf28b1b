"""How many requests tell the best arm: characteristic time, best proportions, a stopping rule; it allocates nothing.

With one-parameter arms of means m, b the best, and for a < b the cost of telling a from b at proportion x = w_a / w_b

    g_a(x) = kl(m_b, m_x) + x kl(m_a, m_x),   m_x = (m_b + x m_a) / (1 + x)

    1 / T* = max_w min_a w_b g_a(w_a / w_b);  at the best proportions all g_a are one y, x_a = g_a^-1(y), and y solves
    sum_a kl(m_b, m_{x_a}) / kl(m_a, m_{x_a}) = 1                    (Garivier & Kaufmann 2016, thm. 5)

so both are monotone roots, one in the other. Any rule that is right with probability 1 - delta needs about
T* ln(1 / delta) requests on average; Lai and Robbins (1985) bound what a bandit must lose: c ln t with
c = sum_a (m_b - m_a) / kl(m_a, m_b). Divergences: BERNOULLI for anything in [0, 1], else GAUSSIAN with a variance of
one value for all arms.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.divergence import bernoulli
from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

BERNOULLI, GAUSSIAN = range(2)


@kernel
def _kl(kind: int, variance: float, mean: float, gap: float) -> float:
    return bernoulli(mean, gap) if kind == BERNOULLI else gap * gap / (2.0 * variance)


@kernel
def _cost(kind: int, variance: float, best: float, mean: float, x: float) -> float:
    """g_a(x), rising in x from 0 to kl(m_b, m_a)."""
    gap = best - mean
    first = _kl(kind, variance, best, -gap * x / (1.0 + x))
    return first + x * _kl(kind, variance, mean, gap / (1.0 + x))


@kernel
def _proportion(kind: int, variance: float, best: float, mean: float, y: float) -> float:
    """x of g_a(x) = y, for 0 < y < kl(m_b, m_a); bisection on ln x."""
    low, high = -80.0, 80.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if _cost(kind, variance, best, mean, math.exp(middle)) > y:
            high = middle
        else:
            low = middle
    return math.exp(0.5 * (low + high))


@kernel
def _balance(kind: int, means: FloatArray, variance: float, top: int, y: float) -> float:
    """sum_a kl(m_b, m_x) / kl(m_a, m_x) at the common cost y, rising in y; 1 at the best proportions."""
    total = 0.0
    for k in range(means.size):
        if k != top:
            x = _proportion(kind, variance, means[top], means[k], y)
            gap = means[top] - means[k]
            first = _kl(kind, variance, means[top], -gap * x / (1.0 + x))
            total += first / _kl(kind, variance, means[k], gap / (1.0 + x))
    return total


@kernel
def characteristic_time(kind: int, means: FloatArray, variance: float, w: FloatArray) -> float:
    """T* for ``means`` [K] (higher is better), the best proportions into ``w`` [K]; inf where two arms are the best.

    ``kind`` BERNOULLI with means in [0, 1], or GAUSSIAN with ``variance`` > 0. One arm: 0.
    """
    arms, top = means.size, 0
    for k in range(arms):
        w[k] = 1.0 / arms
        top = k if means[k] > means[top] else top
    if arms == 1:
        return 0.0
    best, most = means[top], math.inf
    for k in range(arms):
        if k != top:
            if not means[k] < best:
                return math.inf
            most = min(most, _kl(kind, variance, best, means[k] - best))
    low, high = 0.0, min(most, 1e12)
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if _balance(kind, means, variance, top, middle) > 1.0:
            high = middle
        else:
            low = middle
    y = 0.5 * (low + high)
    total = 1.0
    for k in range(arms):
        if k != top:
            w[k] = _proportion(kind, variance, best, means[k], y)
            total += w[k]
    w[top] = 1.0
    for k in range(arms):
        w[k] /= total
    return total / y if y > 0.0 else math.inf


@kernel
def evidence(kind: int, means: FloatArray, counts: FloatArray, variance: float) -> float:
    """The generalised likelihood ratio in nats, min_a n_b kl(m_b, m_ab) + n_a kl(m_a, m_ab), m_ab the mean of both.

    For ``counts`` [K] >= 0 of means [K]. It stops with at most delta of error where it exceeds ``threshold``
    (Garivier & Kaufmann 2016, eq. 7). One arm: inf.
    """
    top, out = 0, math.inf
    for k in range(means.size):
        top = k if means[k] > means[top] else top
    for k in range(means.size):
        if k != top:
            both = counts[top] + counts[k]
            gap = means[top] - means[k]
            if not both > 0.0:
                return 0.0
            each = counts[top] * _kl(kind, variance, means[top], -gap * counts[k] / both)
            each += counts[k] * _kl(kind, variance, means[k], gap * counts[top] / both)
            out = min(out, each)
    return out


@kernel
def threshold(t: float, delta: float) -> float:
    """ln((1 + ln t) / delta) after ``t`` >= 1 requests, ``delta`` in (0, 1): stylised, tight in practice (ibid., 6)."""
    return math.log((1.0 + math.log(max(t, 1.0))) / delta)


@kernel
def lai_robbins(kind: int, means: FloatArray, variance: float) -> float:
    """c of the least regret c ln t for ``means`` [K]; 0 when all are equal."""
    best, out = means[0], 0.0
    for k in range(means.size):
        best = max(best, means[k])
    for k in range(means.size):
        if means[k] < best:
            out += (best - means[k]) / _kl(kind, variance, means[k], best - means[k])
    return out


def warm() -> None:
    """Compile for the types that the learner uses."""
    means = np.array([0.5, 0.4])
    characteristic_time(BERNOULLI, means, 1.0, np.empty(2))
    evidence(BERNOULLI, means, 10.0 * means, 1.0)
    threshold(10.0, 0.1)

"""KL-UCB: the index of an arm, and the shares of a batch in which every served arm has the same index."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

HIGHEST = 1.0 - 1e-15


@kernel
def bernoulli_kl(p: float, q: float) -> float:
    """kl(p, q) = p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)), nats; p, q in [0, 1]; inf where q excludes p."""
    if p == q:
        return 0.0
    if q <= 0.0 or q >= 1.0:
        return math.inf
    out = 0.0
    if p > 0.0:
        out += p * math.log(p / q)
    if p < 1.0:
        out += (1.0 - p) * math.log1p((q - p) / (1.0 - q))
    return max(out, 0.0)


@kernel
def kl_ucb_index(mean: float, n: float, level: float) -> float:
    """max{q : n kl(mean, q) <= level} (Garivier & Cappe 2011, eq. 3), for means of anything in [0, 1].

    ``n`` > 0 observations, ``level`` = ln t + c ln ln t >= 0. Newton from the Gaussian bound, kept inside a
    shrinking bracket; stops at a step below 1e-13.
    """
    if mean >= 1.0:
        return 1.0
    budget = level / n
    if budget <= 0.0:
        return mean
    if mean <= 0.0:
        return -math.expm1(-budget)
    low, high = mean, HIGHEST
    if bernoulli_kl(mean, high) <= budget:
        return 1.0
    q = min(mean + math.sqrt(0.5 * budget), 0.5 * (mean + 1.0))
    for _ in range(200):
        excess = bernoulli_kl(mean, q) - budget
        if excess > 0.0:
            high = q
        else:
            low = q
        slope = (q - mean) / (q * (1.0 - q))
        step = q - excess / slope if slope > 0.0 else low
        if not low < step < high:
            step = 0.5 * (low + high)
        if abs(step - q) < 1e-13 * max(q, 1e-3):
            return step
        q = step
    return q


@kernel
def _pulls_at(mean: float, level: float, c: float) -> float:
    """N(c): pulls at which the index of an arm, its mean held, has come down to c."""
    distance = bernoulli_kl(mean, c) if c > mean else 0.0
    return level / distance if distance > 0.0 else math.inf


@kernel
def fluid_weights(mean: FloatArray, pulls: FloatArray, level: float, batch: float, w: FloatArray) -> float:
    """Shares [K] of the next ``batch`` > 0 requests under KL-UCB, means held, into ``w``; returns the common index c.

    c solves sum_k max(0, N_k(c) - pulls_k) = batch with N_k(c) = level / kl(mean_k, c) (cf. Desautels et al. 2014,
    hallucinated updates). ``mean`` in [0, 1]; ``pulls`` >= 0 counts requests assigned, rewarded or not, so that an
    arm whose rewards are late is not piled upon; ``level`` = ln t > 0. As batch -> 0 this is the arg max of the
    index, shared equally among equals; there is no cliff in between.
    """
    arms = mean.size
    low, high = mean.max(), 1.0
    for _ in range(200):
        c = 0.5 * (low + high)
        if c <= low or c >= high:
            break
        total = 0.0
        for k in range(arms):
            total += max(_pulls_at(mean[k], level, c) - pulls[k], 0.0)
        if total > batch:
            low = c
        else:
            high = c
    total = 0.0
    for k in range(arms):
        need = _pulls_at(mean[k], level, high) - pulls[k]
        w[k] = max(need, 0.0) if need < math.inf else 0.0
        total += w[k]
    if not total > 0.5 * batch:
        # No index below 1 uses the batch up (a mean of 1), or it is below rounding: share among the highest.
        highest = -1.0
        for k in range(arms):
            w[k] = kl_ucb_index(mean[k], max(pulls[k], 1.0), level)
            highest = max(highest, w[k])
        for k in range(arms):
            w[k] = 1.0 if w[k] >= highest - 1e-12 else 0.0
        total = w.sum()
    w /= total
    return high


def warm() -> None:
    """Compile for the types that the learner uses."""
    one = np.ones(2)
    kl_ucb_index(0.5, 10.0, 3.0)
    fluid_weights(0.5 * one, 10.0 * one, 3.0, 5.0, np.empty(2))

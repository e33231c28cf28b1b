"""KL-UCB for means of anything in [0, 1]: the index of an arm, and the batch that raises all to one index (fluid).

An index says how good an arm may still be; serving its arg max for a batch is left to nobody.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

TOP = 1.0 - 2.0**-52
"""Greatest index below 1."""


@kernel
def bernoulli_kl(p: float, q: float) -> float:
    """kl(p, q) = p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)) in nats; p in [0, 1], q in (0, 1).

    Near p it is (q - p)^2 / (2 p (1 - p)): both logarithms are taken of 1 + something, so that half of the digits
    survive there.
    """
    gap = q - p
    out = 0.0
    if p > 0.0:
        out -= p * math.log1p(gap / p)
    if p < 1.0:
        out -= (1.0 - p) * math.log1p(-gap / (1.0 - p))
    return max(out, 0.0)


@kernel
def kl_ucb_index(mean: float, n: float, level: float) -> float:
    """max{q : n kl(mean, q) <= level} (Garivier & Cappe 2011, eq. 3; Cappe et al. 2013).

    ``mean`` in [0, 1], ``n`` > 0 observations, ``level`` = ln t + c ln ln t >= 0. Newton from mean + sqrt(level / 2n),
    which Pinsker's inequality puts at or above the root of a convex function, inside a shrinking bracket.
    """
    budget = level / n
    if mean >= 1.0 or budget <= 0.0:
        return mean
    if mean <= 0.0:
        return -math.expm1(-budget)
    low, high = mean, TOP
    if bernoulli_kl(mean, high) <= budget:
        return high
    q = min(mean + math.sqrt(0.5 * budget), 0.5 * (mean + high))
    for _ in range(200):
        excess = bernoulli_kl(mean, q) - budget
        if excess > 0.0:
            high = q
        else:
            low = q
        after = q - excess * q * (1.0 - q) / (q - mean)
        if not low < after < high:
            after = 0.5 * (low + high)
        if abs(after - q) <= 1e-14 * after or not low < after < high:
            return after
        q = after
    return q


@kernel
def _wanted(mean: FloatArray, pulls: FloatArray, level: float, index: float, w: FloatArray) -> float:
    """Pulls that each arm, its mean held, can take until its index is down to ``index``, into ``w``; their sum."""
    total = 0.0
    for k in range(mean.size):
        distance = bernoulli_kl(mean[k], index) if index > mean[k] else 0.0
        w[k] = max(level / distance - pulls[k], 0.0) if distance > 0.0 else math.inf
        total += w[k]
    return total


@kernel
def fluid_weights(mean: FloatArray, pulls: FloatArray, level: float, batch: float, w: FloatArray) -> float:
    """Shares [K] of the next ``batch`` > 0 pulls under KL-UCB, means held, into ``w``; returns the common index c.

    c solves sum_k max(0, N_k(c) - pulls_k) = batch with N_k(c) = level / kl(mean_k, c), the count at which the index
    of arm k is c (cf. Desautels et al. 2014, hallucinated updates). ``mean`` [K] in [0, 1], ``pulls`` [K] >= 0 with
    those not yet rewarded, so that an arm whose rewards are late is not piled upon; ``level`` = ln t > 0. As the batch
    shrinks this becomes the arg max of the index; equal arms stay equal all the way.
    """
    low, high = 0.0, TOP
    for k in range(mean.size):
        low = max(low, min(mean[k], TOP))
    for _ in range(100):
        index = 0.5 * (low + high)
        if not low < index < high:
            break
        if _wanted(mean, pulls, level, index, w) > batch:
            low = index
        else:
            high = index
    # At `high` the arms want at most the batch, at `low` more; whichever is nearer is within rounding of it.
    index = high
    total = _wanted(mean, pulls, level, index, w)
    if not total > 0.5 * batch and low < high:
        index = low
        total = _wanted(mean, pulls, level, index, w)
    if not 0.0 < total < math.inf:
        total = 0.0
        for k in range(mean.size):
            w[k] = kl_ucb_index(mean[k], max(pulls[k], 1.0), level)
            index = max(index, w[k]) if k > 0 else w[k]
        for k in range(mean.size):
            w[k] = 1.0 if w[k] == index else 0.0
            total += w[k]
    for k in range(mean.size):
        w[k] /= total
    return index


def warm() -> None:
    """Compile for the types that the learner uses."""
    half = np.array([0.5, 0.5])
    fluid_weights(half, 10.0 * half, 3.0, 5.0, np.empty(2))

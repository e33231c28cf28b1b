"""Optimistic rules as weights: the next batch is poured over the arms until all that are served share one index.

    sum_k max(0, N_k(c) - n_k) = batch,   w_k = max(0, N_k(c) - n_k) / batch

N_k(c) is the count at which the index of arm k, its mean held, has come down to c (cf. Desautels, Krause & Burdick
2014, hallucinated updates). As the batch shrinks this becomes the arg max of the index, and it is continuous all the
way; an arg max frozen for a batch would give one arm everything, without propensities for the others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.indices import KL, KL_PLUS, count_at, gap_at
from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

TOP = 1.0 - 2.0**-30
"""Means above count as this under the KL rules: at 1 itself they leave no room for optimism."""
FEWEST = 1e-12


@kernel
def counted(observed: FloatArray, pulls: FloatArray, counts: FloatArray) -> tuple[float, float]:
    """What each arm has had into ``counts`` [K]; returns the requests so far and the part that brings a reward.

    ``observed`` [K] rewards, ``pulls`` [K] requests, rewarded or not. Requests without a reward count too, so that an
    arm whose rewards are late is not piled upon; but as less than one where only a part of all requests ever brings a
    reward: each as that part.
    """
    total, seen = 0.0, 0.0
    for k in range(observed.size):
        total += max(pulls[k], observed[k])
        seen += observed[k]
    answered = seen / total if seen > 0.0 else 1.0
    for k in range(observed.size):
        counts[k] = max(observed[k], answered * pulls[k])
    return total, answered


@kernel
def ucb_weights(
    rule: int,
    mean: FloatArray,
    variance: FloatArray,
    observed: FloatArray,
    pulls: FloatArray,
    batch: float,
    w: FloatArray,
) -> float:
    """Shares [K] of the next ``batch`` requests under a rule of ``indices`` into ``w``; returns the common index.

    ``mean`` [K] in [0, 1], ``variance`` [K] of one value in [0, 1/4], ``observed`` and ``pulls`` as in ``counted``.
    KL_PLUS takes t at the end of the batch, so that its counts, which never exceed t, can take it.
    """
    counts = np.empty(mean.size)
    total, answered = counted(observed, pulls, counts)
    batch = max(batch, 1.0) * answered
    t = max(total, math.e)
    if rule == KL_PLUS:
        t = max(t, counts.sum() + batch)
    return pour(rule, mean, variance, counts, t, batch, w)


@kernel
def pour(
    rule: int,
    mean: FloatArray,
    variance: FloatArray,
    counts: FloatArray,
    t: float,
    batch: float,
    w: FloatArray,
) -> float:
    """``ucb_weights`` for known ``counts`` [K] >= 0, ``t`` > 1 and ``batch`` > 0; returns the common index.

    Bisection on how far the index lies above the highest mean, between where some arm alone would take the whole
    batch, and where no arm takes more than its even part.
    """
    arms = mean.size
    best = 0.0
    for k in range(arms):
        best = max(best, _held(rule, mean[k]))
    low, high = 0.0, 0.0
    for k in range(arms):
        m, below = _held(rule, mean[k]), best - _held(rule, mean[k])
        low = max(low, gap_at(rule, m, variance[k], max(counts[k] + batch, FEWEST), t) - below)
        high = max(high, gap_at(rule, m, variance[k], max(counts[k] + batch / arms, FEWEST), t) - below)
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        if _wanted(rule, mean, variance, counts, t, best, middle, w) > batch:
            low = middle
        else:
            high = middle
    total = _wanted(rule, mean, variance, counts, t, best, high, w) if high > 0.0 else 0.0
    if not 0.5 * batch < total < math.inf and low > 0.0:  # the batch is below the rounding of the counts
        total = _wanted(rule, mean, variance, counts, t, best, low, w)
    if not 0.0 < total < math.inf:
        total = _highest(rule, mean, variance, counts, t, best, w)
    for k in range(arms):
        w[k] /= total
    return best + high


@kernel
def _held(rule: int, mean: float) -> float:
    mean = min(max(mean, 0.0), 1.0)
    return min(mean, TOP) if rule in (KL, KL_PLUS) else mean


@kernel
def _wanted(
    rule: int,
    mean: FloatArray,
    variance: FloatArray,
    counts: FloatArray,
    t: float,
    best: float,
    above: float,
    w: FloatArray,
) -> float:
    """Pulls that each arm can take until its index is ``above`` > 0 over the ``best`` mean, into ``w``; their sum."""
    total = 0.0
    for k in range(mean.size):
        m = _held(rule, mean[k])
        w[k] = max(count_at(rule, m, variance[k], above + (best - m), t) - counts[k], 0.0)
        total += w[k]
    return total


@kernel
def _highest(
    rule: int,
    mean: FloatArray,
    variance: FloatArray,
    counts: FloatArray,
    t: float,
    best: float,
    w: FloatArray,
) -> float:
    """1 for each arm of the highest index, 0 for the others, into ``w``; returns how many."""
    top = -math.inf
    for k in range(mean.size):
        m = _held(rule, mean[k])
        w[k] = gap_at(rule, m, variance[k], max(counts[k], FEWEST), t) - (best - m)
        top = max(top, w[k])
    total = 0.0
    for k in range(mean.size):
        w[k] = 1.0 if w[k] >= top else 0.0
        total += w[k]
    return total


def warm() -> None:
    """Compile for the types that the learner uses."""
    half = np.array([0.5, 0.5])
    ucb_weights(KL, half, 0.5 * half, 10.0 * half, 10.0 * half, 5.0, np.empty(2))

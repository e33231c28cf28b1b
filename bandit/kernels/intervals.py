"""Half-widths of anytime-valid intervals as functions of sums alone; it keeps no state and chooses no estimate.

Exact: the least sum at which the mean of gamma-exponential mixtures reaches a level (``confseq.log_overlap_e``), by
bisection with secant steps. Asymptotic: the two-sided normal mixture in closed form.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import lambertw

from bandit.kernels.confseq import log_mean_exp, log_overlap_e
from bandit.kernels.jit import kernel
from bandit.ledger import FloatArray

CLOSE = 1e-10
STEPS = 200


@kernel
def log_better_e(total: float, variance: float, rhos: FloatArray, c: float) -> float:
    """ln of the mean over ``rhos`` [I] of the mixtures of ``log_overlap_e``: evidence that a sum of terms, each at
    least -``c``, has means above 0. ``total`` S is the sum, ``variance`` V the sum of squares. Costs at most ln I."""
    values = np.empty(rhos.size)
    for i in range(rhos.size):
        values[i] = log_overlap_e(total, variance, rhos[i], c)
    return log_mean_exp(values)


@kernel
def overlap_bound(variance: float, level: float, rhos: FloatArray, c: float) -> float:
    """The least u > 0 with ``log_better_e(u, V)`` >= ``level`` (ln 1/alpha, above 0).

    P(S - sum of means >= u(V) ever) <= exp(-level) for terms that are at least -c, whatever their means do: for
    x >= -c, exp(l x - psi(l) x^2) <= 1 + l x, and 1 + l E[x] <= exp(l E[x]) (Fan, Grama & Liu 2015; Howard et al.
    2021, proposition 9).
    """
    low, high = 0.0, math.sqrt(2.0 * max(variance, 0.0) * level) + c * level + 1e-9
    below = log_better_e(low, variance, rhos, c) - level
    if below >= 0.0:
        return 0.0
    above = log_better_e(high, variance, rhos, c) - level
    for _ in range(STEPS):
        if above >= 0.0:
            break
        low, below = high, above
        high *= 2.0
        above = log_better_e(high, variance, rhos, c) - level
    # Illinois: a secant step; the end that stays twice counts half, so that both move.
    side = 0
    for _ in range(STEPS):
        if high - low <= CLOSE * high:
            break
        at = (low * above - high * below) / (above - below)
        if not low < at < high:
            at = 0.5 * (low + high)
        found = log_better_e(at, variance, rhos, c) - level
        if abs(found) < CLOSE:
            return at
        if found < 0.0:
            low, below = at, found
            if side < 0:
                above *= 0.5
            side = -1
        else:
            high, above = at, found
            if side > 0:
                below *= 0.5
            side = 1
    return high


@kernel
def normal_bound(variance: float, level: float, rho: float) -> float:
    """u = sqrt((V + rho) (2 level + ln((V + rho) / rho))): a sum of Gaussian-like terms of variance V leaves [-u, u]
    ever with chance exp(-level) (Robbins 1970; for estimated variances in the limit: Waudby-Smith et al. 2024).
    """
    spread = max(variance, 0.0) + rho
    return math.sqrt(spread * (2.0 * level + math.log(spread / rho)))


def two_sided_rho(alpha: float, n: float) -> float:
    """The r = 1/rho, per unit of variance of one term, that makes ``normal_bound`` least after ``n`` terms:
    (-W_{-1}(-alpha^2 / e) - 1) / n (Waudby-Smith et al. 2024, appendix B.2). ``alpha`` in (0, 1)."""
    return float((-lambertw(-alpha * alpha / math.e, -1).real - 1.0) / n)


def warm() -> None:
    """Compile for the types that reports use."""
    ones = np.ones(1)
    overlap_bound(1.0, 3.0, ones, 1.0)
    normal_bound(1.0, 3.0, 1.0)

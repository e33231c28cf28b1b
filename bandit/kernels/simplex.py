"""The nearest weights inside boxes, in the sense of Kullback-Leibler; odds between arms off their bounds stay.

It rounds nothing and never scales after clamping, which would break a floor or a cap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

LEAST = 1e-9
"""A smaller probability counts as this: what a cap takes from the best then goes to hopeless arms alike, not by the
rounding that is left of their chances."""
SLACK = 1e-12
"""Rounding that the sums of bounds may be off by."""


@kernel
def project_kl(p: FloatArray, low: FloatArray, high: FloatArray, w: FloatArray) -> bool:
    """argmin KL(w || p) over low <= w <= high, sum w = 1, into ``w`` [K]; False when there is none.

    The solution is w_k = clip(nu p_k, low_k, high_k) (Warmuth & Kuzmin 2008, sec. 3). Its sum is piecewise linear in
    nu with 2K corners low_k / p_k and high_k / p_k: the piece is found among the sorted corners, nu on it by one
    division, so the result is exact but for rounding; bounds hold exactly, the sum within 1e-15 K. ``p`` [K] sums to 1
    and is raised to LEAST. There is no solution when the lows add up to more than 1 or the highs to less: then ``w``
    are those.
    """
    arms = p.size
    q, corners = np.empty(arms), np.empty(2 * arms)
    least, most = 0.0, 0.0
    for k in range(arms):
        q[k] = max(p[k], LEAST)
        corners[2 * k], corners[2 * k + 1] = low[k] / q[k], high[k] / q[k]
        least += low[k]
        most += high[k]
    if least >= 1.0 or most <= 1.0:
        for k in range(arms):
            w[k] = low[k] if least >= 1.0 else high[k]
        return least <= 1.0 + SLACK and most >= 1.0 - SLACK
    _sort(corners)
    first, last = 0, corners.size - 1  # the sum is less than 1 at the first corner, more than 1 at the last
    while last - first > 1:
        middle = (first + last) // 2
        if _clipped_sum(corners[middle], q, low, high) <= 1.0:
            first = middle
        else:
            last = middle
    start, end = corners[first], corners[last]
    bound, free = 0.0, 0.0
    for k in range(arms):
        if low[k] / q[k] <= start and high[k] / q[k] >= end:
            free += q[k]
        else:
            bound += min(max(start * q[k], low[k]), high[k])
    nu = min(max((1.0 - bound) / free, start), end) if free > 0.0 else start
    for k in range(arms):
        w[k] = min(max(nu * q[k], low[k]), high[k])
    return True


@kernel
def _sort(values: FloatArray) -> None:
    """Insertion, for a handful of values: numpy's sort takes 2 s to compile."""
    for i in range(1, values.size):
        value = values[i]
        j = i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value


@kernel
def _clipped_sum(nu: float, p: FloatArray, low: FloatArray, high: FloatArray) -> float:
    total = 0.0
    for k in range(p.size):
        total += min(max(nu * p[k], low[k]), high[k])
    return total


def warm() -> None:
    """Compile for the types that the learner uses."""
    half = np.array([0.5, 0.5])
    project_kl(half, np.zeros(2), np.ones(2), np.empty(2))

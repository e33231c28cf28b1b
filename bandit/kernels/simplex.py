"""The nearest weights inside boxes, in the sense of Kullback-Leibler; odds between unclamped arms stay as they were."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

SMOOTHING = 1e-9
"""Share of the uniform distribution mixed in first: an arm of probability 0 can then still meet its floor."""


@kernel
def project_kl(p: FloatArray, low: FloatArray, high: FloatArray, w: FloatArray) -> None:
    """argmin KL(w || p) over low <= w <= high, sum w = 1, into ``w`` [K].

    The solution is w_k = clip(nu p_k, low_k, high_k) (Warmuth & Kuzmin 2008, sec. 3); nu is found exactly from the
    sorted 2K points where an arm meets a bound. ``p`` sums to 1, sum low <= 1 <= sum high (the caller sees to it).
    ``p`` is smoothed by ``SMOOTHING`` unless it lies inside the boxes already. Bounds hold exactly, also after
    rounding: what the sum lacks of 1 goes to an unclamped arm, or to one with room.
    """
    arms = p.size
    inside = True
    for k in range(arms):
        if not low[k] <= p[k] <= high[k]:
            inside = False
    if inside:
        w[:] = p
        _settle(w, low, high)
        return
    q = (1.0 - SMOOTHING) * p + SMOOTHING / arms
    points = np.empty(2 * arms)
    for k in range(arms):
        points[k] = low[k] / q[k]
        points[arms + k] = high[k] / q[k]
    points = np.sort(points)
    first, last = 0, points.size - 1
    while first < last:  # the greatest point whose clipped sum is at most 1
        middle = (first + last + 1) // 2
        total = 0.0
        for k in range(arms):
            total += min(max(points[middle] * q[k], low[k]), high[k])
        if total <= 1.0:
            first = middle
        else:
            last = middle - 1
    nu = points[first]
    fixed, free = 0.0, 0.0
    for k in range(arms):
        # Between this point and the next, an arm is free when it is past its floor and short of its cap.
        if low[k] / q[k] <= nu < high[k] / q[k]:
            free += q[k]
        else:
            fixed += low[k] if low[k] / q[k] > nu else high[k]
    if free > 0.0:
        nu = (1.0 - fixed) / free
    for k in range(arms):
        w[k] = min(max(nu * q[k], low[k]), high[k])
    _settle(w, low, high)


@kernel
def _settle(w: FloatArray, low: FloatArray, high: FloatArray) -> None:
    """Give the rounding error of the sum to arms that have room for it."""
    for _ in range(4):
        lack = 1.0 - w.sum()
        if lack == 0.0:
            return
        for k in range(w.size):
            moved = min(max(w[k] + lack, low[k]), high[k])
            lack -= moved - w[k]
            w[k] = moved
            if lack == 0.0:
                break


def warm() -> None:
    """Compile for the types that the learner uses."""
    half = np.array([0.5, 0.5])
    project_kl(half, np.zeros(2), np.ones(2), np.empty(2))

"""How many requests are still needed to tell the best arm: for status and reports, never for shares."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.allocators.base import Utility
from bandit.kernels.track_and_stop import BERNOULLI, GAUSSIAN, characteristic_time
from bandit.ledger import FloatArray


def characteristic(means: FloatArray, variance: float | None = None) -> tuple[float, FloatArray]:
    """(T*, proportions [K]) for ``means`` [K], higher better; in [0, 1], or of any size with the ``variance`` of one
    value. T* is inf while two arms are equally good."""
    means, w = np.ascontiguousarray(means, np.float64), np.empty(len(means))
    kind = BERNOULLI if variance is None else GAUSSIAN
    return characteristic_time(kind, means, 1.0 if variance is None else max(variance, 1e-300), w), w


def samples_needed(
    means: FloatArray, delta: float, counts: FloatArray | None = None, variance: float | None = None
) -> float:
    """About how many more requests, on the best proportions, until the best arm is told with probability 1 - ``delta``.

    T* ln(1 / delta) of Garivier & Kaufmann (2016), less what ``counts`` [K] have shown: an arm with n_k of its
    w_k T* ln(1 / delta) needs the rest, so requests that went elsewhere do not help. ``delta`` in (0, 1). It takes the
    means for true, so it is an order of magnitude and no promise; inf while two arms are equally good.
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(
            f"delta {delta:g} is not a chance of error; write one between 0 and 1, for example 0.05"
        )
    time, w = characteristic(means, variance)
    if not math.isfinite(time):
        return math.inf
    wanted = w * time * math.log(1.0 / delta)
    return float(np.maximum(wanted - (0.0 if counts is None else counts), 0.0).sum())


def needed(utility: Utility, live: NDArray[np.bool_], delta: float = 0.05) -> float:
    """``samples_needed`` for the live arms of a utility, with the variance that one request's utility shows."""
    alive = np.flatnonzero(live)
    seen = utility.observations[alive]
    weight = np.maximum(seen, 1.0)
    variance = float(weight @ utility.variance[alive] / weight.sum())
    return samples_needed(utility.unit_mean[alive], delta, seen, max(variance, 1e-12))

"""Mean of a log-normal metric: normal-inverse-gamma on ln x, and the log of the mean matched by a normal.

ln E[x] = mu + s^2 / 2 has mean m + b / (2 (a - 1)) and variance b / ((a - 1) k) + b^2 / (4 (a - 1)^2 (a - 2)), since mu
and s^2 are uncorrelated; so the arm's mean is log-normal (Cox's method, in Zhou and Gao 1997). Arms are compared by
means, not medians: with one s^2 both orders agree, and where s^2 differs it is the mean that is paid for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.kernels.best_arm import LOGNORMAL
from bandit.ledger import FloatArray
from bandit.posteriors.arms import LEAST_SD, PositiveMeans
from bandit.posteriors.base import MIDDLE, Stated, pooled_mean
from bandit.posteriors.gaussian import LEAST_VARIANCE, nig_state, squares
from bandit.reading import MetricSums, Sums
from bandit.spec.channels import log_scale
from bandit.spec.model import Metric, Prior

STRENGTH = 1.0
"""Without a prior an arm is believed to be like all arms together, as if one value had said so."""
A0 = 3.0
"""The variance of ln x is believed as if 2 A0 values had said so: the least at which the mean has a variance."""
SD_GUESS = 1.0
"""Sd of ln x before any value: the largest of forty is then some ten times the middle one."""
NEAR_TOP = 0.1
"""A belief of the log of the mean that reaches the top of the range keeps this variance."""


class Lognormal(PositiveMeans):
    """Parameters (mean and sd of the log of the arm's mean, sign, shift) [K, 4], scaled."""

    family = LOGNORMAL

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        low, high = metric.scale
        mean, variance = log_mean(metric, sums, priors)
        mean, variance = within(mean - np.log(high - low), variance, high / (high - low))
        ones = np.ones(mean.size)
        return np.stack([mean, np.sqrt(variance), ones, -low / (high - low) * ones], axis=1)


def within(mean: FloatArray, variance: FloatArray, top: float) -> tuple[FloatArray, FloatArray]:
    """Moments of the log of a mean, kept so that the mean itself is not believed above the top of the range.

    After few values of a wide s^2 the matched normal has a mean of thousands of ranges, which no arm can have.
    """
    mean = np.minimum(mean, np.log(top))
    room = np.maximum(2.0 * (np.log(top) - mean), NEAR_TOP)
    return mean, np.maximum(np.minimum(variance, room), LEAST_SD**2)


def log_mean(
    metric: Metric, sums: MetricSums, priors: Sequence[Prior | None], *, stated: bool = True
) -> tuple[FloatArray, FloatArray]:
    """(mean, variance) [K] of ln E[x] of the positive values, x in the metric's own unit.

    A prior's mean is that of x, not of ln x: m0 is set so that an arm without values has just this mean. ``stated``
    False leaves the priors out.
    """
    bottom, top = log_scale(metric)
    n, mean, spread = unscaled(sums.log or sums.value, bottom, top)
    said = Stated(metric, priors if stated else [None] * n.size, n.size)
    k0 = said.strength_or(STRENGTH)
    freedom = float(np.maximum(n - 1.0, 0.0).sum())
    variance = (SD_GUESS**2 + float(spread.sum())) / (1.0 + freedom)
    a0 = A0 + np.where(said.given, 0.5 * said.strength, 0.0)
    b0 = a0 * variance
    unknown = np.zeros(n.size)
    expected, sure = log_moments(unknown, k0, a0, b0)
    low, high = metric.scale
    wanted = np.log(np.maximum(low + (high - low) * said.mean, LEAST_SD * (high - low)))
    at = pooled_mean(n, n * mean) if n.any() else np.log(low + MIDDLE * (high - low)) - 0.5 * variance
    m0 = np.where(said.given, wanted - expected - 0.5 * sure, at)
    m, k, a, b = nig_state(n, n * mean, spread, m0, k0, a0, b0)
    return log_moments(m, k, a, np.maximum(b, LEAST_VARIANCE * a))


def log_moments(m: FloatArray, k: FloatArray, a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(mean, variance) of mu + s^2 / 2 under a normal-inverse-gamma (m, k, a, b), a > 2."""
    return m + 0.5 * b / (a - 1.0), b / ((a - 1.0) * k) + (0.5 * b / (a - 1.0)) ** 2 / (a - 2.0)


def unscaled(sums: Sums, bottom: float, top: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(n, mean, sum of squares around it) [K] of ln x from the sums of a LOG channel."""
    n, s1, s2 = sums
    mean = np.divide(s1, n, out=np.full_like(s1, MIDDLE), where=n > 0.0)
    return n, bottom + (top - bottom) * mean, (top - bottom) ** 2 * squares(n, s1, s2)

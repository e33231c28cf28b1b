"""Mean of a real metric with unknown variance: normal-inverse-gamma, so Student's t for the mean.

k = k0 + n, m = (k0 m0 + s1) / k, a = a0 + n / 2, b = b0 + SSE / 2 + k0 n (xbar - m0)^2 / (2 k); the mean is
t with 2a degrees of freedom around m, scale sqrt(b / (a k)) (Murphy 2007, eq. 86-95; DeGroot 1970, 9.6).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.kernels.best_arm import STUDENT_T
from bandit.kernels.quantile import quantiles
from bandit.ledger import ONE, FloatArray
from bandit.posteriors.base import beliefs
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior

MIDDLE = 0.5
STRENGTH = 0.1
"""Without a prior the mean is believed near that of all arms, as if a tenth of a reward had said so."""
A0 = 2.0
"""The variance is believed as if 2 A0 rewards had said so. At least 1, else two equal rewards would look like
certainty; at 2 the mean of an arm without rewards has a variance."""
SD_GUESS = 0.25
"""Sd of one reward as a part of the declared range before any: between a bell inside it (0.17) and a coin (0.5)."""
LEAST_VARIANCE = 1.0 / (12.0 * ONE * ONE)
"""What rounding to 2**-30 of the range does to any reward."""
LEAST_DF = 3.0


class Gaussian:
    """Parameters (location, scale, degrees of freedom) [K, 3].

    The prior's strength is k0 and its mean m0. The prior variance is what all arms show together, with SD_GUESS as one
    reward more: a declared range is often far wider than the rewards, and its width alone would slow learning down
    until about (range / sd)^2 rewards.
    """

    family = STUDENT_T

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        n, s1, s2 = sums.value
        total = float(n.sum())
        m0, k0 = beliefs(metric, priors, float(s1.sum()) / total if total > 0.0 else MIDDLE, STRENGTH, n.size)
        spread, freedom = float(squares(n, s1, s2).sum()), float(np.maximum(n - 1.0, 0.0).sum())
        return nig(n, s1, s2, m0, k0, A0, A0 * (SD_GUESS**2 + spread) / (1.0 + freedom))

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Posterior. Below 3 degrees of freedom, where the sd goes to infinity, that of 3 stands in."""
        location, scale, df = params.T
        df = np.maximum(df, LEAST_DF)
        return location, scale * np.sqrt(df / (df - 2.0))

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        low, high = quantiles(self.family, params, (0.5 - 0.5 * level, 0.5 + 0.5 * level)).T
        return low, high

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Posterior."""
        return np.stack([1.0 - params[:, 0], params[:, 1], params[:, 2]], axis=1)


def squares(n: FloatArray, s1: FloatArray, s2: FloatArray) -> FloatArray:
    """[K] sum of squares around each arm's mean, s2 - s1^2 / n, never negative.

    Values lie in [0, 1], so at most 1e-16 n of it is rounding: an sd below 1e-8 of the range is not seen.
    """
    mean = np.divide(s1, n, out=np.zeros_like(s1), where=n > 0.0)
    left: FloatArray = np.where(n > 1.0, np.maximum(s2 - s1 * mean, 0.0), 0.0)
    return left


def nig(
    n: FloatArray,
    s1: FloatArray,
    s2: FloatArray,
    m0: FloatArray | float,
    k0: FloatArray | float,
    a0: float,
    b0: float,
) -> FloatArray:
    """[K, 3] location, scale and degrees of freedom from sums and a normal-inverse-gamma prior; k0, a0, b0 > 0."""
    mean = np.divide(s1, n, out=np.zeros_like(s1) + m0, where=n > 0.0)
    k = k0 + n
    a = a0 + 0.5 * n
    b = b0 + 0.5 * squares(n, s1, s2) + 0.5 * k0 * n * (mean - m0) ** 2 / k
    location = m0 + n / k * (mean - m0)
    return np.stack([location, np.sqrt(np.maximum(b / a, LEAST_VARIANCE) / k), 2.0 * a], axis=1)

"""Mean of a real metric with unknown variance: normal-inverse-gamma, so Student's t for the mean.

k = k0 + n, m = (k0 m0 + s1) / k, a = a0 + n / 2, b = b0 + SSE / 2 + k0 n (xbar - m0)^2 / (2 k); the mean is
t with 2a degrees of freedom around m, scale sqrt(b / (a k)) (Murphy 2007, eq. 86-95; DeGroot 1970, 9.6).
"""

from __future__ import annotations

import numpy as np
from scipy import special

from bandit.kernels.best_arm import STUDENT_T
from bandit.ledger import ONE, FloatArray
from bandit.spec.model import Metric

WEAK_MEAN = 0.5
WEAK_STRENGTH = 0.1
A0 = 1.0
SD_GUESS = 0.25
"""Prior standard deviation of one value as a part of the declared range: between a bell inside it and a coin's 0.5."""
LEAST_VARIANCE = 1.0 / (12.0 * ONE * ONE)
"""What quantising to 2**-30 of the range leaves of any variance."""


class Gaussian:
    """Parameters (location, scale, degrees of freedom) [K, 3].

    Prior: k0 = strength and m0 = mean, a0 = 1, b0 = a0 * 0.25**2 of the range. a0 >= 1 keeps two equal values from
    looking like certainty. Without a prior k0 = 0.1 around the middle of the range.
    """

    family = STUDENT_T

    def parameters(self, metric: Metric, n: FloatArray, s1: FloatArray, s2: FloatArray) -> FloatArray:
        """See Posterior."""
        low, high = metric.range
        m0, k0 = WEAK_MEAN, WEAK_STRENGTH
        if metric.prior is not None:
            m0, k0 = (metric.prior.mean - low) / (high - low), metric.prior.strength
        return nig(n, s1, s2, m0, k0, A0, A0 * SD_GUESS**2)

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Posterior. With 2 degrees of freedom or fewer the variance is infinite: the scale times 3 stands in."""
        location, scale, df = params.T
        spread = np.where(df > 2.0, np.sqrt(df / np.maximum(df - 2.0, 0.25)), 3.0)
        return location, scale * np.minimum(spread, 3.0)

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        location, scale, df = params.T
        reach = scale * special.stdtrit(df, 0.5 * (1.0 + level))
        return location - reach, location + reach

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Posterior."""
        return np.stack([1.0 - params[:, 0], params[:, 1], params[:, 2]], axis=1)


def nig(
    n: FloatArray, s1: FloatArray, s2: FloatArray, m0: float, k0: float, a0: float, b0: float
) -> FloatArray:
    """[K, 3] location, scale and degrees of freedom from sums and a normal-inverse-gamma prior; k0, a0, b0 > 0."""
    count = np.maximum(n, 0.0)
    mean = np.divide(s1, count, out=np.full_like(s1, m0), where=count > 0)
    sse = np.maximum(s2 - s1 * mean, 0.0) * (count > 1)
    k = k0 + count
    a = a0 + 0.5 * count
    b = b0 + 0.5 * sse + 0.5 * k0 * count * (mean - m0) ** 2 / k
    location = m0 + count / k * (mean - m0)
    return np.stack([location, np.sqrt(np.maximum(b / a, LEAST_VARIANCE) / k), 2.0 * a], axis=1)

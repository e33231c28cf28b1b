"""Mean of a real metric with unknown variance: normal-inverse-gamma, so Student's t for the mean.

k = k0 + n, m = (k0 m0 + s1) / k, a = a0 + n / 2, b = b0 + SSE / 2 + k0 n (xbar - m0)^2 / (2 k); the mean is
t with 2a degrees of freedom around m, scale sqrt(b / (a k)) (Murphy 2007, eq. 86-95; DeGroot 1970, 9.6).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.ledger import ONE, FloatArray
from bandit.posteriors.arms import StudentMeans
from bandit.posteriors.base import Stated, pooled_mean
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior

STRENGTH = 0.1
"""Without a prior the mean is believed near that of all arms, as if a tenth of a reward had said so."""
A0 = 2.0
"""The variance is believed as if 2 A0 rewards had said so. At least 1, else two equal rewards would look like
certainty; at 2 the mean of an arm without rewards has a variance."""
SD_GUESS = 0.25
"""Sd of one reward as a part of the declared range before any: between a bell inside it (0.17) and a coin (0.5)."""
LEAST_VARIANCE = 1.0 / (12.0 * ONE * ONE)
"""What rounding to 2**-30 of the range does to any reward."""


class Gaussian(StudentMeans):
    """Parameters (location, scale, degrees of freedom) [K, 3].

    The prior's strength is k0 and its mean m0. The prior variance is what all arms show together, with SD_GUESS as one
    reward more: a declared range is often far wider than the rewards, and its width alone would slow learning down
    until about (range / sd)^2 rewards.
    """

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        n, s1, s2 = sums.value
        said = Stated(metric, priors, n.size)
        m0, k0 = said.mean_or(pooled_mean(n, s1)), said.strength_or(STRENGTH)
        return nig(n, s1, s2, m0, k0, A0, A0 * pooled_variance(n, s1, s2))


def pooled_variance(n: FloatArray, s1: FloatArray, s2: FloatArray, guess: float = SD_GUESS) -> float:
    """Variance of a value around the mean of its arm, all arms together, with ``guess`` (an sd) as one value more."""
    spread, freedom = float(squares(n, s1, s2).sum()), float(np.maximum(n - 1.0, 0.0).sum())
    return (guess * guess + spread) / (1.0 + freedom)


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
    a0: FloatArray | float,
    b0: FloatArray | float,
) -> FloatArray:
    """[K, 3] location, scale and degrees of freedom from sums and a normal-inverse-gamma prior; k0, a0, b0 > 0."""
    m, k, a, b = nig_state(n, s1, squares(n, s1, s2), m0, k0, a0, b0)
    return np.stack([m, np.sqrt(np.maximum(b / a, LEAST_VARIANCE) / k), 2.0 * a], axis=1)


def nig_state(
    n: FloatArray,
    s1: FloatArray,
    spread: FloatArray,
    m0: FloatArray | float,
    k0: FloatArray | float,
    a0: FloatArray | float,
    b0: FloatArray | float,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(m, k, a, b) [K] of the posterior; ``spread`` [K]: sum of squares around each arm's mean."""
    mean = np.divide(s1, n, out=np.zeros_like(s1) + m0, where=n > 0.0)
    k = k0 + n
    m = m0 + n / k * (mean - m0)
    return m, k, a0 + 0.5 * n, b0 + 0.5 * spread + 0.5 * k0 * n * (mean - m0) ** 2 / k
